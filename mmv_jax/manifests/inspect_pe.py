"""INSPECT (CT pulmonary angiography), by its own lists."""

from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, column_of, published_table

SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
ID = "impression_id"
# Not known: the patient was not followed for long enough.
WORDS = {"true": "1", "1": "1", "1.0": "1", "false": "0", "0": "0", "0.0": "0", "censored": ""}


def list_inspect(root: Path, tell: Tell) -> Iterator[Row]:
    """List the CTs of INSPECT, with the published splits by patient and its binary labels.

    Labels of outcomes are empty where the patient was censored. Times to events are left to a
    cohort file: only columns of yes and no are taken over.

    Source: Huang et al., arXiv 2311.10798; `splits_*.tsv` (impression_id, split),
      `study_mapping_*.tsv` (impression_id, image_id) and `CTPA/` as in
      github.com/som-shahlab/INSPECT_public, image/radfusion3/data/dataset_2d.py.
    """

    def table(name: str, *columns: str) -> dict[str, Row]:
        lines = published_table(root, f"{name}_*.tsv", ID, *columns, separator="\t")
        return {line[ID]: line for line in lines}

    splits = table("splits", "split")
    labels = table("labels")
    binary = [
        name
        for name in next(iter(labels.values()), {})
        if name != ID and {line[name].strip().lower() for line in labels.values()} <= {*WORDS, ""}
    ]
    for study, line in table("study_mapping", "image_id", "person_id").items():
        image = line["image_id"].removesuffix(".nii.gz")
        path = f"CTPA/{image}.nii.gz"
        split = SPLITS.get(splits.get(study, {}).get("split", "").strip().lower())
        if split is None or not (root / path).exists():
            continue
        row = labels.get(study, {})
        yield {
            "study_id": image,
            "path": path,
            "patient_id": line["person_id"],
            "split": split,
            "modality": "CT",
            "unit": "HU",
            **{column_of(n): WORDS.get(row.get(n, "").strip().lower(), "") for n in binary},
        }
