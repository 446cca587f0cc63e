"""Jobs of an ingest: which manifest lines it reads or refuses, and how they form tasks."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tensorstore as ts

from mmv_jax.buckets import Unreachable, is_address, place
from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import Line, Manifest, read_manifest
from mmv_jax.manifests.spelling import spellings
from mmv_jax.readers.archive import MARK
from mmv_jax.readers.deidentify import Key
from mmv_jax.readers.sources import bytes_of
from mmv_jax.store.file_marks import content_of, key_of_stamp, stamp_of
from mmv_jax.store.index import (
    carried_kinds,
    carried_texts,
    read_index,
)
from mmv_jax.store.labels import agreed_kinds, carry, choose_columns
from mmv_jax.store.lines_now import StoredRows, gone_from, versions_of_stored
from mmv_jax.store.log_edits import places_of
from mmv_jax.store.odd_across import odd_across
from mmv_jax.store.quarantine import OF_MANIFESTS, Quarantine
from mmv_jax.store.read import lost_studies, read_about
from mmv_jax.store.report import Report
from mmv_jax.store.task import (
    IngestTask,
    Job,
    Place,
    Refusal,
    Told,
)
from mmv_jax.store.told_of_manifests import begin_manifest

TASK_LINES = 512


LABEL = "label_"  # what the index puts before the name of a label
ANYBODY = ""  # stands for the patient of a study that a corrected line may give to another one
MODALITY = r"[A-Za-z][A-Za-z0-9+-]{0,15}"


# Bytes of files: a task then takes seconds to a minute. A lost machine loses the whole task.
TASK_BYTES = 64 << 20


@dataclass
class Jobs:
    """What an ingest has to do.

    Attributes:
      jobs: lines whose files are to be read.
      corrected: by study, the columns of the index that a corrected line says otherwise.
      replaced: studies whose voxels or masks a corrected line gives anew: they are read again.
      there: lines whose studies are in the store already.
      moved: studies that stand on another line now than when they were read.
    """

    jobs: list[Job] = field(default_factory=list)
    there: list[Job] = field(default_factory=list)
    corrected: dict[str, Mapping[str, object]] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    moved: dict[str, Place] = field(default_factory=dict)


def jobs_of(
    root: ts.KvStore,
    key: Key,
    ordinals: dict[int, Path],
    *,
    unit: str | None,
    report: Report,
    logs: tuple[Quarantine, Quarantine],
    correct: bool = False,
) -> Jobs:
    """Lines to read, and lines to correct.

    Stored studies are left alone or corrected; lines that contradict others are refused.

    Args:
      ordinals: path of each manifest, by its number in the store.
      unit: of the lines that name none.
      report: gets counts, refusals and warnings.
      logs: quarantine and warnings of the store.
      correct: whether a line that differs from the stored study replaces it.
    """
    (quarantine, warnings), index = logs, read_index(root)
    report.lost = lost_studies(read_about(root) or {}, index)
    rows, places, named, found = StoredRows(index), dict[Place, str](), set[str](), Jobs()
    there = dict(zip(index["study"], index["patient"]))
    splits = dict(zip(index["patient"], index["split"]))
    manifests = {ordinal: _read(path) for ordinal, path in ordinals.items()}
    if correct:
        _forget_moved(there, splits, key, manifests.values())
    chosen = {
        ordinal: choose_columns(
            [line.labels for line in lines],
            [line.patient_id for line in lines],
            carried=carried_texts(index),
        )
        for ordinal, (lines, _) in manifests.items()
    }
    versions = versions_of_stored(rows, manifests.values(), key)
    # One type per label, over the store and all manifests: a Parquet column has one type.
    kinds = agreed_kinds([carried_kinds(index), *(columns for columns, _ in chosen.values())])

    for ordinal, (lines, refused) in manifests.items():
        (columns, left), parts = chosen[ordinal], (lines, refused)
        report.not_carried |= {ordinals[ordinal].name: left} if left else {}
        begin_manifest(ordinal, parts, (columns, left), report=report, logs=logs)
        for line in lines:
            # Within one manifest its reader has compared all spellings.
            if len(manifests) > 1 or len(rows):
                _know_by_another_spelling(line, key, splits)
            own = {name: kinds[name] for name in columns}
            job = _job(line, ordinal, key, columns=own, unit=unit, versions=versions)
            study, patient = str(job.known["study"]), str(job.known["patient"])
            row = rows.of(study)
            named.add(study)
            if row.get("manifest") == ordinal and row["line"] != line.number:
                found.moved[study] = job.place
            if wrong := _contradiction(line, study, patient, there=there, splits=splits):
                report.refuse(Refusal(job.place, *wrong), quarantine)
                continue
            places[job.place] = study
            if study not in there:
                found.jobs.append(job)
                # From here on a later line of the same study counts as present.
                there[study] = patient
            elif told := _there_already(job, row, found, report, correct=correct):
                report.tell(told, warnings)
    for odd in (*gone_from(index, manifests, named), *odd_across(index, manifests, chosen)):
        report.tell(odd, warnings)
    _keep_up(warnings, places_of(index), found)
    warnings.studies = places
    return found


def _keep_up(warnings: Quarantine, before: Mapping[Place, str], found: Jobs) -> None:
    """Lets earlier warnings follow their studies to other lines, and drops those of files that are
    read again.
    """
    # Before lines are forgotten: those that moved are no longer the ones that are read.
    warnings.name_studies(before, but=OF_MANIFESTS)
    warnings.follow(found.moved)
    places, again = {job.place for job in found.jobs}, {job.known["study"] for job in found.jobs}
    # A study without a line may have stood where another one is read now: its warnings stay.
    warnings.keep(
        lambda entry: (
            entry["code"] in OF_MANIFESTS
            or (
                entry["study"] not in again
                if "study" in entry
                else (entry["manifest"], entry["line"]) not in places
            )
        )
    )


def _there_already(
    job: Job, row: Mapping[Hashable, Any], found: Jobs, report: Report, *, correct: bool
) -> Told | None:
    """Counts the line of a study that the store holds; notes what is to be corrected, or tells
    that the line differs.
    """
    columns, voxels = differing(job, row)
    study = str(job.known["study"])
    if not (correct and voxels):
        # Only its place and its files matter from here on.
        found.there.append(replace(job, known={}, secrets=()))
    if not columns and not voxels:
        report.already += 1
        return None
    if not correct:
        report.already += 1
        names = ", ".join(name.removeprefix("label_") for name in (*columns, *voxels))
        what = f"the store has another {names}, and keeps it: mmv ingest --correct takes the line's"
        return Told(job.place, "differs_from_store", what)
    report.corrected += 1
    if voxels:
        found.replaced.add(study)
        found.jobs.append(job)
    else:
        found.corrected[study] = job.known
    return None


def _forget_moved(
    there: dict[str, str], splits: dict[str, str], key: Key, manifests: Iterable[Manifest]
) -> None:
    """Lets corrected lines change patients and splits: a stored patient's split is forgotten where
    the manifests have all of the patient's studies, so that none stays behind in another one.
    """
    lines = [line for manifest in manifests for line in manifest.lines]
    listed = {
        key.hash("study", line.study_id)
        for line in lines
        if re.fullmatch(MODALITY, line.modality)  # others are refused, and stay as they are
    }
    staying = {patient for study, patient in there.items() if study not in listed}
    for patient in set(splits) - staying:
        del splits[patient]
    there.update(dict.fromkeys(listed & set(there), ANYBODY))


def _know_by_another_spelling(line: Line, key: Key, splits: dict[str, str]) -> None:
    """Add the split of a patient whom `splits` knows under another spelling of the id.

    Another manifest may spell the same id differently.
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
    """Code and reason why a line is refused; None if it is accepted.

    Args:
      there: the patient of each study that is or will be stored.
      splits: the split of each patient; the split of a new patient is added.
    """
    if not re.fullmatch(MODALITY, line.modality):
        return "bad_modality", "modality must be a short word such as CXR or CT"
    if there.get(study) not in (None, ANYBODY, patient):
        return "duplicate_study", "the store has this study_id for another patient"
    # The first line of a new patient decides; later ones must agree.
    if splits.setdefault(patient, line.split) != line.split:
        return "patient_across_splits", "the store has this patient in another split"
    return None


