"""Given mammograms: whose they are, and whether their area may count.

Files and manifest decide, never the name of a file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from mmv_jax.bac.conditions import COLUMNS, band
from mmv_jax.bac.examination import KEYWORDS, special
from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.missing import is_missing
from mmv_jax.phantom.known import is_phantom
from mmv_jax.readers.deidentify import CODED
from mmv_jax.readers.dicom import quiet
from mmv_jax.readers.read import format_of, read_study, refusing
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.values import MAGNIFIED
from mmv_jax.study import Study

COUNTED_VIEWS = ("CC", "MLO")
NO_IMAGES = {".csv", ".json", ".txt", ".md", ".html", ".xml", ".key"}
NO_SPACING = "the pixel spacing is not known: a manifest can say it (spacing_mm)"
ODD_SPACING = (
    "the pixel spacing gives a size that no mammogram has: a manifest can say it (spacing_mm)"
)
# mm of the longest side: a detector or film has 180 to 430. A small image may be a crop.
LONGEST_MM, SHORTEST_MM, LEAST_PIXELS = 600.0, 80.0, 512
SQUARE = 1.1  # ratio of a pixel's sides from which on they are not those of one detector


@dataclass(frozen=True)
class Entry:
    """A given mammogram. Paths and ids belong to the user and are not printed.

    Attributes:
      number: from 1, in the order of files and manifest lines; lines without a mammogram do not
        count.
      patient_id: of the manifest; None if the file itself must state it.
      said: `view`, `laterality` and the columns of `conditions.COLUMNS` of the manifest, if it
        has them.
      masks: of the manifest.
      phantom: whether the manifest says that it is one.
    """

    number: int
    path: Path = field(repr=False)
    patient_id: str | None = field(default=None, repr=False)
    spacing_mm: float | None = None
    said: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict, repr=False)
    phantom: bool = False


@dataclass(frozen=True)
class Mammogram:
    """A mammogram that was read.

    Attributes:
      side, view: "L" or "R", "CC" or "MLO" or another word; "" if unknown.
      remark: why its area does not count towards a woman's; "" if it does.
      date: of the examination, as in the file (YYYYMMDD), or "". Never written.
      examination, image: its StudyInstanceUID and SOPInstanceUID, likewise.
      conditions: the groups of `conditions.py` to which the view belongs, as far as they are known.
    """

    entry: Entry
    study: Study
    patient_id: str = field(repr=False)
    side: str = ""
    view: str = ""
    remark: str = ""
    date: str = field(default="", repr=False)
    examination: str = field(default="", repr=False)
    image: str = field(default="", repr=False)
    conditions: Mapping[str, str] = field(default_factory=dict)

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Spacing (y, x) in the plane of the breast, mm; NaN if unknown."""
        return self.study.spacing_mm[1], self.study.spacing_mm[2]


def list_entries(
    files: Sequence[Path], splits: Sequence[str] = ()
) -> tuple[list[Entry], list[tuple[int, str]]]:
    """Mammograms of FILES: images, folders of images, and CSV manifests that list images.

    Args:
      splits: of manifests, only lines of these splits; all if empty.
    Returns:
      The entries, and (line, reason) of unusable manifest lines.
    Raises:
      UserError: a missing file, or no mammogram.
    """
    entries: list[Entry] = []
    refused: list[tuple[int, str]] = []
    for n, path in enumerate(_opened(files), start=1):
        if not path.is_file():
            raise UserError(
                f"FILES: number {n} is not a file. Give DICOM or PNG files, folders of them, or a"
                " manifest (CSV) that lists them."
            )
        if path.suffix.lower() != ".csv":
            entries.append(Entry(len(entries) + 1, path))
            continue
        lines, bad = read_manifest(path)
        refused += [(line.number, line.reason) for line in bad]
        for line in lines:
            if line.modality == "MG" and (not splits or line.split in splits):
                said = {
                    name: line.labels[name].upper()
                    for name in ("view", "laterality")
                    if name in line.labels
                }
                columns = [name for names in COLUMNS.values() for name in names]
                said |= {name: line.labels[name] for name in columns if name in line.labels}
                entries.append(
                    Entry(
                        number=len(entries) + 1,
                        path=line.path,
                        patient_id=line.patient_id,
                        spacing_mm=line.spacing_mm,
                        said=said,
                        masks=line.masks,
                        phantom=is_phantom(line.labels),
                    )
                )
    if not entries:
        raise UserError(
            "FILES hold no mammogram: in a manifest, only lines with the modality MG are read."
        )
    return entries, refused


def _opened(files: Sequence[Path]) -> list[Path]:
    """The files, in the place of a folder those below it by name, without hidden ones and tables:
    a manifest is read where it is named itself.
    """
    found: list[Path] = []
    for path in files:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(each for each in path.rglob("*") if each.is_file())
        hidden = [any(p.startswith(".") for p in each.relative_to(path).parts) for each in inside]
        found += [
            each
            for each, left_out in zip(inside, hidden)
            if not left_out and each.suffix.lower() not in NO_IMAGES
        ]
    return found


