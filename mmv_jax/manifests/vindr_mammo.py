"""VinDr-Mammo, by its own lists."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, published_table, split_of

NAMES = {"training": "train", "test": "test"}


def list_vindr_mammo(root: Path, tell: Tell) -> Iterator[Row]:
    """List VinDr-Mammo: an image is a study, an examination (`study_id`) the patient.

    "test" is the published one; a tenth of the training examinations is "val". `birads` is the
    breast's assessment (1 to 5), `suspicious` is 1 from BI-RADS 4 on, `breast_density` A to D.

    Source: Nguyen et al., Scientific Data 2023; physionet.org/content/vindr-mammo/1.0.0,
      `breast-level_annotations.csv` and `images/STUDY_ID/IMAGE_ID.dicom`.
    """
    columns = ("study_id", "image_id", "laterality", "view_position", "breast_birads", "split")
    for line in published_table(root, "breast-level_annotations.csv", *columns):
        exam, image = line["study_id"], line["image_id"]
        path = f"images/{exam}/{image}.dicom"
        if not (root / path).exists():
            continue
        grade = re.search(r"[0-6]", line["breast_birads"])
        held_out = NAMES.get(line["split"], "") == "test"
        yield {
            "study_id": image,
            "path": path,
            "patient_id": exam,
            "split": "test" if held_out else split_of(exam, test=0),
            "modality": "MG",
            "view": line["view_position"],
            "laterality": line["laterality"],
            "birads": grade.group() if grade else "",
            "suspicious": str(int(int(grade.group()) >= 4)) if grade else "",
            "breast_density": line.get("breast_density", "").removeprefix("DENSITY").strip(),
        }
