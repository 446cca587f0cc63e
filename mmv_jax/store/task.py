"""What a worker does: reads the files of some manifest lines, and writes them as parts. The same
function runs in every engine.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mmv_jax.store.index import read_index
from mmv_jax.store.layout import open_root
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study

# (manifest, line): the only name that a line has in logs and in the quarantine
Place = tuple[int, int]


@dataclass(frozen=True)
class Job:
    """One manifest line. `path`, `masks` and `secrets` stay in the worker; `known` goes into the
    index.
    """

    place: Place
    path: str
    spacing_mm: float | None
    unit: str | None
    masks: Mapping[str, str]
    known: Mapping[str, object]
    secrets: tuple[str, ...]  # texts that must not leave in a message: ids and paths
    burnt_in: str | None = None  # what is to be done about writing in the pixels
    size: int = 0  # bytes of its files, as far as they can be seen


ReadFn = Callable[[Job], tuple[Study, Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class IngestTask:
    """Lines that one worker reads one after the other. Repeating a task, or a part of it, changes
    nothing that is finished.
    """

    store: str
    jobs: tuple[Job, ...]
    read_fn: ReadFn
    deaths: int = field(default=0)  # of workers, while no file was being read


@dataclass(frozen=True)
class Reading:
    place: Place


@dataclass(frozen=True)
class Writing:
    """A file is read, and goes into a part: what happens until the next `Reading` is no file's
    fault.
    """

    place: Place


@dataclass(frozen=True)
class Refusal:
    place: Place
    code: str
    reason: str


@dataclass(frozen=True)
class Told:
    """A file is taken in, and something is odd about it."""

    place: Place
    code: str
    reason: str


@dataclass(frozen=True)
class Written:
    """A part is finished and can be read."""

    places: tuple[Place, ...]


Event = Reading | Writing | Refusal | Told | Written


def write_task(task: IngestTask) -> Iterator[Event]:
    """Reads each file once, refuses what is broken, and writes the rest; yields what happened as it
    happens.

    A part is named by its first study, so that a task that is repeated after a lost machine finds
    the parts it had finished, and writes the others over.
    """
    from mmv_jax.readers.read import import_readers

    import_readers()
    root = open_root(task.store)
    open_parts: dict[int, PartWriter] = {}
    finished: set[str] = set()
    for job in task.jobs:
        # Studies of a part that an earlier run of this task had written.
        if job.known["study"] in finished:
            continue
        yield Reading(job.place)
        read = _read(job, task.read_fn)
        if isinstance(read, Refusal):
            yield read
            continue
        for code, reason in read[0].told:
            yield Told(job.place, code, without(reason, job.secrets))
        yield Writing(job.place)
        ndim = read[0].ndim
        if ndim not in open_parts:
            name = f"{job.known['study']}-{ndim}d"
            # The name follows from the first study, so a repeated task meets its own finished part.
            lines = read_index(root, name)
            if len(lines):
                finished |= set(lines["study"])
                yield Written(tuple(zip(lines["manifest"].tolist(), lines["line"].tolist())))
                continue
            open_parts[ndim] = PartWriter(root, name, ndim)
        open_parts[ndim].add(*read, job.known)
        del read  # the next file is read before this name is bound again
        if open_parts[ndim].is_full:
            yield _close(open_parts.pop(ndim))
    for part in open_parts.values():
        yield _close(part)


def _read(job: Job, read_fn: ReadFn) -> tuple[Study, Mapping[str, np.ndarray]] | Refusal:
    try:
        study, masks = read_fn(job)
        problem = _problem(study, masks)
    except (KeyboardInterrupt, SystemExit):
        raise
    except MemoryError:
        problem = ("too_large", "the file needs more memory than this machine has")
    # decoders written in Rust raise PanicException, which is no Exception
    except BaseException as error:
        code = getattr(error, "code", "unreadable")
        reason = getattr(error, "reason", f"the reader failed with {type(error).__name__}")
        problem = (code, reason)
    if problem is None:
        return study, masks
    return Refusal(job.place, problem[0], without(problem[1], job.secrets))


def _problem(study: Study, masks: Mapping[str, np.ndarray]) -> tuple[str, str] | None:
    """What no store should hold, whoever read it."""
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
    """`text` with every secret of three or more characters blotted out: readers promise to quote
    none, and this holds them to it.
    """
    for secret in sorted((s for s in secrets if len(s) > 2), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def _close(part: PartWriter) -> Written:
    part.close()
    return Written(tuple((line["manifest"], line["line"]) for line in part.lines))