def read_mammogram(entry: Entry) -> Mammogram:
    """Read a mammogram, with a remark if its area does not count.

    Raises:
      Refused: as `read_study`; also another modality, no planar image, or a contradiction of the
        manifest.
    """
    with refusing():
        is_dicom = format_of(entry.path) == "dicom"
        tags = _tags(entry.path) if is_dicom else Dataset()
        # A tag may be present but empty, which gives None.
        names = {
            keyword: str(tags.get(keyword, "") or "").strip()
            for keyword in ("PatientID", "StudyDate", "StudyInstanceUID", "SOPInstanceUID")
        }
        with quiet():  # a broken tag is converted, and fails, only when it is looked at
            special_view, maker = special(tags), str(tags.get("Manufacturer") or "")
    if is_dicom and str(tags.get("Modality", "")) != "MG":
        raise Refused("not_an_image", "the file is not a mammogram: its modality is not MG")
    study = read_study(entry.path, spacing_mm=entry.spacing_mm, unit="raw")
    if study.ndim != 2:
        raise Refused("bad_shape", "a volume (tomosynthesis?): give planar mammograms")
    side, view = (_agreed(entry, study, name) for name in ("laterality", "view"))
    # A file without a patient counts as a woman of its own: it must not join another's mean.
    patient = entry.patient_id or names["PatientID"] or f"file {entry.number}"
    return Mammogram(
        entry=entry,
        study=study,
        patient_id=patient,
        side=side,
        view=view,
        # Last: a view that would not count with a spacing spoils nothing without one.
        remark=_remark(study, side, view) or special_view or _unmeasured(study),
        # ACR-NEMA wrote 2019.05.31; dates are compared as text.
        date=re.sub(r"\D", "", names["StudyDate"]),
        examination=names["StudyInstanceUID"],
        image=names["SOPInstanceUID"],
        conditions=_conditions(entry, study, maker),
    )


def _conditions(entry: Entry, study: Study, maker: str) -> dict[str, str]:
    """What the manifest says goes before what the file says."""
    of_file = {
        # "HOLOGIC, Inc." and "Hologic" are one maker.
        "vendor": maker.split(",")[0].strip().title(),
        "thickness": study.attributes.get("body_part_thickness_mm", ""),
        "force": study.attributes.get("compression_force_n", ""),
    }
    found = {}
    for condition, columns in COLUMNS.items():
        cells = [entry.said[name] for name in columns if not is_missing(entry.said.get(name, ""))]
        value = cells[0] if cells else of_file.get(condition, "")
        # A thickness or force of 0 is what was never measured.
        if value and value != 0.0:
            found[condition] = band(condition, str(value))
    return found


def _tags(path: Path) -> Dataset:
    with quiet():
        # Only these tags of the header: nothing else of the patient is read here. `force`, since a
        # file may lack the preamble.
        return pydicom.dcmread(
            path,
            stop_before_pixels=True,
            specific_tags=[
                "Modality",
                "PatientID",
                "StudyDate",
                "StudyInstanceUID",
                "SOPInstanceUID",
                "Manufacturer",
                *KEYWORDS,
            ],
            force=True,
        )


def _agreed(entry: Entry, study: Study, name: str) -> str:
    """Side or view by file and manifest; "" if neither states it.

    Raises:
      Refused: bad_line; they differ.
    """
    keyword = {"laterality": "ImageLaterality", "view": "ViewPosition"}[name]
    # The reader codes such words as numbers; this is the inverse.
    words = {number: word for word, number in CODED[keyword][1].items()}
    of_file = words.get(int(study.attributes.get(name, -1)), "")
    of_manifest = entry.said.get(name, "")
    of_manifest = {"LEFT": "L", "RIGHT": "R"}.get(of_manifest, of_manifest)
    if of_file and of_manifest and of_file != of_manifest:
        raise Refused("bad_line", f"the file's {name} is not that of the manifest")
    return of_file or of_manifest


def _remark(study: Study, side: str, view: str) -> str:
    said = study.attributes
    distances = said.get("source_to_detector_mm", 0.0), said.get("source_to_patient_mm", 0.0)
    # The image on the detector is larger by source-to-detector over source-to-patient.
    by_distance = distances[0] / distances[1] if min(distances) > 0 else 1.0
    # The larger counts: a factor of 1 may be a default that nobody filled in.
    magnified = max(said.get("magnification", 1.0), by_distance) >= MAGNIFIED
    if said.get("magnification_view") == 1 or magnified:
        return "a magnification view"
    if said.get("breast_implant") == 1:
        return "an implant, which hides tissue"
    if said.get("for_presentation") == 0:
        return "raw data of the detector (FOR PROCESSING), not an image for reading"
    if side not in ("L", "R"):
        return "the side is not known: a manifest can say it (laterality)"
    if view not in COUNTED_VIEWS:
        return "the view is neither CC nor MLO, or not known: a manifest can say it (view)"
    return ""


def _unmeasured(study: Study) -> str:
    spacing = np.array(study.spacing_mm[1:])
    if np.isnan(spacing).any():
        return NO_SPACING
    longest = float(max(study.voxels.shape[1:] * spacing))
    short = longest < SHORTEST_MM and max(study.voxels.shape) >= LEAST_PIXELS
    square = spacing.max() < SQUARE * spacing.min()
    return "" if square and longest <= LONGEST_MM and not short else ODD_SPACING
