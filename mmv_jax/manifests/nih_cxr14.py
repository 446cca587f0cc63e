"""Manifest of NIH ChestX-ray14, made from its own lists."""

from collections.abc import Iterator
from pathlib import Path

from mmv_jax.errors import UserError
from mmv_jax.manifests.published import (
    Row,
    Tell,
    age_in_years,
    column_of,
    published_table,
    published_words,
    split_of,
)

NIH_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
NIH_PNG_PIXELS = 1024  # the released PNGs are 1024 × 1024, whatever the size of the detector


def list_nih_cxr14(root: Path, tell: Tell) -> Iterator[Row]:
    """Rows of NIH ChestX-ray14.

    test_list.txt is "test"; a tenth of the patients of train_val_list.txt is "val". The spacing is
    that of the detector, scaled to the 1024 pixels of the PNG. If width and height were scaled
    differently, it is the geometric mean, which keeps areas correct.

    Source: Wang et al., CVPR 2017.
    """
    held_out = set(published_words(root, "test_list.txt"))
    listed = held_out | set(published_words(root, "train_val_list.txt"))
    # The release has twelve archives, each with its own folder (images_001 and so on).
    places = {
        path.name: path.relative_to(root).as_posix() for path in root.glob("images*/**/*.png")
    }
    columns = ("Image Index", "Patient ID", "Finding Labels", "View Position", "Patient Age")
    for line in published_table(root, "Data_Entry_2017*.csv", *columns):
        name, patient = line["Image Index"], line["Patient ID"]
        if name not in places or name not in listed:
            continue
        found = set(line["Finding Labels"].split("|"))
        yield {
            "study_id": name.removesuffix(".png"),
            "path": places[name],
            "patient_id": patient,
            "split": "test" if name in held_out else split_of(patient, test=0),
            "modality": "CXR",
            "spacing_mm": _nih_spacing(line),
            "view": line["View Position"],
            "sex": line.get("Patient Gender") or line.get("Patient Sex", ""),
            "age": age_in_years(line["Patient Age"]),
            **{column_of(finding): str(int(finding in found)) for finding in NIH_FINDINGS},
        }


def _nih_spacing(line: Row) -> str:
    """Spacing of the PNG in mm per pixel, as text; empty if a cell is empty.

    Columns of both releases are read. The first one wrote `OriginalImage[Width,Height]`, which a
    CSV reader splits in two.

    Raises:
      UserError: a column is missing.
    """
    names = ("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]")
    later = (
        "OriginalImageWidth",
        "OriginalImageHeight",
        "OriginalImagePixelSpacing_x",
        "OriginalImagePixelSpacing_y",
    )
    missing = [other for name, other in zip(names, later) if name not in line and other not in line]
    if missing:
        raise UserError(
            f"Data_Entry_2017*.csv has no column {', '.join(missing)}. Download the list again: it"
            " is the data set's own."
        )
    cells = [line[name if name in line else other] for name, other in zip(names, later)]
    if "" in cells:
        return ""
    width, height, x, y = map(float, cells)
    # Side lengths of the field in mm are width * x and height * y; take the square root of their
    # product.
    return f"{(width * x * height * y) ** 0.5 / NIH_PNG_PIXELS:.5g}"
