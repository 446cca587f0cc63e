"""What a DICOM header says of the patient and the view, for comparison with a manifest's labels.

It lives as long as the study is read. Nothing stores it, and no warning quotes it.
"""

import re
from collections.abc import Mapping

from pydicom.dataset import Dataset

YEARS_OF = {"Y": 1.0, "M": 1 / 12, "W": 1 / 52.2, "D": 1 / 365.25}


def said_of(dataset: Dataset) -> Mapping[str, str | float]:
    """Sex, age in years, view, laterality, modality and body part, where the header has them.

    Source: DICOM PS3.3, C.7.1.1 (sex), C.7.2.2 (age), C.8.11.5 (view, laterality).
    """
    words = {
        "sex": dataset.get("PatientSex"),
        "view": dataset.get("ViewPosition"),
        "laterality": dataset.get("ImageLaterality") or dataset.get("Laterality"),
        "modality": dataset.get("Modality"),
        "body part": dataset.get("BodyPartExamined"),
    }
    found: dict[str, str | float] = {
        name: str(word).strip().casefold() for name, word in words.items() if word
    }
    # The only form of an age in DICOM (VR AS): a bare number may be of years, months or days.
    age = re.fullmatch(r"(\d{3})([YMWD])", str(dataset.get("PatientAge") or "").strip())
    if age:
        found["age"] = int(age[1]) * YEARS_OF[age[2]]
    return found
