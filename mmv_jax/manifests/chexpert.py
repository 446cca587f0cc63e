"""Manifest of CheXpert, made from its own lists."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import (
    REPORT_FINDINGS,
    Row,
    Tell,
    published_table,
    report_labels,
    split_of,
)


def list_chexpert(root: Path, tell: Tell) -> Iterator[Row]:
    """Rows of CheXpert, either image size.

    valid.csv is "val" if test.csv exists too (the later release), otherwise "test".

    Source: Irvin et al., arXiv 1901.07031.
    """
    has_test = (root / "test.csv").exists()
    for name, split in (
        ("train.csv", "train"),
        ("valid.csv", "val" if has_test else "test"),
        *([("test.csv", "test")] if has_test else []),
    ):
        for line in published_table(root, name, "Path"):
            # The paths in the lists begin at the folder above.
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
                **report_labels(line, REPORT_FINDINGS),
            }
