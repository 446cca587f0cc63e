"""PadChest, by its own list."""

import ast
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import (
    OLDEST,
    Row,
    Tell,
    column_of,
    places_of,
    published_table,
    split_of,
)

# Of the 174 findings, those that are frequent or that other data sets have; named as in the list.
FINDINGS = (
    "normal",
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "pleural effusion",
    "pneumonia",
    "pneumothorax",
    "nodule",
    "mass",
    "infiltrates",
    "interstitial pattern",
    "emphysema",
    "pulmonary fibrosis",
    "pulmonary edema",
    "pleural thickening",
    "hiatal hernia",
    "copd signs",
    "scoliosis",
    "aortic elongation",
    "pacemaker",
    "fracture",
)
NO_READING = ("exclude", "suboptimal study", "unchanged")  # say nothing of the findings


def list_padchest(root: Path, tell: Tell) -> Iterator[Row]:
    """List PadChest, unpacked or in its zip archives; splits are drawn by patient, 80 : 10 : 10.

    A finding is 1 where the report's labels name it, and 0 where they do not. Where the labels only
    say that the image cannot be read, its findings are empty. `read_by` says who labelled the
    report: a physician, or the network that the authors trained.

    Source: Bustos et al., arXiv 1901.07441; columns ImageID, PatientID, PatientBirth, Projection,
      StudyDate_DICOM and Labels as in github.com/mlmed/torchxrayvision,
      torchxrayvision/datasets.py (`PC_Dataset`); PatientSex_DICOM and MethodLabel as in the
      authors' list of columns, github.com/auriml/Rx-thorax-automatic-captioning, README.md.
    """
    places = places_of(root, ".png")
    unread = missing = 0
    columns = ("ImageID", "PatientID", "Labels", "Projection")
    for line in published_table(root, "PADCHEST_*.csv*", *columns):
        name, patient = line["ImageID"], line["PatientID"]
        if name not in places:
            missing += 1
            continue
        found = _labels(line["Labels"])
        unread += not found
        yield {
            "study_id": name.removesuffix(".png"),
            "path": places[name],
            "patient_id": patient,
            "split": split_of(patient),
            "modality": "CXR",
            "view": line["Projection"],
            "sex": line.get("PatientSex_DICOM", "")[:1],
            "age": _age(line),
            "read_by": line.get("MethodLabel", ""),
            **{column_of(f): str(int(f in found)) if found else "" for f in FINDINGS},
        }
    if unread or missing:
        tell(f"{unread} images have no reading; {missing} images of the list are not there.")


def _labels(cell: str) -> set[str]:
    """Findings of a cell such as `['normal', 'scoliosis']`; empty where it holds no reading."""
    try:
        words = ast.literal_eval(cell) if cell else []
    except (ValueError, SyntaxError):
        words = []
    return {str(word).strip().lower() for word in words} - {"", *NO_READING}


def _age(line: Row) -> str:
    date, birth = line.get("StudyDate_DICOM", "")[:4], line.get("PatientBirth", "").split(".")[0]
    if not (date.isdigit() and birth.isdigit()):
        return ""
    years = int(date) - int(birth)
    return str(years) if 0 <= years <= OLDEST else ""
