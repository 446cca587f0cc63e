"""Ingest: read the new lines of manifests and write them to a store.

Workers read the files and write them in parts. A broken file goes to quarantine and stops nothing.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorstore as ts

from mmv_jax.buckets import in_words, is_address
from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import manifests_of
from mmv_jax.provenance import versions
from mmv_jax.readers.deidentify import Key
from mmv_jax.readers.odd_bytes import odd_bytes
from mmv_jax.readers.odd_chest import odd_chest
from mmv_jax.readers.odd_extent import odd_extent
from mmv_jax.readers.odd_labels import odd_labels
from mmv_jax.readers.odd_masks import odd_masks
from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.readers.writing import BURNT_IN
from mmv_jax.store.edit import (
    changing,
    correct_lines,
    refuse_unfinished,
    renumber_lines,
    take_out,
)
from mmv_jax.store.index import (
    finished_parts,
    read_index,
    remove_whole_index,
    write_whole_index,
)
from mmv_jax.store.jobs import Jobs, jobs_of, tasks_of
from mmv_jax.store.layout import (
    FORMAT,
    PARTS,
    WARNINGS,
    open_root,
    prefix_range,
    remove_part,
)
from mmv_jax.store.leaks import leaks
from mmv_jax.store.lock import only_ingest
from mmv_jax.store.quarantine import Quarantine, forget_told, told_of_parts
from mmv_jax.store.read import STUDIES, UNFINISHED, read_about, write_about
from mmv_jax.store.report import MAX_REFUSED, Report
from mmv_jax.store.task import (
    Event,
    IngestTask,
    Job,
    Place,
    ReadFn,
    Refusal,
    Told,
    Writing,
    Written,
    write_task,
)
from mmv_jax.store.workers import ENGINES, TIMEOUT_S
from mmv_jax.study import Study

LABEL = "label_"  # what the index puts before the name of a label
CORRECTING = "ingest --correct"  # the name of that change in the store's mark


def read_line(job: Job) -> tuple[Study, dict[str, np.ndarray]]:
    """Study of a manifest line, and the masks on its grid by name."""
    study = read_study(job.path, spacing_mm=job.spacing_mm, unit=job.unit, burnt_in=job.burnt_in)
    masks = {name: read_mask(path, like=study) for name, path in job.masks.items()}
    labels = {
        name.removeprefix(LABEL): value
        for name, value in job.known.items()
        if name.startswith(LABEL)
    }
    modality = str(job.known.get("modality", ""))
    told = (*study.told, *odd_masks(study, masks, labels))
    told += (*odd_labels(study, labels, modality), *odd_chest(study, modality))
    told += (*odd_extent(study, modality), *odd_bytes(study))
    return replace(study, told=told), masks


def ingest(
    manifests: Sequence[str | Path],
    store: str | Path,
    *,
    workers: int | None = None,
    engine: str = "local",
    key_path: str | Path | None = None,
    unit: str | None = None,
    timeout_s: float = TIMEOUT_S,
    max_refused: float = MAX_REFUSED,
    burnt_in: str | None = None,
    correct: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    read_fn: ReadFn = read_line,
) -> Report:
    """Read every study of the manifests that the store does not hold yet, and write it.

    A killed ingest loses the parts it was writing; the same command then resumes. Lines that were
    refused are tried again.

    Args:
      manifests: CSV files (docs/architecture.md), or patterns of their paths; they and the files
        that they list may lie in a bucket.
      store: a folder, or a `gs://` or `s3://` address; created if it does not exist. Only one
        ingest may run at a time.
      workers: number of processes (or Ray tasks); all cores by default.
      engine: "local" or "ray".
      key_path: file of the secret key that gives studies their names. By default `<store>.key`
        beside the store, created at the first ingest. Keep it: a store accepts one key only.
      unit: unit of the lines that name none. Use "HU" if the files are in Hounsfield units but do
        not say so.
      timeout_s: wall time in s; a line whose files take longer to read is refused. Large files have
        one more second for every 2 MiB.
      max_refused: largest share of refused lines for which the report is `ok`.
      burnt_in: "refuse", "warn" of or "mask" writing in the pixels: legible colour, lines of grey
        letters, or a header that mentions text. With None, colour is refused, the rest told.
      correct: whether a line that differs from the stored study replaces it: labels, splits and
        patients in the index; masks, units and spacings by reading the files again. Otherwise the
        study stays as it is, and the line gives a warning.
      progress: called with (lines done, lines to do).
      read_fn: reads one line; a module-level function for formats of your own.
    Returns:
      Counts of ingested, present, corrected and refused lines.
    Raises:
      UserError: no manifest, wrong key, unknown engine, less than one worker, or another ingest is
        running.
      WorkFailed: a failure that no single file caused, such as a full disk.
    """
    began = time.monotonic()
    _check_options(engine, workers, burnt_in)
    _check_limits(timeout_s, max_refused)
    root = open_root(store)
    with in_words(str(store)), only_ingest(store, root) as still_alone:
        # Under the lock: of two first ingests only one may create the key.
        key = _open_key(store, key_path, is_new=read_about(root) is None)
        ordinals = _register(root, key, manifests, correct=correct)
        _remove_unfinished_parts(root)
        report = Report(max_refused=max_refused)
        quarantine, warnings = Quarantine(root), Quarantine(root, WARNINGS)
        logs = (quarantine, warnings)
        found = jobs_of(root, key, ordinals, unit=unit, report=report, logs=logs, correct=correct)
        _change(root, found, of=map(str, ordinals))
        if found.jobs or found.moved:
            # A stale whole index would hide the new parts if this ingest were killed.
            remove_whole_index(root)
        # Written first: the studies that entries name lead to these lines again if it is killed.
        warnings.write()
        renumber_lines(root, found.moved)
        found.jobs = [replace(job, burnt_in=burnt_in) for job in found.jobs]
        tasks = tasks_of(found, IngestTask(str(store), (), read_fn))
        events = ENGINES[engine](
            write_task, tasks, workers=workers or os.cpu_count() or 1, timeout_s=timeout_s
        )
        with (
            # Closing the generator stops the workers, also if this loop raises.
            contextlib.closing(events),
            contextlib.closing(quarantine),
            contextlib.closing(warnings),
        ):
            noted = _checked(events, still_alone)
            _note(noted, report, logs, progress, total=len(found.jobs))
            for told in leaks(read_index(root), set(ordinals)):
                report.tell(told, warnings)
            for told in told_of_parts(root, found.moved):
                warnings.add(told)
        # Not before the warnings are in their file: until then the parts keep them.
        forget_told(root)
        count = write_whole_index(root)
        write_about(root, (read_about(root) or {}) | {STUDIES: count})
    report.seconds = time.monotonic() - began
    return report


def _checked(events: Iterable[Event], check: Callable[[], None]) -> Iterator[Event]:
    """The events, with a check before each is noted."""
    for event in events:
        check()
        yield event
    check()


def _note(
    events: Iterable[Event],
    report: Report,
    logs: tuple[Quarantine, Quarantine],
    progress: Callable[[int, int], None],
    *,
    total: int,
) -> None:
    """Writes down what happens until all lines are read."""
    quarantine, warnings = logs
    settled: set[Place] = set()
    # A line is read again where the next one ended its worker: its warnings count once.
    told: set[Told] = set()
    for event in events:
        if isinstance(event, Refusal):
            report.refuse(event, quarantine)
            settled.add(event.place)
        elif isinstance(event, Told):
            if event not in told:
                report.tell(event, warnings)
            told.add(event)
        elif isinstance(event, Writing):
            settled.add(event.place)
        elif isinstance(event, Written):
            report.ingested += len(event.places)
            settled |= set(event.places)
        progress(len(settled), total)


def _change(root: ts.KvStore, found: Jobs, of: Iterable[str]) -> None:
    """Corrects the lines that are there; also where this was begun and killed."""
    if found.corrected or found.replaced or (read_about(root) or {}).get(UNFINISHED):
        with changing(root, CORRECTING, of=of):
            correct_lines(root, found.corrected)
            # What is read again is new to the store, also where this ingest is killed.
            take_out(root, found.replaced)


def _check_options(engine: str, workers: int | None, burnt_in: str | None) -> None:
    if engine not in ENGINES:
        raise UserError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise UserError(
            f"--workers is {workers}, but an ingest needs at least one. Leave it out for one per"
            " core."
        )
    if burnt_in not in (None, *BURNT_IN):
        raise UserError(f"burnt_in {burnt_in!r} is none of {', '.join(BURNT_IN)}")


def _check_limits(timeout_s: float, max_refused: float) -> None:
    # `not`, because NaN fails every comparison.
    if not timeout_s > 0:
        raise UserError(f"--timeout is {timeout_s:g}, but a line needs more than 0 s.")
    if not 0 <= max_refused <= 1:
        raise UserError(f"--max-refused is {max_refused:g}, but is a share from 0 to 1.")


def _open_key(store: str | Path, key_path: str | Path | None, *, is_new: bool) -> Key:
    if key_path is None:
        if is_address(store):
            raise UserError(
                "A store in a bucket needs --key FILE: the key stays with you, outside of the"
                " bucket."
            )
        key_path = str(store).rstrip("/") + ".key"
    if is_new and not Path(key_path).exists():
        # Another ingest, into another store, may make the same key in this moment.
        with contextlib.suppress(UserError):
            return Key.create(key_path)
    return Key.load(key_path)


def _register(
    root: ts.KvStore, key: Key, manifests: Sequence[str | Path], *, correct: bool
) -> dict[int, Path]:
    """Number of each manifest (1, 2, …) in the order in which the store first saw it.

    Manifests are recognised by a keyed hash of their path.

    Raises:
      UserError: no manifest, another key, or a change of the store that was not ended.
    """
    if not manifests:
        raise UserError(
            "No manifest given. Make one of a folder with: mmv manifest folder ROOT --out M.csv"
        )
    about = read_about(root) or {
        "format": FORMAT,
        "key_fingerprint": key.fingerprint,
        "manifests": [],
    }
    if about["key_fingerprint"] != key.fingerprint:
        raise UserError(
            f"This store names its studies by the key {about['key_fingerprint']}, and the key given"
            f" is {key.fingerprint}. Give the first one with --key FILE, or ingest into another"
            " store."
        )
    refuse_unfinished(about, but=CORRECTING if correct else "")
    ordinals = {}
    for path in manifests_of(manifests):
        name = key.hash("manifest", str(path.resolve()))
        if name not in about["manifests"]:
            about["manifests"].append(name)
        # From 1, and permanent: (manifest, line) is the name of a line in every log.
        ordinals[about["manifests"].index(name) + 1] = path
    about["versions"] = versions()  # of what wrote to it last
    write_about(root, about)
    return ordinals


def _remove_unfinished_parts(root: ts.KvStore) -> None:
    begun = {key.decode().split("/")[1] for key in root.list(prefix_range(PARTS)).result()}
    # Safe only under the lock: a running ingest has parts without an index.
    for part in begun - set(finished_parts(root)):
        remove_part(root, part)
