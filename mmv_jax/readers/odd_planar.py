"""What the header of a planar DICOM image says of its own pixels that is probably wrong: a mirrored
or turned picture, pixels that are not square, two spacings that cannot both be true.

A warning names attributes, and quotes no text.
"""

import math
import re

from pydicom.dataset import Dataset

from mmv_jax.readers.deidentify import number_of

Told = tuple[str, str]  # code, sentence
# Radiographs that are shown as if the patient faced the viewer. Breasts have rules of their own.
RADIOGRAPHS = {"CR", "DX", "RG", "XR"}
TRUNK = {"CHEST", "THORAX", "LUNG", "LUNGS", "ABDOMEN", "PELVIS", "SPINE", "TSPINE", "LSPINE"}
SQUARE = 1.2  # ratio of the sides of a pixel up to which it counts as square
# Length at the detector divided by length in the patient. Below 1 the patient would lie behind the
# detector; above 4 nothing is imaged.
LEAST_MAGNIFIED, MOST_MAGNIFIED = 0.95, 4.0


def odd_planar(dataset: Dataset) -> tuple[Told, ...]:
    """Warnings about a planar image: turned, odd_spacing.

    Source: DICOM PS3.3, C.7.6.1.1.1 (patient orientation), 10.7.1.3 (spacings), C.7.6.3.1.7
    (aspect).
    """
    return (*_turned(dataset), *_not_square(dataset), *_two_spacings(dataset))


def _turned(dataset: Dataset) -> tuple[Told, ...]:
    """PatientOrientation of a frontal radiograph: rows run to the left, columns to the feet."""
    part = str(dataset.get("BodyPartExamined") or "CHEST").upper()
    if str(dataset.get("Modality")) not in RADIOGRAPHS or part not in TRUNK:
        return ()
    words = [str(word).strip().upper() for word in dataset.get("PatientOrientation") or ()]
    if len(words) != 2 or not all(re.fullmatch("[LRAPHF]{1,3}", word) for word in words):
        return ()
    row, column = (word[0] for word in words)
    if column == "H":
        return (("turned", "PatientOrientation says that the picture stands on its head"),)
    if row in "HF":
        return (("turned", "PatientOrientation says that the picture lies on its side"),)
    if (row, column) == ("R", "F"):
        return (("turned", "PatientOrientation says that left and right are exchanged"),)
    return ()


def _not_square(dataset: Dataset) -> tuple[Told, ...]:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        y, x = number_of(dataset, keyword, 0), number_of(dataset, keyword, 1)
        if y and x and max(y / x, x / y) > SQUARE:
            return (("odd_spacing", f"pixels are not square ({keyword})"),)
    return ()


def _two_spacings(dataset: Dataset) -> tuple[Told, ...]:
    """PixelSpacing is at the patient, ImagerPixelSpacing at the detector: rays only diverge."""
    pixel, imager = number_of(dataset, "PixelSpacing"), number_of(dataset, "ImagerPixelSpacing")
    if not (pixel and imager) or dataset.get("PixelSpacingCalibrationType"):
        return ()
    ratio = imager / pixel
    if math.isfinite(ratio) and not LEAST_MAGNIFIED <= ratio <= MOST_MAGNIFIED:
        what = "PixelSpacing and ImagerPixelSpacing cannot both be true: was the image resized?"
        return (("odd_spacing", what),)
    return ()
