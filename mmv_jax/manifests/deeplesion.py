"""DeepLesion, by its own list."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, published_table

COLUMNS = (
    "File_name",
    "Patient_index",
    "Spacing_mm_px_",
    "Lesion_diameters_Pixel_",
    "Coarse_lesion_type",
    "Possibly_noisy",
    "Train_Val_Test",
)
SPLITS = {"1": "train", "2": "val", "3": "test"}
KINDS = (
    "bone",
    "abdomen",
    "mediastinum",
    "liver",
    "lung",
    "kidney",
    "soft tissue",
    "pelvis",
)


def list_deeplesion(root: Path, tell: Tell) -> Iterator[Row]:
    """List the key slices of DeepLesion, as planar CT images in HU, with the published splits.

    The PNG files hold HU + 32768; the unit `HU+32768` takes that off again. `diameter_mm` is the
    longest diameter of the slice's largest lesion, `lesion` its kind, which only val and test have.
    Slices that the list calls noisy are left out.

    Source: Yan et al., Journal of Medical Imaging 2018. KINDS: item 10 of the README beside
      `DL_info.csv` at nihcc.app.box.com/v/DeepLesion ("Types 1~8 correspond to bone, abdomen, ...";
      -1 in train), as others quote it: the README itself was not read. `DL_info.csv` and
      `Images_png/SERIES/NNN.png` as in github.com/rsummers11/CADLab,
      MULAN_universal_lesion_analysis/maskrcnn/data/datasets (DeepLesion.py, load_ct_img.py).
    """
    slices = defaultdict(list)
    for line in published_table(root, "DL_info.csv", *COLUMNS):
        slices[line["File_name"]].append(line)
    noisy = 0
    for name, lesions in slices.items():
        series, _, number = name.rpartition("_")
        # Some of the published archives have the folder twice.
        places = [root / "Images_png" / series / number]
        places.append(root / "Images_png" / "Images_png" / series / number)
        path = next((place for place in places if place.exists()), None)
        if path is None:
            continue
        if any(line["Possibly_noisy"].strip() == "1" for line in lesions):
            noisy += 1
            continue
        line = max(lesions, key=lambda line: _numbers(line["Lesion_diameters_Pixel_"])[0])
        mm = _numbers(line["Spacing_mm_px_"])[0]
        kind = line["Coarse_lesion_type"].strip()
        yield {
            "study_id": name.removesuffix(".png"),
            "path": path.relative_to(root).as_posix(),
            "patient_id": line["Patient_index"],
            "split": SPLITS.get(line["Train_Val_Test"].strip(), ""),
            "modality": "CT",
            "spacing_mm": f"{mm:g}",
            "unit": "HU+32768",
            "sex": line.get("Patient_gender", ""),
            "age": line.get("Patient_age", "").split(".")[0],
            "lesion": KINDS[int(kind) - 1] if re.fullmatch("[1-8]", kind) else "",
            "diameter_mm": f"{_numbers(line['Lesion_diameters_Pixel_'])[0] * mm:.3g}",
        }
    if noisy:
        tell(f"Left out: {noisy} slices that the list calls possibly noisy.")


def _numbers(cell: str) -> list[float]:
    return [float(part) for part in cell.split(",")]
