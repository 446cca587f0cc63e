"""A folder of any files: what is a study in it, what a mask, and whose."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pydicom

from mmv_jax.manifests.manifest import MASK
from mmv_jax.manifests.published import Row, Tell, split_of
from mmv_jax.readers.dicom import is_image, quiet
from mmv_jax.readers.read import FORMATS, format_of

# one file is one study, whatever series it is of
PROJECTIONS = {"CR", "DX", "MG", "RF", "XA", "PX", "IO", "XC"}
TAGS = ["SeriesInstanceUID", "PatientID", "Modality", "BodyPartExamined"]
MASK_ENDS = ("_mask", "_seg", "_dseg", "_label", "_labels", "_segmentation")
LABEL_FOLDER = re.compile(r"(labels?|masks?|segmentations?|annotations?)(Tr|Ts|Te|Val)?", re.I)
VIEW_IN_ID = re.compile(r"[_-](L|R|LEFT|RIGHT)[_-]?(CC|MLO|ML|LM|XCCL)([_-].*|\d.*)?$", re.I)


def list_folder(root: Path, tell: Tell) -> Iterator[Row]:
    """Every image below `root`, by content. DICOM files of one series in one directory are one
    study, with the directory as its path.

    The patient is DICOM's PatientID (without the view that some archives write into it) or a BIDS
    folder (`sub-...`); otherwise each study counts as a patient of its own, which the user must
    correct where that is wrong. Splits are 80 : 10 : 10 by a hash of the patient. A file
    `NAME_x_mask.EXT` is the mask `x` of `NAME.EXT`, and `NAME_mask`, `NAME_seg` or `NAME_label` its
    mask `region`. In a folder of label maps (`labelsTr` beside `imagesTr`, `segmentations` beside
    one volume) no file is a study.
    """
    left: Counter[str] = Counter()
    rows: list[Row] = []
    maps: list[Path] = []
    for folder, folders, names in sorted(os.walk(root)):
        left["linked folders"] += sum(Path(folder, name).is_symlink() for name in folders)
        # no pipe, no link to nothing
        regular = [
            name
            for name in sorted(names)
            if not name.startswith(".") and Path(folder, name).is_file()
        ]
        formats = {name: format_of(Path(folder, name)) for name in regular}
        left.update(_foreign(name) for name, kind in formats.items() if kind is None)
        dicoms = [name for name, kind in formats.items() if kind == "dicom"]
        others = [name for name, kind in formats.items() if kind not in ("dicom", None)]
        rows += _dicom_rows(root, Path(folder), dicoms, tell)
        if LABEL_FOLDER.fullmatch(Path(folder).name) and Path(folder) != root:
            maps += [Path(folder, name) for name in others]
        else:
            rows += _file_rows(root, Path(folder), others, formats)
    left["label maps without an image"] += sum(not _place_map(root, rows, path) for path in maps)
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(left.items()) if n)
    if kinds:
        tell(f"Left out: {kinds}.")
    yield from rows


def _foreign(name: str) -> str:
    """What a file that is no image is counted as."""
    suffix = Path(name).suffix.lower()
    return f"{suffix} files" if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else "other files"


def _place_map(root: Path, rows: list[Row], path: Path) -> bool:
    """Makes a label map a mask of its image, which has its name (and perhaps nnU-Net's channel) in
    a sister folder, or is the one volume beside its folder; False where there is none.
    """
    stem, above = _stem(path.name), path.parent.parent
    found = False
    beside = [row for row in rows if (root / row["path"]).parent == above]
    for row in rows:
        image = root / row["path"]
        is_named = re.fullmatch(rf"{re.escape(stem)}(_\d{{4}})?", _stem(image.name))
        if image.parent.parent == above and image.parent != path.parent and is_named:
            row["region_mask"] = path.relative_to(root).as_posix()
            found = True
    if not found and len(beside) == 1:
        beside[0][f"{stem}{MASK}"] = path.relative_to(root).as_posix()
        return True
    return found


def _stem(name: str) -> str:
    """A file's name without its ending; a UID's last number is none."""
    name = re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)
    return re.sub(r"\.[A-Za-z][A-Za-z0-9]{0,5}$", "", name)


def _dicom_rows(root: Path, folder: Path, names: list[str], tell: Tell) -> Iterator[Row]:
    """Stacked series as their directory (several of them in one directory are told), all else file
    by file.
    """
    stacks: dict[str, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    for name in names:
        header = _header(folder / name)
        if header is None:  # broken: listed, so that ingest refuses it with a reason
            yield _dicom_row(root, folder / name, pydicom.Dataset())
        elif is_image(header) and header.get("Modality") in PROJECTIONS:
            yield _dicom_row(root, folder / name, header)
        elif is_image(header):
            stacks[str(header.get("SeriesInstanceUID") or "")].append((folder / name, header))
    largest = max(stacks.values(), key=len, default=[])
    if len(largest) > 1 and len(stacks) > 1:
        tell(
            f"A folder holds {len(stacks)} series, and ingest will refuse it: give each a folder of"
            " its own."
        )
    if len(largest) > 1:
        yield _dicom_row(root, folder, largest[0][1])
    else:
        for ((path, header),) in stacks.values():
            yield _dicom_row(root, path, header)


def _header(path: Path) -> pydicom.Dataset | None:
    with quiet():
        try:
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
        except Exception:
            return None


def person_of(patient_id: str) -> str:
    """A patient's id without the view, side, crop or mask that some archives write into it.

    Source: CBIS-DDSM on TCIA has an id for each view (`Calc-Training_P_00001_LEFT_MLO_1`).

    >>> person_of("Mass-Test_P_00001_LEFT_MLO_1"), person_of("0042_R_CC"), person_of("A-17")
    ('P_00001', '0042', 'A-17')
    """
    person = VIEW_IN_ID.sub("", patient_id)
    return re.sub(r"^(Calc|Mass)-(Training|Test)_", "", person) if person != patient_id else person


def _dicom_row(root: Path, path: Path, header: pydicom.Dataset) -> Row:
    study = path.relative_to(root).as_posix()
    modality = str(header.get("Modality") or "") or "unknown"
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


def _file_rows(
    root: Path, folder: Path, names: list[str], formats: dict[str, str | None]
) -> Iterator[Row]:
    stems = {name: _stem(name) for name in names}
    studies = [name for name in names if not stems[name].lower().endswith(MASK_ENDS)]
    masks = {
        name: _owner(stems[name], [stems[study] for study in studies])
        for name in names
        if name not in studies
    }
    for name in studies:
        study = (folder / name).relative_to(root).as_posix()
        patient = next((part for part in Path(study).parts if part.startswith("sub-")), study)
        form = formats[name]
        assert form is not None
        modality = FORMATS[form].noun
        row = {
            "study_id": study,
            "path": study,
            "patient_id": patient,
            "split": split_of(patient),
            "modality": modality,
        }
        for mask, owner in masks.items():
            rest = stems[mask].removeprefix(f"{owner}_").lower()
            if owner == stems[name]:
                row[rest if rest.endswith(MASK) else "region_mask"] = (
                    (folder / mask).relative_to(root).as_posix()
                )
        yield row


def _owner(mask: str, studies: list[str]) -> str | None:
    """The study whose name a mask's name begins with; the longest, where several are."""
    return max((study for study in studies if mask.startswith(f"{study}_")), key=len, default=None)
