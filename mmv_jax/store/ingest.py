"""Manifests to a store: what is new is read by workers and written in parts; what is broken is
quarantined and stops nothing.
"""

import contextlib
import fcntl
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import tensorstore as ts

from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import Line, Manifest, read_manifest
from mmv_jax.readers.deidentify import Key
from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.store.index import (
    carried_kinds,
    finished_parts,
    read_index,
    remove_whole_index,
    write_whole_index,
)
from mmv_jax.store.labels import agreed_kinds, carry, choose_columns
from mmv_jax.store.layout import (
    FORMAT,
    PARTS,
    STORE_JSON,
    WARNINGS,
    open_root,
    prefix_range,
    remove_part,
)
from mmv_jax.store.quarantine import Quarantine
from mmv_jax.store.read import read_about
from mmv_jax.store.task import (
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
from mmv_jax.store.workers import ENGINES
from mmv_jax.study import Study

TASK_LINES = 512
MAX_REFUSED = 0.5
MODALITY = r"[A-Za-z][A-Za-z0-9+-]{0,15}"
# of files: a task is then some seconds to a minute of work, and is lost as a whole when a machine
# is
TASK_BYTES = 64 << 20


@dataclass
class Report:
    """What an ingest did."""

    lines: int = 0  # of the manifests
    ingested: int = 0
    already: int = 0  # were in the store before
    refused: Counter[str] = field(default_factory=Counter)  # by code
    told: Counter[str] = field(default_factory=Counter)  # by code: taken in, and odd
    max_refused: float = MAX_REFUSED  # share of the lines, beyond which the ingest has failed
    # columns that stayed behind, by manifest
    not_carried: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the store holds anything of these manifests, and no more of their lines were
        refused than may be: what `mmv ingest` makes its exit code of.
        """
        few = self.refused.total() <= self.max_refused * self.lines
        return self.ingested + self.already > 0 and few

    def tell(self, told: Told, warnings: Quarantine) -> None:
        self.told[told.code] += 1
        warnings.add(told)

    def refuse(self, refusal: Refusal, quarantine: Quarantine) -> None:
        self.refused[refusal.code] += 1
        quarantine.add(refusal)

    def __str__(self) -> str:
        codes = ", ".join(f"{n} {code}" for code, n in self.refused.most_common()) or "none"
        text = (
            f"{self.ingested} studies ingested in {self.seconds:.0f} s, {self.already} were there"
            f" already, refused: {codes}."
        )
        if self.told:
            told = ", ".join(f"{n} {code}" for code, n in self.told.most_common())
            text += f"\nTaken in, and to be looked at (warnings.jsonl): {told}."
        if self.refused.total() > self.max_refused * self.lines:
            text += (
                f"\nMore than {self.max_refused:.0%} of the lines were refused (--max-refused):"
                " quarantine.jsonl says why."
            )
        for manifest, columns in self.not_carried.items():
            text += (
                f"\n{manifest}: columns not carried (they may name someone): {', '.join(columns)}"
            )
        return text


def read_line(job: Job) -> tuple[Study, dict[str, np.ndarray]]:
    """The study of a manifest line and the masks on its grid."""
    study = read_study(job.path, spacing_mm=job.spacing_mm, unit=job.unit)
    return study, {name: read_mask(path, like=study) for name, path in job.masks.items()}


def ingest(
    manifests: Sequence[str | Path],
    store: str | Path,
    *,
    workers: int | None = None,
    engine: str = "local",
    key_path: str | Path | None = None,
    unit: str | None = None,
    timeout_s: float = 300.0,
    max_refused: float = MAX_REFUSED,
    burnt_in: str = "warn",
    progress: Callable[[int, int], None] = lambda done, total: None,
    read_fn: ReadFn = read_line,
) -> Report:
    """Reads every study of the manifests that the store does not hold yet, and writes it.

    A killed ingest loses the parts it was writing; the same command then goes on. Lines that were
    refused are tried again.

    Args:
      manifests: CSV files (docs/architecture.md).
      store: a folder, or a `gs://` or `s3://` address; made where it does not exist. One ingest at
        a time.
      workers: processes (or Ray tasks) at a time; all cores by default.
      engine: "local" or "ray".
      key_path: the secret by which studies are named. By default `<store>.key` beside the store,
        made at the first ingest. It must be kept: another key gives other names, and a store takes
        one key only.
      unit: of the lines that name none: "HU" where it is known that the files are in Hounsfield
        units and do not say so themselves.
      timeout_s: a file that takes longer to read is refused.
      max_refused: share of the lines that may be refused without the report being not `ok`.
      burnt_in: "warn" of files whose header speaks of text in the pixels, or "refuse" them.
      progress: is told (lines dealt with, lines to deal with).
      read_fn: reads one line; a module-level function of your own for formats of your own.
    Raises:
      UserError: no manifest, another key, an unknown engine, no worker, an ingest that runs
        already.
      WorkFailed: what no single file can be blamed for, such as a full disk.
    """
    began = time.monotonic()
    if engine not in ENGINES:
        raise UserError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise UserError(
            f"--workers is {workers}, and an ingest needs one at least. Leave it out for one a"
            " core."
        )
    root = open_root(store)
    with _only_ingest(store):
        key = _open_key(store, key_path, is_new=read_about(root) is None)
        ordinals = _register(root, key, manifests)
        _remove_unfinished_parts(root)
        report = Report(max_refused=max_refused)
        quarantine, warnings = Quarantine(root), Quarantine(root, WARNINGS)
        jobs = _jobs(root, key, ordinals, unit=unit, report=report, logs=(quarantine, warnings))
        if jobs:
            remove_whole_index(root)
        refused_codes = frozenset({"burnt_in"} if burnt_in == "refuse" else ())
        tasks = _tasks(jobs, IngestTask(str(store), (), read_fn, refused_codes))
        settled: set[Place] = set()
        events = ENGINES[engine](
            write_task, tasks, workers=workers or os.cpu_count() or 1, timeout_s=timeout_s
        )
        with (
            contextlib.closing(events),
            contextlib.closing(quarantine),
            contextlib.closing(warnings),
        ):
            for event in events:
                if isinstance(event, Refusal):
                    report.refuse(event, quarantine)
                    settled.add(event.place)
                elif isinstance(event, Told):
                    report.tell(event, warnings)
                elif isinstance(event, Writing):
                    settled.add(event.place)
                elif isinstance(event, Written):
                    report.ingested += len(event.places)
                    settled |= set(event.places)
                progress(len(settled), len(jobs))
            for told in leaks(read_index(root), set(ordinals)):
                report.tell(told, warnings)
        write_whole_index(root)
    report.seconds = time.monotonic() - began
    return report


@contextlib.contextmanager
def _only_ingest(store: str | Path) -> Iterator[None]:
    """Holds the store of a file system against a second ingest, whose unfinished parts the first
    would remove.
    """
    if "://" in str(store):
        yield
        return
    Path(store).mkdir(parents=True, exist_ok=True)
    with open(Path(store) / "ingest.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another ingest writes to {store}. Wait for it, or give this one another store."
            ) from None
        yield


def _open_key(store: str | Path, key_path: str | Path | None, *, is_new: bool) -> Key:
    if key_path is None:
        if "://" in str(store):
            raise UserError(
                "A store in a bucket needs --key FILE: the key stays with you, outside of the"
                " bucket."
            )
        key_path = str(store).rstrip("/") + ".key"
    if is_new and not Path(key_path).exists():
        return Key.create(key_path)
    return Key.load(key_path)


def _register(root: ts.KvStore, key: Key, manifests: Sequence[str | Path]) -> dict[int, Path]:
    """Numbers the manifests in the order in which the store met them (1, 2, …), known by keyed
    hash; refuses another key.
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
    ordinals = {}
    for path in map(Path, manifests):
        name = key.hash("manifest", str(path.resolve()))
        if name not in about["manifests"]:
            about["manifests"].append(name)
        ordinals[about["manifests"].index(name) + 1] = path
    root.write(STORE_JSON, json.dumps(about, indent=1).encode()).result()
    return ordinals


def _remove_unfinished_parts(root: ts.KvStore) -> None:
    begun = {key.decode().split("/")[1] for key in root.list(prefix_range(PARTS)).result()}
    for part in begun - set(finished_parts(root)):
        remove_part(root, part)


def _jobs(
    root: ts.KvStore,
    key: Key,
    ordinals: dict[int, Path],
    *,
    unit: str | None,
    report: Report,
    logs: tuple[Quarantine, Quarantine],
) -> list[Job]:
    """The lines that are to be read. A study that is there is left alone; lines that contradict
    others are refused.
    """
    quarantine, warnings = logs
    index = read_index(root)
    rows = {row["study"]: row for row in index.to_dict("records")}
    there = dict(zip(index["study"], index["patient"]))
    splits = dict(zip(index["patient"], index["split"]))
    jobs: list[Job] = []
    manifests = {ordinal: _read(path) for ordinal, path in ordinals.items()}
    chosen = {
        ordinal: choose_columns(
            [line.labels for line in lines], [line.patient_id for line in lines]
        )
        for ordinal, (lines, _) in manifests.items()
    }
    kinds = agreed_kinds([carried_kinds(index), *(columns for columns, _ in chosen.values())])

    for ordinal, (lines, refused) in manifests.items():
        quarantine.forget(ordinal)
        for number, code, reason in refused:
            report.refuse(Refusal((ordinal, number), code, reason), quarantine)
        columns, left = chosen[ordinal]
        report.lines += len(lines) + len(refused)
        if left:
            report.not_carried[ordinals[ordinal].name] = left
        for line in lines:
            job = _job(
                line, ordinal, key=key, columns={name: kinds[name] for name in columns}, unit=unit
            )
            study, patient = str(job.known["study"]), str(job.known["patient"])
            if wrong := _contradiction(line, study, patient, there=there, splits=splits):
                report.refuse(Refusal(job.place, *wrong), quarantine)
            elif study in there:
                report.already += 1
                other = differing(job, rows.get(study, {}))
                if other:
                    what = f"the store has another {', '.join(other)}: a study that is there stays"
                    report.tell(Told(job.place, "differs_from_store", what), warnings)
            else:
                jobs.append(job)
                there[study] = patient
    return jobs


def _contradiction(
    line: Line, study: str, patient: str, *, there: dict[str, str], splits: dict[str, str]
) -> tuple[str, str] | None:
    """(code, reason) by which a line is refused; None where nothing speaks against it.

    Args:
      there: the patient of each study that is stored or will be.
      splits: that of each patient; of a patient who is new, the line's is added.
    """
    if not re.fullmatch(MODALITY, line.modality):
        return "bad_modality", "modality must be a short word such as CXR or CT"
    if there.get(study, patient) != patient:
        return "duplicate_study", "the store has another patient's study of this study_id"
    if splits.setdefault(patient, line.split) != line.split:
        return "patient_across_splits", "the store has the patient in another split"
    return None


def _read(path: Path) -> Manifest:
    try:
        return read_manifest(path)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None


def _job(line: Line, ordinal: int, key: Key, columns: dict[str, type], unit: str | None) -> Job:
    known: dict[str, object] = {
        "study": key.hash("study", line.study_id),
        "patient": key.hash("patient", line.patient_id),
    }
    known |= {
        "line": line.number,
        "manifest": ordinal,
        "split": line.split,
        "modality": line.modality,
        **carry(line.labels, columns),
    }
    masks = {name: str(path) for name, path in line.masks.items()}
    paths = [str(line.path), *masks.values()]
    secrets = (line.study_id, line.patient_id, *paths, *(Path(path).name for path in paths))
    return Job(
        place=(ordinal, line.number),
        path=str(line.path),
        spacing_mm=line.spacing_mm,
        unit=line.unit or unit,
        masks=masks,
        known=known,
        secrets=secrets,
    )


def differing(job: Job, row: Mapping[str, object]) -> list[str]:
    """The columns in which a manifest line differs from what the store holds of its study."""
    if not row:
        return []
    # NaN and None are both an empty cell
    empty = [None, ""]
    names = [n for n, value in job.known.items() if n not in ("line", "manifest")]
    other = [
        n
        for n in names
        if (row.get(n) == row.get(n) and row.get(n) not in empty)
        | (job.known[n] == job.known[n] and job.known[n] not in empty)
        and row.get(n) != job.known[n]
    ]
    if ",".join(job.masks) != (row["masks"] or ""):
        other.append("masks")
    if job.unit in ("HU", "shape") and row["unit"] != job.unit:
        other.append("unit")
    mm = row["spacing_x"]
    if job.spacing_mm is not None and not abs(float(mm) - job.spacing_mm) <= 0.05 * job.spacing_mm:
        other.append("spacing_mm")
    return [name.removeprefix("label_") for name in other]


def leaks(index: pd.DataFrame, ordinals: Collection[int]) -> Iterator[Told]:
    """The lines of some manifests whose very pixels stand in another split, too."""
    if index.empty:
        return
    same = ["checksum", "grid_z", "grid_y", "grid_x", "low", "high"]
    for _, group in index.groupby(same, sort=False):
        if group["split"].nunique() < 2:
            continue
        for manifest, line in zip(group["manifest"], group["line"]):
            if manifest in ordinals:
                reason = "the same pixels are in another split: a leak"
                yield Told((int(manifest), int(line)), "image_across_splits", reason)


def _tasks(jobs: list[Job], like: IngestTask) -> list[IngestTask]:
    """Lines that follow each other, up to TASK_LINES of them or TASK_BYTES of files."""
    tasks: list[list[Job]] = []
    size = TASK_BYTES
    for job in jobs:
        if size >= TASK_BYTES or len(tasks[-1]) >= TASK_LINES:
            tasks.append([])
            size = 0
        tasks[-1].append(job)
        size += _bytes_of(job.path)
    return [replace(like, jobs=tuple(jobs)) for jobs in tasks]


def _bytes_of(path: str) -> int:
    """Size of a file, or of a folder's files; 0 where it cannot be seen: the reader will say
    why.
    """
    try:
        if os.path.isdir(path):
            return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
        return os.path.getsize(path)
    except OSError:
        return 0
