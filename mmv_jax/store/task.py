"""Task of a worker: read the files of some manifest lines and write them as parts.

The same function runs in every engine.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmv_jax.buckets import Unreachable
from mmv_jax.readers.sources import fetched
from mmv_jax.store.index import read_index
from mmv_jax.store.layout import open_root
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study

# (manifest, line): the only name of a line in logs and in the quarantine.
Place = tuple[int, int]


@dataclass(frozen=True)
class Job:
    """One manifest line.

    `path`, `masks` and `secrets` stay in the worker; `known` goes into the index.

    Attributes:
      spacing_mm: mm per pixel in plane, from the manifest.
      masks: name -> path.
      known: columns of the index: names, split, labels.
    """

    place: Place
    path: str
    spacing_mm: float | None
    unit: str | None
    masks: Mapping[str, str]
    known: Mapping[str, object]
    secrets: tuple[str, ...]  # ids and paths: texts that must not appear in a message
    burnt_in: str | None = None  # what to do about writing in the pixels
    size: int = 0  # bytes of its files, as far as they can be seen
    passed: int = 0  # bytes of a gzipped tar, which is inflated up to its member
    salt: str = ""  # of the stamp of files in a bucket, whose versions only the worker sees


ReadFn = Callable[[Job], tuple[Study, Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class IngestTask:
    """Lines that one worker reads in sequence.

    Repeating a task, or a part of it, changes nothing that is finished.
    """

    store: str
    jobs: tuple[Job, ...]
    read_fn: ReadFn
    deaths: int = field(default=0)  # deaths of workers while no file was being read


@dataclass(frozen=True)
class Reading:
    """A file is being read.

    Attributes:
      size: bytes of its files where the task did not know them, as of those in a bucket.
    """

    place: Place
    size: int = 0


@dataclass(frozen=True)
class Writing:
    """A file was read and goes into a part.

    A failure before the next `Reading` is not its fault.
    """

    place: Place


@dataclass(frozen=True)
class Refusal:
    """A file is refused, with a code and a reason."""

    place: Place
    code: str
    reason: str


@dataclass(frozen=True)
class Told:
    """A file is ingested with a warning."""

    place: Place
    code: str
    reason: str


@dataclass(frozen=True)
class Written:
    """A part is finished and can be read."""

    places: tuple[Place, ...]


def entry_of(about: Refusal | Told) -> dict[str, Any]:
    """Line of the quarantine or of the warnings."""
    manifest, line = about.place
    return {"manifest": manifest, "line": line, "code": about.code, "reason": about.reason}


Event = Reading | Writing | Refusal | Told | Written


def write_task(task: IngestTask) -> Iterator[Event]:
    """Read each file once, refuse broken ones and write the rest; yield events as they happen.

    A part is named by its first study. A task repeated after a lost machine finds its finished
    parts, and overwrites the others.
    """
    # Here, since they need pydicom: what is told of a store reads this module, and no study.
    from mmv_jax.readers.read import import_readers
    from mmv_jax.store.file_marks import marks_of_read

    import_readers()
    root = open_root(task.store)
    open_parts: dict[int, PartWriter] = {}
    finished: set[str] = set()
    for job in task.jobs:
        # Studies of a part that an earlier run of this task has written.
        if job.known["study"] in finished:
            continue
        # Fetched before the clock of the line runs: a slow network is no fault of a file.
        with fetched((job.path, *job.masks.values())) as size:
            yield Reading(job.place, size)
            read = _read(job, task.read_fn)
        if isinstance(read, Refusal):
            yield read
            continue
        told = [
            Told(job.place, code, without(reason, job.secrets)) for code, reason in read[0].told
        ]
        yield from told
        yield Writing(job.place)
        ndim = read[0].ndim
        if ndim not in open_parts:
            name = f"{job.known['study']}-{ndim}d"
            # The name depends on the first study, so a repeated task meets its own finished part.
            lines = read_index(root, name)
            # A study that was taken out leaves a part of its name, which holds others.
            while len(lines) and job.known["study"] not in set(lines["study"]):
                name += "b"
                lines = read_index(root, name)
            if len(lines):
                finished |= set(lines["study"])
                yield Written(tuple(zip(lines["manifest"].tolist(), lines["line"].tolist())))
                continue
            open_parts[ndim] = PartWriter(root, name, ndim)
        marks = marks_of_read((job.path, *job.masks.values()), job.salt)
        open_parts[ndim].add(*read, {**job.known, **marks})
        open_parts[ndim].told += (entry_of(t) | {"study": job.known["study"]} for t in told)
        del read  # otherwise both studies would be in memory while the next file is read
        if open_parts[ndim].is_full:
            yield _close(open_parts.pop(ndim))
    for part in open_parts.values():
        yield _close(part)


def _read(job: Job, read_fn: ReadFn) -> tuple[Study, Mapping[str, np.ndarray]] | Refusal:
    try:
        study, masks = read_fn(job)
        problem = _problem(study, masks)
    except (KeyboardInterrupt, SystemExit, Unreachable):
        raise
    except MemoryError:
        problem = ("too_large", "the file needs more memory than this machine has")
    # Decoders written in Rust raise PanicException, which is not an Exception.
    except BaseException as error:
        code = getattr(error, "code", "unreadable")
        reason = getattr(error, "reason", f"the reader failed with {type(error).__name__}")
        problem = (code, reason)
    if problem is None:
        return study, masks
    return Refusal(job.place, problem[0], without(problem[1], job.secrets))


def _problem(study: Study, masks: Mapping[str, np.ndarray]) -> tuple[str, str] | None:
    """Code and reason why a store must not hold the study, whoever read it; else None."""
    low, high = study.voxels.min(), study.voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return "not_finite", "voxels are NaN or infinite"
    if low == high:
        return "constant", "every voxel has the same value"
    if any(mm <= 0 for mm in study.spacing_mm):
        return "bad_spacing", "a spacing is not more than 0 mm"
    for name, mask in masks.items():
        if mask.shape != study.voxels.shape:
            return "mask_grid", f"{name} has the grid {mask.shape}, the study {study.voxels.shape}"
        if mask.size and not -(1 << 15) <= int(mask.min()) <= int(mask.max()) < 1 << 15:
            return "mask_values", f"{name} has values that do not fit into 16 bits"
    return None


def without(text: str, secrets: tuple[str, ...]) -> str:
    """`text` with every secret of three or more characters replaced by "…".

    Readers promise to quote no secret; this enforces it.
    """
    for secret in sorted((s for s in secrets if len(s) > 2), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def _close(part: PartWriter) -> Written:
    part.close()
    return Written(tuple((line["manifest"], line["line"]) for line in part.lines))
