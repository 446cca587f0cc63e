"""VinDr-CXR, by its own lists."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, column_of, published_table, split_of

NO_LABELS = ("image_id", "rad_id")


def list_vindr_cxr(root: Path, tell: Tell) -> Iterator[Row]:
    """List VinDr-CXR: `train/` and `test/` as published; a tenth of train is "val".

    Three radiologists read each training image: a finding is 1 where two of them saw it. A test
    image has one row, their consensus. The release names no patients: each image counts as one.

    Source: Nguyen et al., arXiv 2012.15029; the layout and columns as in the loader
      `luolib`/`mmmm` (`VinDrCXRProcessor`): `annotations/image_labels_train.csv` and
      `train/IMAGE_ID.dicom`.
    """
    for name in ("train", "test"):
        rows = defaultdict(list)
        for line in published_table(root, f"annotations/image_labels_{name}.csv", "image_id"):
            rows[line["image_id"]].append(line)
        for image, read in rows.items():
            path = f"{name}/{image}.dicom"
            # A part of the data set may have been downloaded: what is there is listed.
            if not (root / path).exists():
                continue
            findings = [column for column in read[0] if column not in NO_LABELS]
            votes = {f: sum(line[f].strip() in ("1", "1.0") for line in read) for f in findings}
            yield {
                "study_id": image,
                "path": path,
                "patient_id": image,
                "split": "test" if name == "test" else split_of(image, test=0),
                "modality": "CXR",
                **{column_of(f): str(int(2 * votes[f] > len(read))) for f in findings},
            }
    tell("VinDr-CXR names no patients: each image counts as a patient of its own.")
