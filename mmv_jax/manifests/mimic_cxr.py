"""Manifest of MIMIC-CXR and MIMIC-CXR-JPG, made from their own lists."""

from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import REPORT_FINDINGS, Row, Tell, published_table, report_labels


def list_mimic_cxr(root: Path, tell: Tell) -> Iterator[Row]:
    """Rows of MIMIC-CXR-JPG, or of MIMIC-CXR (DICOM) beside the lists of MIMIC-CXR-JPG.

    The splits train, validate ("val") and test are the published ones.

    Source: Johnson et al., MIMIC-CXR-JPG, PhysioNet, versions 2.0.0 and 2.1.0 (the lists keep the
    name 2.0.0).
    """
    views = {
        line["dicom_id"]: line.get("ViewPosition", "")
        for line in published_table(root, "mimic-cxr-*-metadata.csv*", "dicom_id")
    }
    findings = {
        line["study_id"]: line
        for line in published_table(root, "mimic-cxr-*-chexpert.csv*", "study_id")
    }
    columns = ("subject_id", "study_id", "dicom_id", "split")
    for line in published_table(root, "mimic-cxr-*-split.csv*", *columns):
        patient, study, image = line["subject_id"], line["study_id"], line["dicom_id"]
        stem = f"files/p{patient[:2]}/p{patient}/s{study}/{image}"
        path = f"{stem}.jpg" if (root / f"{stem}.jpg").exists() else f"{stem}.dcm"
        # If only a part of the data set was downloaded, list the files that exist.
        if not (root / path).exists():
            continue
        split = {"validate": "val"}.get(line["split"], line["split"])
        labels = report_labels(findings.get(study), REPORT_FINDINGS)
        yield {
            "study_id": image,
            "path": path,
            "patient_id": patient,
            "split": split,
            "modality": "CXR",
            "view": views.get(image, ""),
            **labels,
        }
