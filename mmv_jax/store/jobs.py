"""Manifest lines to jobs: which lines an ingest reads, which it refuses, and in which tasks."""

import os
import re
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorstore as ts

from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import Line, Manifest, read_manifest, spellings
from mmv_jax.readers.deidentify import Key
from mmv_jax.readers.dicom import SERIES_MARK
from mmv_jax.store.index import (
    carried_kinds,
    read_index,
)
from mmv_jax.store.labels import agreed_kinds, carry, choose_columns
from mmv_jax.store.quarantine import Quarantine
from mmv_jax.store.report import Report
from mmv_jax.store.task import (
    IngestTask,
    Job,
    Refusal,
    Told,
)
from mmv_jax.store.third_values import third_values

TASK_LINES = 512


MODALITY = r"[A-Za-z][A-Za-z0-9+-]{0,15}"


# of files: a task is then some seconds to a minute of work, and is lost as a whole when a machine
# is
TASK_BYTES = 64 << 20


def jobs_of(
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
    # One type a label, over the store and all manifests: Parquet columns have one type.
    kinds = agreed_kinds([carried_kinds(index), *(columns for columns, _ in chosen.values())])

    for ordinal, (lines, refused) in manifests.items():
        quarantine.forget(ordinal)
        for number, code, reason in refused:
            report.refuse(Refusal((ordinal, number), code, reason), quarantine)
        columns, left = chosen[ordinal]
        report.lines += len(lines) + len(refused)
        if left:
            report.not_carried[ordinals[ordinal].name] = left
        for number, reason in third_values(lines, columns):
            report.tell(Told((ordinal, number), "third_value", reason), warnings)
        for line in lines:
            _know_by_another_spelling(line, key, splits)
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
                # From here on a later line of the same study counts as there.
                there[study] = patient
    return jobs


def _know_by_another_spelling(line: Line, key: Key, splits: dict[str, str]) -> None:
    """Adds a new patient's split where the patient is in `splits` under another spelling of the id,
    which another manifest may have.
    """
    patient = key.hash("patient", line.patient_id)
    if patient in splits:
        return
    others = (splits.get(key.hash("patient", other)) for other in spellings(line.patient_id))
    known = next((split for split in others if split is not None), None)
    if known is not None:
        splits[patient] = known


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
    # The first line of a new patient decides; later ones must agree.
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
    # A library's message may hold the path or the file's name alone.
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


def differing(job: Job, row: Mapping[Hashable, Any]) -> list[str]:
    """The columns in which a manifest line differs from what the store holds of its study."""
    if not row:
        return []
    # NaN, which differs from itself, None and "" are all an empty cell
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
    # `not <=`, since a NaN in the store must count as different.
    if job.spacing_mm is not None and not abs(float(mm) - job.spacing_mm) <= 0.05 * job.spacing_mm:
        other.append("spacing_mm")
    return [name.removeprefix("label_") for name in other]


def tasks_of(jobs: list[Job], like: IngestTask) -> list[IngestTask]:
    """Lines that follow each other, up to TASK_LINES of them or TASK_BYTES of files."""
    tasks: list[list[Job]] = []
    # Full from the start, so that the first job opens the first task.
    size = TASK_BYTES
    for job in jobs:
        if size >= TASK_BYTES or len(tasks[-1]) >= TASK_LINES:
            tasks.append([])
            size = 0
        job = replace(job, size=sum(map(_bytes_of, (job.path, *job.masks.values()))))
        tasks[-1].append(job)
        size += job.size
    return [replace(like, jobs=tuple(jobs)) for jobs in tasks]


def _bytes_of(path: str) -> int:
    """Size of a file, or of a folder's files; 0 where it cannot be seen: the reader will say
    why.
    """
    folder, name = os.path.split(path)
    try:
        if name.startswith(SERIES_MARK) and not os.path.exists(path):
            path = folder  # a series among others: no more than all of them
        if os.path.isdir(path):
            return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
        return os.path.getsize(path)
    except OSError:
        return 0