def _read(path: Path) -> Manifest:
    try:
        return read_manifest(path)
    except Unreachable:
        raise  # it names the address
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None


def _job(
    line: Line,
    ordinal: int,
    key: Key,
    *,
    columns: dict[str, type],
    unit: str | None,
    versions: Mapping[str, str],
) -> Job:
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
    paths += [part for path in paths if MARK in path for part in path.split(MARK)]
    files, salt = (str(line.path), *masks.values()), ""
    if any(map(is_address, files)):
        salt = key.hash("stamp", line.study_id)
    known["stamp"] = stamp_of(key_of_stamp(salt) if salt else key, files, versions)
    # A library's message may contain the path or only the file name.
    secrets = (line.study_id, line.patient_id, *paths, *(Path(path).name for path in paths))
    return Job(
        place=(ordinal, line.number),
        path=str(line.path),
        spacing_mm=line.spacing_mm,
        unit=line.unit or unit,
        masks=masks,
        known=known,
        secrets=secrets,
        salt=salt,
    )


def differing(job: Job, row: Mapping[Hashable, Any]) -> tuple[list[str], list[str]]:
    """Where a manifest line differs from the stored study.

    Returns:
      Columns of the index, and what is read from files ("masks", "unit", "spacing_mm").
    """
    if not row:
        return [], []
    # NaN (which differs from itself), None and "" all mean an empty cell.
    empty = [None, ""]
    names = [n for n in job.known if n not in ("line", "manifest", "stamp")]
    if row.get("manifest") == job.place[0]:
        # Labels whose column the manifest no longer has. Another manifest may never have had it.
        names += [str(n) for n in row if str(n).startswith(LABEL) and n not in job.known]
    columns = [
        n
        for n in names
        if (row.get(n) == row.get(n) and row.get(n) not in empty)
        | (job.known.get(n) == job.known.get(n) and job.known.get(n) not in empty)
        and row.get(n) != job.known.get(n)
    ]
    voxels = []
    if ",".join(job.masks) != (row["masks"] or ""):
        voxels.append("masks")
    elif _has_other_files(job, row):
        voxels.append("image or mask" if job.masks else "image")
    if job.unit in ("HU", "shape") and row["unit"] != job.unit:
        voxels.append("unit")
    mm = row["spacing_x"]
    # `not <=`, because a NaN in the store must count as different.
    if job.spacing_mm is not None and not abs(float(mm) - job.spacing_mm) <= 0.05 * job.spacing_mm:
        voxels.append("spacing_mm")
    return columns, voxels


