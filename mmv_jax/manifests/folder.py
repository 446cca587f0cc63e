"""Manifest of a folder of any files: which are studies, which are masks, and of which patient."""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pydicom

from mmv_jax.manifests.archived import ARCHIVE, FoundFile, header_of, holds_members, look_into
from mmv_jax.manifests.label_maps import TEST_FOLDER, VAL_FOLDER, FolderStudy, studies_and_masks
from mmv_jax.manifests.published import Row, Tell, split_of
from mmv_jax.readers.archive import MARK
from mmv_jax.readers.dicom import is_image, series_name
from mmv_jax.readers.read import FORMATS, format_of

# Each file of these modalities is a study, whatever its series.
PROJECTIONS = {"CR", "DX", "MG", "RF", "XA", "PX", "IO", "XC"}
VIEW_IN_ID = re.compile(r"[_-](L|R|LEFT|RIGHT)[_-]?(CC|MLO|ML|LM|XCCL)([_-].*|\d.*)?$", re.I)


def list_folder(root: Path, tell: Tell, starts: Sequence[Path] = ()) -> Iterator[Row]:
    """Rows for every image below `root`, recognised by content, also in zip and tar archives.

    DICOM files of one series in one directory are one study, whose path is the directory. If the
    directory holds several series, each has a row `DIRECTORY/#name`. A file in an archive is
    `ARCHIVE::MEMBER`.

    The patient is DICOM's PatientID, without the view that some archives write into it. Otherwise
    it is a BIDS folder (`sub-...`), or the case whose channels or sequences lie side by side.
    Failing all these, each study counts as its own patient; the user must correct that if it is
    wrong.

    Splits are 80 : 10 : 10 by a hash of the patient; `imagesTs` is "test", `imagesVal` "val".
    `label_maps` finds the masks and their studies. `tell` gets the counts of the files left out.

    Args:
      starts: folders and files below `root` that are listed; all of it without them.
    """
    left: Counter[str] = Counter()
    rows: list[Row] = []
    images: dict[PurePosixPath, str] = {}  # each with its format
    for folder, files in _folders(root, starts or [root], left):
        seen = [_look(file) for file in files]
        rows += _rows_of(folder, seen, images, left)
        for file in files:
            inside = PurePosixPath(f"{folder / file.name}{MARK}")
            for below, members in look_into(file, left).items():
                rows += _rows_of(inside / below, members, images, left)
    studies, orphans, derived = studies_and_masks(list(images))
    people = _participants(root)
    for study in studies:
        noun = FORMATS[images[study.path]].noun
        rows.append(_row(study, noun) | people.get(study.patient, {}))
    left["masks without an image"], left["derived images of BIDS"] = orphans, derived
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(left.items()) if n)
    if kinds:
        tell(f"Left out: {kinds}.")
    if alone := sum(row["patient_id"] == row["study_id"] for row in rows):
        tell(
            f"{alone} studies name no patient, so each counts as a patient of its own. Where a"
            " patient has several, correct patient_id and split: else one may be in train and test."
        )
    # So far an archive counted as a folder, so that the folders in it have their usual meaning.
    yield from ({key: cell.replace(f"{MARK}/", MARK) for key, cell in row.items()} for row in rows)


def _folders(
    root: Path, starts: Sequence[Path], left: Counter[str]
) -> Iterator[tuple[PurePosixPath, list[Path]]]:
    """Each folder, relative to `root`, with its regular files: no pipe and no broken link."""
    for start in starts:
        if start.is_file():
            yield PurePosixPath(start.parent.relative_to(root).as_posix()), [start]
        # os.walk follows no links to folders, which could form a circle. They are counted.
        for folder, names in sorted(_visible(start, left)):
            files = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
            regular = [file for file in files if file.is_file()]
            left["broken links, pipes and devices"] += len(files) - len(regular)
            yield PurePosixPath(Path(folder).relative_to(root).as_posix()), regular


