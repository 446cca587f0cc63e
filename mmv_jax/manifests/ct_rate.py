"""CT-RATE, by its own folders and lists."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, column_of, published_table, split_of


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
        for line in published_table(
            base, "multi_abnormality_labels/*_predicted_labels.csv", "VolumeName"
        )
    }
    people = {
        line["VolumeName"]: line
        for line in published_table(base, "metadata/*_metadata.csv", "VolumeName")
    }
    for path in sorted(base.glob("*/*/*/*.nii.gz")):
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
            "age": re.sub(r"\D", "", person.get("PatientAge", "")).lstrip("0"),
            **labels,
        }
