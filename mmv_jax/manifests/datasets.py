"""The published layouts of four data sets, their own splits and labels, as rows of a manifest.
Paths are relative to the data set's root.

One rule for splits: what the data set holds out is held out here. Where it names three splits they
are kept; where it names two, the held-out one is "test", and "val" is a tenth of the training
patients, drawn by a hash of the patient. One rule for labels made from reports: 1 positive, 0
negative or not mentioned, empty uncertain (U-Ignore of Irvin et al., arXiv 1901.07031).
"""

import csv
import gzip
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.errors import UserError

Row = dict[str, str]
NIH_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia", "Infiltration", "Mass", "Nodule",
    "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
REPORT_FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
NIH_PNG_PIXELS = 1024  # the PNGs of the release are 1024 × 1024, whatever the detector had


def split_of(patient: str, *, val: int = 10, test: int = 10) -> str:
    """A split drawn by a hash of the patient: `val` and `test` in a hundred."""
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % 100
    return "val" if place < val else "test" if place < val + test else "train"


def list_mimic_cxr(root: Path) -> Iterator[Row]:
    """MIMIC-CXR-JPG, or MIMIC-CXR (DICOM) beside the lists of MIMIC-CXR-JPG; train, validate, test
    as published.

    Source: Johnson et al., MIMIC-CXR-JPG, PhysioNet, versions 2.0.0 and 2.1.0 (the lists keep the
      name 2.0.0).
    """
    views = {
        line["dicom_id"]: line.get("ViewPosition", "")
        for line in _table(root, "mimic-cxr-*-metadata.csv*", "dicom_id")
    }
    findings = {
        line["study_id"]: line for line in _table(root, "mimic-cxr-*-chexpert.csv*", "study_id")
    }
    for line in _table(
        root, "mimic-cxr-*-split.csv*", "subject_id", "study_id", "dicom_id", "split"
    ):
        patient, study, image = line["subject_id"], line["study_id"], line["dicom_id"]
        stem = f"files/p{patient[:2]}/p{patient}/s{study}/{image}"
        path = f"{stem}.jpg" if (root / f"{stem}.jpg").exists() else f"{stem}.dcm"
        # a part of the data set was downloaded: what is there is listed
        if not (root / path).exists():
            continue
        split = {"validate": "val"}.get(line["split"], line["split"])
        labels = _report_labels(findings.get(study), REPORT_FINDINGS)
        yield {
            "study_id": image,
            "path": path,
            "patient_id": patient,
            "split": split,
            "modality": "CXR",
            "view": views.get(image, ""),
            **labels,
        }


def list_chexpert(root: Path) -> Iterator[Row]:
    """CheXpert, either size. valid.csv is "val" where test.csv is there too (the later release),
    otherwise "test".

    Source: Irvin et al., arXiv 1901.07031.
    """
    has_test = (root / "test.csv").exists()
    for name, split in (
        ("train.csv", "train"),
        ("valid.csv", "val" if has_test else "test"),
        *([("test.csv", "test")] if has_test else []),
    ):
        for line in _table(root, name, "Path"):
            # the lists count from the folder above
            path = re.sub(r"^CheXpert-v[^/]*/", "", line["Path"])
            patient = re.search(r"patient\d+", path)
            if patient is None or not (root / path).exists():
                continue
            is_drawn = split == "train" and not has_test
            yield {
                "study_id": path,
                "path": path,
                "patient_id": patient.group(),
                "split": split_of(patient.group(), test=0) if is_drawn else split,
                "modality": "CXR",
                "view": line.get("AP/PA") or line.get("Frontal/Lateral", ""),
                "sex": line.get("Sex", "")[:1],
                "age": line.get("Age", ""),
                **_report_labels(line, REPORT_FINDINGS),
            }


def list_nih_cxr14(root: Path) -> Iterator[Row]:
    """NIH ChestX-ray14: test_list.txt is "test"; of train_val_list.txt a tenth of the patients is
    "val".

    The spacing is that of the detector, scaled to the 1024 pixels of the PNG. Where width and
    height were scaled differently, it is the geometric mean, which keeps areas true.
    Source: Wang et al., CVPR 2017.
    """
    held_out = set(_words(root, "test_list.txt"))
    listed = held_out | set(_words(root, "train_val_list.txt"))
    places = {
        path.name: path.relative_to(root).as_posix() for path in root.glob("images*/**/*.png")
    }
    for line in _table(
        root,
        "Data_Entry_2017*.csv",
        "Image Index",
        "Patient ID",
        "Finding Labels",
        "View Position",
        "Patient Age",
    ):
        name, patient = line["Image Index"], line["Patient ID"]
        if name not in places or name not in listed:
            continue
        found = set(line["Finding Labels"].split("|"))
        yield {
            "study_id": name.removesuffix(".png"),
            "path": places[name],
            "patient_id": patient,
            "split": "test" if name in held_out else split_of(patient, test=0),
            "modality": "CXR",
            "spacing_mm": _nih_spacing(line),
            "view": line["View Position"],
            "sex": line.get("Patient Gender") or line.get("Patient Sex", ""),
            "age": str(int(re.sub(r"\D", "", line["Patient Age"]) or 0)),
            **{_column(finding): str(int(finding in found)) for finding in NIH_FINDINGS},
        }


