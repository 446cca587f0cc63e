"""One volume from planes in space: order, spacing and orientation come from positions.

Planes that do not form a volume are refused with a code that names the defect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from mmv_jax.readers.deidentify import number_of
from mmv_jax.readers.image import MIN_SPACING_MM
from mmv_jax.readers.odd_series import odd_series
from mmv_jax.readers.orient import Orientation, orientation_of, triple
from mmv_jax.readers.refused import Refused

COSINE_TOLERANCE = 1e-3  # between the planes of one series; 0.06 degrees
# error of a position with one decimal, and of the line fitted through such positions
ROUNDED_MM = 0.06
SLACK = 0.01  # share of the slice distance, highdicom's default: the effect of rounding in a header


@dataclass(frozen=True)
class Plane:
    """Position of a frame in space, LPS mm.

    Attributes:
      position_mm: (x, y, z) of the centre of the first pixel (ImagePositionPatient).
      cosines: direction along a row, then down a column (ImageOrientationPatient).
      spacing_mm: (y, x) of the frame.
      shape: (rows, columns).
      stated_steps_mm: distances to the next plane as stated by the header; used only if positions
        are rounded.
    """

    position_mm: tuple[float, float, float]
    cosines: tuple[float, ...]
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    stated_steps_mm: tuple[float, ...] = ()


# Constant within a scan. If values alternate along the body, two scans interleave.
CONSTANT = (
    "AcquisitionNumber", "TemporalPositionIdentifier", "StackID", "EchoNumbers", "SeriesNumber",
    "SeriesDescription", "AcquisitionDate", "ImageType", "ConvolutionKernel", "KVP",
    "SliceThickness", "ReconstructionDiameter", "FilterType", "EchoTime", "InversionTime",
    "FlipAngle", "DiffusionBValue", "ScanningSequence", "Manufacturer", "PatientPosition",
    "NominalPercentageOfCardiacPhase",
)  # fmt: skip
FRAME_TYPES = (
    "CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
)  # fmt: skip


def check_one_series(headers: Sequence[Dataset]) -> tuple[tuple[str, str], ...]:
    """Refuse slices that share a SeriesInstanceUID but are not one volume of one person.

    Values such as AcquisitionNumber may change along the body. If a few of them alternate, slices
    of several phases interleave.

    Returns:
      Warnings as (code, reason), as of `odd_series`.
    Raises:
      Refused: several_series, several_phases.
    """
    whose = ["PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"]
    whose += ["FrameOfReferenceUID"]
    if not any(str(header.get("PatientID") or "") for header in headers):
        whose.append("PatientName")  # where there is an id, names may be spelled in two ways
    for keyword in whose:
        if len({str(header.get(keyword) or "") for header in headers}) > 1:
            raise Refused("several_series", f"the slices of one series differ in {keyword}")
    along = [number_of(header, "ImagePositionPatient", 2) for header in headers]
    # By height (z of the position): interleaved phases alternate in this order.
    order = sorted(range(len(headers)), key=lambda n: (along[n] or 0.0, n))
    keywords = list(CONSTANT)
    if all(header.get("Modality") == "CT" for header in headers):
        keywords += ["AcquisitionTime", "ContrastBolusAgent"]
    for keyword in keywords:
        check_phases(keyword, [str(headers[n].get(keyword) or "") for n in order])
    return odd_series(headers)


def frame_type(
    dataset: Dataset, shared: Dataset | None, own: Dataset | None
) -> str | Sequence[str] | None:
    """FrameType of a frame of an enhanced file; where it has none, ImageType of the file."""
    groups = [group for group in (own, shared) if group is not None]
    items = [group[name][0] for group in groups for name in FRAME_TYPES if group.get(name)]
    kinds = [item.get("FrameType") for item in items]
    return next((kind for kind in kinds if kind), dataset.get("ImageType"))


def check_phases(keyword: str, values: Sequence[str]) -> None:
    """Refuse a header value that alternates along the body.

    Args:
      keyword: DICOM keyword, for the message.
      values: one for each slice, in the order of the slices.
    Raises:
      Refused: several_phases.
    """
    kinds = len(set(values))
    turns = sum(a != b for a, b in zip(values, values[1:]))
    # Blocks that follow each other change kinds - 1 times. As many kinds as slices means a counter.
    if 1 < kinds <= len(values) // 2 and turns > kinds - 1:
        raise Refused(
            "several_phases",
            f"{kinds} values of {keyword} take turns along the body: give each phase a folder",
        )


def plane_of(dataset: Dataset, shared: Dataset | None = None, own: Dataset | None = None) -> Plane:
    """Plane of a file, or of a frame with the functional groups `own` and `shared`.

    Raises:
      Refused: no_position.
    """

    def source(sequence: str) -> Dataset:
        # A frame's own functional group takes precedence over the shared one, and both over the
        # data set.
        for group in (own, shared):
            if group is not None and group.get(sequence):
                return group.get(sequence)[0]
        return dataset

    def numbers(sequence: str, keyword: str, count: int) -> list[float]:
        found = [number_of(source(sequence), keyword, n) for n in range(count)]
        known = [number for number in found if number is not None]
        if len(known) < count:
            raise Refused(
                "no_position",
                f"a frame has no {keyword}: where it lies in the patient is not known",
            )
        return known

    # PixelSpacing: between rows (y) first, then between columns (x).
    row, column = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if min(row, column) < 0:
        raise Refused("bad_spacing", "PixelSpacing is negative: it may not mirror an image")
    stated = [
        number_of(group, keyword)
        for keyword in ("SpacingBetweenSlices", "SliceThickness")
        for group in (source("PixelMeasuresSequence"), dataset)
    ]
    return Plane(
        position_mm=triple(numbers("PlanePositionSequence", "ImagePositionPatient", 3)),
        cosines=tuple(numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)),
        spacing_mm=(row, column),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        stated_steps_mm=tuple(mm for mm in stated if mm is not None and mm > 0),
    )


def arrange(planes: Sequence[Plane]) -> tuple[list[int], Orientation]:
    """Index k of each plane along the normal, and the orientation of the volume (k, row, column).

    Raises:
      Refused: mixed_size, mixed_orientation, duplicate_slices, missing_slices, uneven_slices,
        sheared, bad_spacing.
    """
    first = planes[0]
    if any(plane.shape != first.shape for plane in planes):
        raise Refused("mixed_size", "the slices differ in rows or columns")
    if not np.allclose([plane.spacing_mm for plane in planes], first.spacing_mm, rtol=1e-3, atol=0):
        raise Refused("mixed_size", "the slices differ in pixel spacing")
    if not np.allclose(
        [plane.cosines for plane in planes], first.cosines, rtol=0, atol=COSINE_TOLERANCE
    ):
        raise Refused(
            "mixed_orientation", "the slices lie in different directions (a localizer among them?)"
        )
    along, down = np.array(first.cosines[:3]), np.array(first.cosines[3:])
    # Two unit vectors and a right angle in one test: 1, 1 and 1 + 0.
    if not np.allclose([along @ along, down @ down, 1 + along @ down], 1, atol=1e-2):
        raise Refused(
            "bad_spacing", "ImageOrientationPatient is not two unit vectors at a right angle"
        )
    from highdicom.spatial import get_volume_positions

    positions = np.array([plane.position_mm for plane in planes])
    check_stack(positions, np.cross(along, down))
    # orientation_of checks the slant
    places = get_volume_positions(positions.tolist(), first.cosines, perpendicular_tol=1.0)[1]
    # Where highdicom finds no even grid, positions may be rounded: try with a tolerance.
    rounded = places is None
    if places is None:
        places = rounded_places(positions @ np.cross(along, down))
    if places is None:
        raise Refused("uneven_slices", "the distances between the slices vary by more than 1 %")
    # Not the first and the last file: the order of files says nothing about height.
    bottom, top = positions[np.argmin(places)], positions[np.argmax(places)]
    step = (top - bottom) / (len(planes) - 1)
    # Distance of each position from its place on the line between the two ends, in mm.
    astray = np.linalg.norm(positions - bottom - np.array(places)[:, None] * step, axis=1).max()
    if astray > max(SLACK * np.linalg.norm(step), ROUNDED_MM, 0.5 * min(first.spacing_mm)):
        raise Refused(
            "uneven_slices", f"a slice lies {astray:.2f} mm beside the line of the others"
        )
    if rounded:
        # The direction of the line stays; its length comes from a better source than rounded ends.
        step = step * (even_step(positions @ np.cross(along, down), planes) / np.linalg.norm(step))
    # Columns for (k, row, column). PixelSpacing[0] lies between rows, so along `down`.
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 3] = step, bottom
    affine[:3, 1], affine[:3, 2] = down * first.spacing_mm[0], along * first.spacing_mm[1]
    return places, orientation_of((len(planes), *first.shape), affine)


def rounded_places(heights: np.ndarray) -> list[int] | None:
    """Index of each slice on an even grid within ROUNDED_MM of all; None if there is no such grid.

    Positions with one decimal turn steps of 0.625 mm into 0.6 and 0.7. The grid is a least-squares
    line, since the first and the last position are rounded too.

    Args:
      heights: positions along the normal, mm.
    """
    # Two argsorts give the rank of each slice.
    places = np.argsort(np.argsort(heights))
    line = np.polyval(np.polyfit(places, heights, 1), places)
    return places.tolist() if np.abs(heights - line).max() <= ROUNDED_MM else None


def even_step(heights: np.ndarray, planes: Sequence[Plane]) -> float:
    """Distance in mm between slices with rounded positions.

    It is the header's value if the positions allow it, otherwise the slope of a least-squares line.
    """
    heights = np.sort(heights)
    count = len(heights)
    for mm in planes[0].stated_steps_mm:
        # Deviations from an even grid; each may be off by ROUNDED_MM to either side.
        beside = heights - np.arange(count) * mm
        if beside.max() - beside.min() <= 2 * ROUNDED_MM:
            return mm
    return float(np.polyfit(np.arange(count), heights, 1)[0])


def check_stack(positions: np.ndarray, normal: np.ndarray) -> None:
    """Refuse slices that share a position or leave gaps of whole slices.

    Args:
      positions: `[slices, 3]` in mm.
      normal: unit vector of the slices.
    Raises:
      Refused: duplicate_slices, missing_slices.
    """
    gaps = np.diff(np.sort(positions @ normal))
    if gaps.min() <= max(MIN_SPACING_MM, SLACK * np.median(gaps)):
        raise Refused(
            "duplicate_slices",
            "two slices lie at one position (repeated files, or several phases in one series)",
        )
    # Gaps in units of the smallest: near whole numbers mean lost slices, others uneven ones.
    steps = gaps / gaps.min()
    if steps.max() > 1.5 and np.abs(steps - np.rint(steps)).max() < 0.05 * steps.max():
        missing = int(np.rint(steps - 1).sum())
        raise Refused(
            "missing_slices",
            f"{missing} of {missing + len(positions)} slices are missing between the first and the"
            " last",
        )
