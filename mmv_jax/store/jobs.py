"""Jobs of an ingest: which manifest lines it reads or refuses, and how they form tasks."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tensorstore as ts

from mmv_jax.buckets import Unreachable, place
from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import Line, Manifest, read_manifest
from mmv_jax.manifests.spelling import spellings
from mmv_jax.readers.archive import MARK
from mmv_jax.readers.deidentify import Key
from mmv_jax.readers.sources import bytes_of
from mmv_jax.store.file_marks import content_of, stamp_of
from mmv_jax.store.index import (
    carried_kinds,
    read_index,
)
from mmv_jax.store.labels import agreed_kinds, carry, choose_columns
from mmv_jax.store.odd_columns import odd_columns
from mmv_jax.store.personal import TIME_ALONE
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


LABEL = "label_"  # what the index puts before the name of a label
ANYBODY = ""  # stands for the patient of a study that a corrected line may give to another one
# told of manifest lines, and so again at each ingest of the manifest
OF_MANIFESTS = (
    "third_value",
    "not_carried",
    "odd_column",
    "odd_numbers",
    "odd_patients",
    "word_for_missing",
    "file_twice",
    "may_name_someone",
    "differs_from_store",
    "image_across_splits",
    "near_duplicate_across_splits",
)
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
    """

    jobs: list[Job] = field(default_factory=list)
    there: list[Job] = field(default_factory=list)
    corrected: dict[str, Mapping[str, object]] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)


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
    quarantine, warnings = logs
    index = read_index(root)
    rows = {row["study"]: row for row in index.to_dict("records")}
    there = dict(zip(index["study"], index["patient"]))
    splits = dict(zip(index["patient"], index["split"]))
    manifests = {ordinal: _read(path) for ordinal, path in ordinals.items()}
    if correct:
        _forget_moved(there, splits, key, manifests.values())
    found = Jobs()
    chosen = {
        ordinal: choose_columns(
            [line.labels for line in lines], [line.patient_id for line in lines]
        )
        for ordinal, (lines, _) in manifests.items()
    }
    # One type per label, over the store and all manifests: a Parquet column has one type.
    kinds = agreed_kinds([carried_kinds(index), *(columns for columns, _ in chosen.values())])

    for ordinal, (lines, refused) in manifests.items():
        quarantine.forget(ordinal)
        warnings.forget(ordinal, codes=OF_MANIFESTS)
        for number, code, reason in refused:
            report.refuse(Refusal((ordinal, number), code, reason), quarantine)
        columns, left = chosen[ordinal]
        report.lines += len(lines) + len(refused)
        if left:
            report.not_carried[ordinals[ordinal].name] = left
        for odd in _told_of(ordinal, lines, columns):
            report.tell(odd, warnings)
        for odd in _left_behind(ordinal, lines, left):
            warnings.add(odd)  # the report has a heading of its own for them
        for line in lines:
            # Within one manifest its reader has compared all spellings.
            if len(manifests) > 1 or rows:
                _know_by_another_spelling(line, key, splits)
            job = _job(
                line, ordinal, key=key, columns={name: kinds[name] for name in columns}, unit=unit
            )
            study, patient = str(job.known["study"]), str(job.known["patient"])
            if wrong := _contradiction(line, study, patient, there=there, splits=splits):
                report.refuse(Refusal(job.place, *wrong), quarantine)
            elif study not in there:
                found.jobs.append(job)
                # From here on a later line of the same study counts as present.
                there[study] = patient
            elif told := _there_already(job, rows.get(study, {}), found, report, correct=correct):
                report.tell(told, warnings)
    # What an earlier reading said of files that are read again.
    warnings.forget_lines({job.place for job in found.jobs}, but=OF_MANIFESTS)
    return found


def _told_of(ordinal: int, lines: Sequence[Line], columns: Mapping[str, type]) -> Iterator[Told]:
    for number, reason in third_values(lines, columns):
        yield Told((ordinal, number), "third_value", reason)
    for number, code, reason in odd_columns(lines, columns):
        yield Told((ordinal, number), code, reason)


def _left_behind(ordinal: int, lines: Sequence[Line], left: Sequence[str]) -> Iterator[Told]:
    """A warning for each column that stays behind. Its name may name someone, and is not quoted."""
    named = list(dict.fromkeys(name for line in lines for name in line.labels))
    for name in left:
        cells = {line.number: line.labels[name] for line in lines if name in line.labels}
        what = f"column {named.index(name) + 1} of the labels stays behind: it may name someone"
        if all(TIME_ALONE.fullmatch(cell.strip()) for cell in cells.values()):
            what += " by times of day; write durations as numbers"
        yield Told((ordinal, min(cells)), "not_carried", what)


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
    paths += [part for path in paths if MARK in path for part in path.split(MARK)]
    # A library's message may contain the path or only the file name.
    known["stamp"] = stamp_of(key, (str(line.path), *masks.values()))
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
    # A store of an earlier version has neither; an archive or a bucket is not looked at.
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
