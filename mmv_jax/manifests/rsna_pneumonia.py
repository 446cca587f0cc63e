"""RSNA Pneumonia Detection Challenge, by its own lists."""

from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, published_table, split_of

CLASSES = {"Normal": "normal", "No Lung Opacity / Not Normal": "other", "Lung Opacity": "opacity"}


def list_rsna_pneumonia(root: Path, tell: Tell) -> Iterator[Row]:
    """List the labelled images of stage 2; splits are drawn by image, 80 : 10 : 10.

    The challenge's own test images have no labels, and are left out. `pneumonia` is `Target`: 1
    where a radiologist drew a box. `reading` is the class of the second list. The images are of
    NIH ChestX-ray14 under other names: do not pretrain on that and test here.

    Source: Shih et al., Radiology: AI 2019; kaggle.com/c/rsna-pneumonia-detection-challenge, files
      `stage_2_train_labels.csv` (patientId, x, y, width, height, Target),
      `stage_2_detailed_class_info.csv` (patientId, class) and `stage_2_train_images/ID.dcm`.
    """
    read = {
        line["patientId"]: CLASSES.get(line["class"], "")
        for line in published_table(root, "stage_2_detailed_class_info.csv", "patientId", "class")
    }
    seen = set()
    for line in published_table(root, "stage_2_train_labels.csv", "patientId", "Target"):
        image = line["patientId"]
        path = f"stage_2_train_images/{image}.dcm"
        # An image has a row for each of its boxes.
        if image in seen or not (root / path).exists():
            continue
        seen.add(image)
        yield {
            "study_id": image,
            "path": path,
            "patient_id": image,
            "split": split_of(image),
            "modality": "CXR",
            "pneumonia": line["Target"],
            "reading": read.get(image, ""),
        }
    unlabelled = len(list(root.glob("stage_2_test_images/*.dcm")))
    if unlabelled:
        tell(f"Left out: {unlabelled} images of the challenge's test set, which have no labels.")
    tell("These are images of NIH ChestX-ray14: one may not be trained on to test the other.")
