"""EMBED (Emory breast imaging), the open data release, by its own tables."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.errors import UserError
from mmv_jax.manifests.published import Row, Tell, published_table, split_of

CLINICAL = ("acc_anon", "side", "asses")
METADATA = (
    "empi_anon",
    "acc_anon",
    "anon_dicom_path",
    "FinalImageType",
    "ImageLateralityFinal",
    "ViewPosition",
)
# Letters of the table, by the number of BI-RADS.
BIRADS = {"A": 0, "N": 1, "B": 2, "P": 3, "S": 4, "M": 5, "K": 6}
DENSITY = {"1": "A", "2": "B", "3": "C", "4": "D"}  # 5 is a man
CANCER, NO_CANCER = ("0", "1"), ("2", "3", "4", "5")  # path_severity; 6 is another organ's
BENIGN = (1, 2)  # BI-RADS without a biopsy


def list_embed(root: Path, tell: Tell) -> Iterator[Row]:
    """List the 2D mammograms of EMBED; splits are drawn by patient, 80 : 10 : 10.

    Findings belong to a breast of an examination: those of the other breast do not count. `cancer`
    is 1 where pathology found invasive or non-invasive cancer, 0 where it found none or where there
    is no pathology and BI-RADS is 1 or 2, and empty otherwise. `birads` is the highest of the
    breast. Synthetic views (C-View) are left out.

    Source: Jeong et al., Radiology: AI 2023; layout and columns in
      github.com/Emory-HITI/EMBED_Open_Data, README.md, sections IV to VIII.
    """
    findings = defaultdict(list)
    for line in _table(root, "clinical", CLINICAL):
        for side in {"L": "L", "R": "R"}.get(line["side"].strip(), "LR"):
            findings[_number(line["acc_anon"]), side].append(line)
    synthetic = missing = 0
    for line in _table(root, "metadata", METADATA):
        if line["FinalImageType"] != "2D":
            synthetic += 1
            continue
        path = _place(root, line["anon_dicom_path"])
        if path is None:
            missing += 1
            continue
        patient, side = _number(line["empi_anon"]), line["ImageLateralityFinal"].strip()
        yield {
            "study_id": Path(path).stem,
            "path": path,
            "patient_id": patient,
            "split": split_of(patient),
            "modality": "MG",
            "view": line["ViewPosition"],
            "laterality": side,
            "special_view": line.get("spot_mag", "").split(".")[0],
            **_labels(findings.get((_number(line["acc_anon"]), side), [])),
        }
    if synthetic or missing:
        tell(f"Left out: {synthetic} images that are not 2D; {missing} of the table are not there.")


def _labels(lines: list[Row]) -> Row:
    """Labels of one breast of an examination, from the rows of its findings."""
    grades = [BIRADS[line["asses"].strip()] for line in lines if line["asses"].strip() in BIRADS]
    # 0 asks for another examination: it outranks a benign grade, not a suspicious one.
    grade = max(grades, key=lambda g: 2.5 if g == 0 else g, default=None)
    severity = {line.get("path_severity", "").split(".")[0] for line in lines} - {""}
    cancer = ""
    if severity & set(CANCER):
        cancer = "1"
    elif severity & set(NO_CANCER) or (grade in BENIGN and not severity):
        cancer = "0"
    density = {DENSITY.get(line.get("tissueden", "").split(".")[0], "") for line in lines} - {""}
    return {
        "birads": "" if grade is None else str(grade),
        "cancer": cancer,
        "breast_density": density.pop() if len(density) == 1 else "",
    }


def _table(root: Path, name: str, columns: tuple[str, ...]) -> list[Row]:
    """The full table, or the reduced one where only that was downloaded."""
    full = f"tables/EMBED_OpenData_{name}.csv"
    reduced = f"tables/EMBED_OpenData_{name}_reduced.csv"
    if not (root / full).exists() and not (root / reduced).exists():
        raise UserError(f"{full} is not in the folder: download the data set's tables.")
    return published_table(root, full if (root / full).exists() else reduced, *columns)


def _place(root: Path, stated: str) -> str | None:
    """Path of an image below `root`; the table has its path on the authors' disk."""
    parts = stated.strip().split("/")
    begin = next((n for n, part in enumerate(parts) if part.startswith("cohort")), 0)
    inner = Path(*parts[begin:])
    here = next((p for p in (inner, "images" / inner) if (root / p).is_file()), None)
    return None if here is None else here.as_posix()


def _number(cell: str) -> str:
    """Id without the `.0` that a table tool may have written behind it."""
    return cell.strip().removesuffix(".0")
