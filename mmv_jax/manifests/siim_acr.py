"""SIIM-ACR Pneumothorax Segmentation, by its own list."""

from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, places_of, published_table, split_of

NONE = "-1"  # in place of a mask


def list_siim_acr(root: Path, tell: Tell) -> Iterator[Row]:
    """List the labelled images of stage 1; splits are drawn by image, 80 : 10 : 10.

    `pneumothorax` is 1 where one of the readers drew a mask. The masks are run lengths in the list,
    not files, and are not taken over. The images are of NIH ChestX-ray14 under other names.

    Source: kaggle.com/c/siim-acr-pneumothorax-segmentation, `train-rle.csv` (ImageId,
      EncodedPixels) and `dicom-images-train/STUDY/SERIES/ID.dcm`, as in
      github.com/mlmed/torchxrayvision, torchxrayvision/datasets.py (`SIIM_Pneumothorax_Dataset`).
    """
    places = places_of(root, ".dcm")
    masks: dict[str, list[str]] = {}
    for line in published_table(root, "train-rle.csv", "ImageId", "EncodedPixels"):
        masks.setdefault(line["ImageId"], []).append(line["EncodedPixels"].strip())
    for image, runs in masks.items():
        path = places.get(f"{image}.dcm")
        if path is None:
            continue
        yield {
            "study_id": image,
            "path": path,
            "patient_id": image,
            "split": split_of(image),
            "modality": "CXR",
            "pneumothorax": str(int(any(run not in ("", NONE) for run in runs))),
        }
    unlabelled = sum(f"{name.removesuffix('.dcm')}" not in masks for name in places)
    if unlabelled:
        tell(f"Left out: {unlabelled} images that the list does not label.")
    tell("These are images of NIH ChestX-ray14: one may not be trained on to test the other.")
