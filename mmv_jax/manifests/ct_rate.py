"""Manifest of CT-RATE, made from its own folders and lists."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import (
    Row,
    Tell,
    age_in_years,
    column_of,
    published_table,
    split_of,
)


def list_ct_rate(root: Path, tell: Tell) -> Iterator[Row]:
    """Rows of CT-RATE, one per reconstruction; its "valid" is our "test".

    A patient (`train_1`) has several reconstructions. The volumes of the `_fixed` folders are in
    HU, so slope and intercept of the metadata are not applied again. A volume of the first release
    lacks its intercept; the reader refuses it as not HU.

    Source: Hamamci et al., arXiv 2403.17834; ibrahimhamamci/CT-CLIP, issue 50.
    """
    base = root / "dataset" if (root / "dataset").is_dir() else root
    findings = {
        line["VolumeName"]: line
        for line in published_table(
            base, "multi_abnormality_labels/*_predicted_labels.csv", "VolumeName"
        )
    }
    people = {
        line["VolumeName"]: line
        for line in published_table(base, "metadata/*_metadata.csv", "VolumeName")
    }
    # Volumes of heads and abdomens, as listed by the data set itself.
    no_chest = {
        name for path in base.glob("metadata/no_chest_*.txt") for name in path.read_text().split()
    }
    without = old = 0
    for path in sorted(base.glob("*/*/*/*.nii.gz")):
        split_folder = path.relative_to(base).parts[0]
        if (base / f"{split_folder}_fixed").is_dir():
            old += 1  # of the first release, which lacks slope and intercept
            continue
        if path.name in no_chest:
            without += 1
            continue
        # train_PATIENT_SCAN_RECONSTRUCTION; the scan is a letter.
        name = re.fullmatch(r"((train|valid)_\d+)_[a-z]+_\d+\.nii\.gz", path.name)
        if name is None:
            continue
        labels = {
            column_of(column): cell
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
            "age": age_in_years(person.get("PatientAge", "")),
            **labels,
        }
    if without or old:
        tell(
            f"Left out: {without} volumes that show no chest (no_chest_*.txt), {old} of the first"
            " release, which lack slope and intercept."
        )