def _has_other_files(job: Job, row: Mapping[Hashable, Any]) -> bool:
    """Whether the bytes of a line's files are others than those that its study was read from."""
    stamp, content = row.get("stamp"), row.get("content")
    # A store of an earlier version has neither.
    if not (isinstance(content, str) and content and job.known["stamp"]):
        return False
    if stamp == job.known["stamp"]:
        return False
    return content_of((job.path, *job.masks.values())) not in ("", content)


def tasks_of(found: Jobs, like: IngestTask) -> list[IngestTask]:
    """Tasks of consecutive lines, each with up to TASK_LINES lines or TASK_BYTES of files.

    Lines whose studies are stored count too. So an ingest that was killed makes of the rest the
    tasks, and thereby the parts, that it would have made.
    """
    blocks: dict[tuple[int, int], list[Job]] = defaultdict(list)
    for job in sorted([*found.there, *found.jobs], key=lambda job: job.place):
        manifest, line = job.place
        # By line numbers, so that whole blocks need no look at the sizes of their files.
        blocks[manifest, line // TASK_LINES].append(job)
    waiting = {job.place for job in found.jobs}
    tasks: list[list[Job]] = []
    for block in blocks.values():
        if not any(job.place in waiting for job in block):
            continue
        # Full from the start, so that the first job opens a task.
        size = TASK_BYTES
        for job in block:
            if size >= TASK_BYTES:
                tasks.append([])
                size = 0
            sizes = [bytes_of(place(path)) for path in (job.path, *job.masks.values())]
            job = replace(job, size=sum(n for n, _ in sizes), passed=sum(n for _, n in sizes))
            size += job.size
            if job.place in waiting:
                tasks[-1].append(job)
    return [replace(like, jobs=tuple(jobs)) for jobs in tasks if jobs]