def _nih_spacing(line: Row) -> str:
    """From the columns of either release: the first one wrote `OriginalImage[Width,Height]`, which
    a CSV reads as two. Empty where a cell is.
    """
    names = ("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]")
    later = (
        "OriginalImageWidth",
        "OriginalImageHeight",
        "OriginalImagePixelSpacing_x",
        "OriginalImagePixelSpacing_y",
    )
    missing = [other for name, other in zip(names, later) if name not in line and other not in line]
    if missing:
        raise UserError(
            f"Data_Entry_2017*.csv has no column {', '.join(missing)}. Download the list again: it"
            " is the data set's own."
        )
    cells = [line[name if name in line else other] for name, other in zip(names, later)]
    if "" in cells:
        return ""
    width, height, x, y = map(float, cells)
    return f"{(width * x * height * y) ** 0.5 / NIH_PNG_PIXELS:.5g}"


def list_ct_rate(root: Path) -> Iterator[Row]:
    """CT-RATE: every reconstruction is a study, and the patient (`train_1`) has them all; valid is
    "test".

    The volumes are in HU (the release's `_fixed` folders; the first ones were mended later): slope
    and intercept of the metadata must not be applied again, and are not. A volume of the first
    release, without its intercept, is refused by the reader as not HU.
    Source: Hamamci et al., arXiv 2403.17834; ibrahimhamamci/CT-CLIP, issue 50.
    """
    base = root / "dataset" if (root / "dataset").is_dir() else root
    findings = {
        line["VolumeName"]: line
        for line in _table(base, "multi_abnormality_labels/*_predicted_labels.csv", "VolumeName")
    }
    people = {
        line["VolumeName"]: line for line in _table(base, "metadata/*_metadata.csv", "VolumeName")
    }
    for path in sorted(base.glob("*/*/*/*.nii.gz")):
        name = re.fullmatch(r"((train|valid)_\d+)_[a-z]+_\d+\.nii\.gz", path.name)
        if name is None:
            continue
        labels = {
            _column(column): cell
            for column, cell in findings.get(path.name, {}).items()
            if column != "VolumeName"
        }
        person = people.get(path.name, {})
        yield {
            "study_id": path.name.removesuffix(".nii.gz"),
            "path": path.relative_to(root).as_posix(),
            "patient_id": name.group(1),
            "split": "test" if name.group(2) == "valid" else split_of(name.group(1), test=0),
            "modality": "CT",
            "unit": "HU",
            "sex": person.get("PatientSex", "")[:1],
            "age": re.sub(r"\D", "", person.get("PatientAge", "")).lstrip("0"),
            **labels,
        }


def _report_labels(line: Row | None, findings: tuple[str, ...]) -> Row:
    """0/1 columns of a report's findings; empty where uncertain, or where there is no report."""
    if line is None:
        return dict.fromkeys(map(_column, findings), "")
    words = {"1": "1", "1.0": "1", "-1": "", "-1.0": ""}
    return {_column(finding): words.get(line.get(finding, "").strip(), "0") for finding in findings}


def _column(name: str) -> str:
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_")


def _table(root: Path, pattern: str, *columns: str) -> list[Row]:
    """Lines of the lists that match `pattern`, plain or gzipped.

    Raises:
      UserError: there is none, or one of `columns` is not in it; the list is named, since it is the
        data set's, not a patient's.
    """
    files = sorted(root.glob(pattern))
    if not files:
        raise UserError(
            f"{pattern} is not in the folder: it is the data set's own list. Download it next to"
            " the images."
        )
    rows: dict[Path, list[Row]] = {}
    for path in files:
        # the same list, unpacked beside itself, counts once
        plain = path.with_name(path.name.removesuffix(".gz"))
        if plain in rows:
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{pattern} has no column {', '.join(missing)}. Download the list again: it is the"
                " data set's own."
            )
        rows[plain] = [{key: value or "" for key, value in line.items() if key} for line in reader]
    return [line for lines in rows.values() for line in lines]


def _words(root: Path, name: str) -> list[str]:
    if not (root / name).exists():
        raise UserError(
            f"{name} is not in the folder: it is the data set's own list. Download it next to the"
            " images."
        )
    return (root / name).read_text().split()
