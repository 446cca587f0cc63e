"""A folder of any files: what is a study in it, what a mask, and whose."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pydicom

from mmv_jax.manifests.manifest import MASK
from mmv_jax.manifests.published import Row, split_of
from mmv_jax.readers.dicom import is_image, quiet
from mmv_jax.readers.read import FORMATS, format_of

# one file is one study, whatever series it is of
PROJECTIONS = {"CR", "DX", "MG", "RF", "XA", "PX", "IO", "XC"}
TAGS = ["SeriesInstanceUID", "PatientID", "Modality", "BodyPartExamined"]
MASK_ENDS = ("_mask", "_seg", "_label")


def list_folder(root: Path) -> Iterator[Row]:
    """Every image below `root`, by content. DICOM files of one series in one directory are one
    study, with the directory as its path.

    The patient is DICOM's PatientID or a BIDS folder (`sub-...`); otherwise each study counts as a
    patient of its own, which the user must correct where that is wrong. Splits are 80 : 10 : 10 by
    a hash of the patient. A file `NAME_x_mask.EXT` is the mask `x` of `NAME.EXT`, and `NAME_mask`,
    `NAME_seg` or `NAME_label` its mask `region`.
    """
    for folder, _, names in sorted(os.walk(root)):
        # no pipe, no link to nothing
        regular = (
            name
            for name in sorted(names)
            if not name.startswith(".") and Path(folder, name).is_file()
        )
        formats = {name: format_of(Path(folder, name)) for name in regular}
        dicoms = [name for name, kind in formats.items() if kind == "dicom"]
        others = [name for name, kind in formats.items() if kind not in ("dicom", None)]
        yield from _dicom_rows(root, Path(folder), dicoms)
        yield from _file_rows(root, Path(folder), others, formats)


def _dicom_rows(root: Path, folder: Path, names: list[str]) -> Iterator[Row]:
    """Stacked series as their directory (several of them in one directory are told by the reader),
    all else file by file.
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


def _dicom_row(root: Path, path: Path, header: pydicom.Dataset) -> Row:
    study = path.relative_to(root).as_posix()
    modality = str(header.get("Modality") or "") or "unknown"
    if modality in ("CR", "DX"):
        body = str(header.get("BodyPartExamined") or "").upper()
        modality = "CXR" if "CHEST" in body or "THORAX" in body else "XR"
    patient = str(header.get("PatientID") or "").strip() or study
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
    stems = {name: name.split(".")[0] for name in names}
    studies = [name for name in names if not stems[name].endswith(MASK_ENDS)]
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
            rest = stems[mask].removeprefix(f"{owner}_")
            if owner == stems[name]:
                row[rest if rest.endswith(MASK) else "region_mask"] = (
                    (folder / mask).relative_to(root).as_posix()
                )
        yield row


def _owner(mask: str, studies: list[str]) -> str | None:
    """The study whose name a mask's name begins with; the longest, where several are."""
    return max((study for study in studies if mask.startswith(f"{study}_")), key=len, default=None)
