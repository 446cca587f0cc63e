"""Merlin abdominal CT, by its own lists."""

from collections.abc import Iterator
from pathlib import Path

from mmv_jax.errors import UserError
from mmv_jax.manifests.published import UNCERTAIN, Row, Tell, column_of, published_table

ID = "study id"
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# Labels by matching the report against prompts; a finding that matched neither is not known.
WORDS = {"1": "1", "1.0": "1", "0": "0", "0.0": "0", "-1": UNCERTAIN, "-1.0": UNCERTAIN}
FINDINGS = "zero_shot_findings_disease_cls.csv"


def list_merlin(root: Path, tell: Tell) -> Iterator[Row]:
    """List the Merlin abdominal CTs with their published splits and 30 findings.

    The release names no patients: each scan counts as one, although 18,317 people have 25,494
    scans. The splits are in a spreadsheet, which has to be saved as CSV.

    Source: Blankemeier et al., arXiv 2406.06512; github.com/StanfordMIMI/Merlin,
      documentation/download.md (`merlin_data/`, `reports_final.xlsx`, and FINDINGS with 1, 0, -1).
    """
    if not (root / "reports_final.csv").exists():
        raise UserError(
            "reports_final.csv is not in the folder: open the data set's reports_final.xlsx, and"
            " save its sheet as CSV (UTF-8). It holds the splits."
        )
    labels = {line[ID]: line for line in published_table(root, FINDINGS, ID)}
    unsplit = 0
    for line in published_table(root, "reports_final.csv", ID, "Split"):
        study = line[ID].strip()
        names = (f"merlin_data/{study}.nii.gz", f"merlin_data/{study}.nii")
        path = next((name for name in names if (root / name).exists()), None)
        if path is None:
            continue
        split = SPLITS.get(line["Split"].strip().lower())
        if split is None:
            unsplit += 1
            continue
        found = {k: v for k, v in labels.get(study, {}).items() if k != ID}
        yield {
            "study_id": study,
            "path": path,
            "patient_id": study,
            "split": split,
            "modality": "CT",
            "unit": "HU",
            **{column_of(name): WORDS.get(cell.strip(), "") for name, cell in found.items()},
        }
    if unsplit:
        tell(f"Left out: {unsplit} scans without a split.")
    tell("Merlin names no patients: each scan counts as a patient of its own.")