def _visible(start: Path, left: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Folders from `start` on, with the names in them, but none that is hidden."""
    for folder, folders, names in os.walk(start):
        left["linked folders"] += sum(Path(folder, name).is_symlink() for name in folders)
        # What was deleted, and what archives of macOS carry beside the files.
        hidden = {name for name in folders if name.startswith(".") or name == "__MACOSX"}
        left["hidden folders"] += len(hidden)
        folders[:] = [name for name in folders if name not in hidden]
        yield folder, names


def _look(file: Path) -> FoundFile:
    kind = format_of(file)
    if kind is None and holds_members(file):
        kind = ARCHIVE
    return FoundFile(file.name, kind, header_of(file) if kind == "dicom" else None)


def _rows_of(
    folder: PurePosixPath,
    seen: list[FoundFile],
    images: dict[PurePosixPath, str],
    left: Counter[str],
) -> list[Row]:
    """Rows of the DICOM files of one folder; `images` gets the others, `left` the counts."""
    left.update(_foreign(one.name) for one in seen if one.kind is None)
    dicoms = [one for one in seen if one.kind == "dicom"]
    others = [one for one in seen if one.kind not in ("dicom", ARCHIVE, None)]
    images |= {folder / one.name: str(one.kind) for one in others}
    return list(_dicom_rows(folder, dicoms))


def _row(study: FolderStudy, noun: str) -> Row:
    path = study.path.as_posix()
    split = split_of(study.patient)
    if any(VAL_FOLDER.fullmatch(part) for part in study.path.parts):
        split = "val"
    elif any(TEST_FOLDER.fullmatch(part) for part in study.path.parts):
        split = "test"
    # The data set holds out its own test cases, so none of these is drawn for test.
    elif any(part in ("imagesTr", "imageTr", "imgsTr") for part in study.path.parts):
        split = split_of(study.patient, test=0)
    known = {"study_id": path, "path": path, "patient_id": study.patient}
    return {**known, "split": split, "modality": noun, **study.masks}


def _participants(root: Path) -> dict[str, Row]:
    """Age and sex of the subjects of a BIDS folder, by participant_id."""
    try:
        text = (root / "participants.tsv").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return {}
    lines = csv.DictReader(io.StringIO(text), delimiter="\t")
    return {
        line.get("participant_id") or "": {
            name: line[name] for name in ("age", "sex") if line.get(name) not in (None, "n/a")
        }
        for line in lines
    }


def _foreign(name: str) -> str:
    """Kind under which a file that is not an image is counted."""
    suffix = Path(name).suffix.lower()
    return f"{suffix} files" if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else "other files"


def _dicom_rows(folder: PurePosixPath, files: list[FoundFile]) -> Iterator[Row]:
    """Rows of the DICOM files of one folder.

    A stacked series has the folder as its path; several series have their own names. Projections
    and single slices have one row a file.
    """
    stacks: dict[str, list[tuple[PurePosixPath, pydicom.Dataset]]] = defaultdict(list)
    for file in files:
        path, header = folder / file.name, file.header
        if header is None:  # damaged: listed, so that ingest refuses it with a reason
            yield _dicom_row(path, pydicom.Dataset())
        elif is_image(header) and header.get("Modality") in PROJECTIONS:
            yield _dicom_row(path, header)
        elif is_image(header):
            # A slice: its volume is complete only after all files of the folder.
            stacks[str(header.get("SeriesInstanceUID") or "")].append((path, header))
    for uid, slices in stacks.items():
        if len(slices) == 1:
            path = slices[0][0]
        else:
            # A single stack is named by its folder; of several, each has its own name.
            path = folder if len(stacks) == 1 else folder / series_name(uid)
        yield _dicom_row(path, slices[0][1])


def person_of(patient_id: str) -> str:
    """Patient id without the view, side, crop or mask that some archives write into it.

    Source: CBIS-DDSM on TCIA has an id for each view (`Calc-Training_P_00001_LEFT_MLO_1`).

    >>> person_of("Mass-Test_P_00001_LEFT_MLO_1"), person_of("0042_R_CC"), person_of("A-17")
    ('P_00001', '0042', 'A-17')
    """
    person = VIEW_IN_ID.sub("", patient_id)
    # The prefix is removed only if a view was found: elsewhere it may belong to the id.
    return re.sub(r"^(Calc|Mass)-(Training|Test)_", "", person) if person != patient_id else person


def _dicom_row(path: PurePosixPath, header: pydicom.Dataset) -> Row:
    study = path.as_posix()
    modality = str(header.get("Modality") or "") or "unknown"
    # CR and DX name the detector, not the body part.
    if modality in ("CR", "DX"):
        body = str(header.get("BodyPartExamined") or "").upper()
        modality = "CXR" if "CHEST" in body or "THORAX" in body else "XR"
    patient = person_of(str(header.get("PatientID") or "").strip()) or study
    return {
        "study_id": study,
        "path": study,
        "patient_id": patient,
        "split": split_of(patient),
        "modality": modality,
    }
