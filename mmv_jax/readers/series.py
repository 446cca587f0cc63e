"""Planes in space -> one volume: order, spacing and orientation from positions, and a name for each
way in which they are no volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from highdicom.spatial import get_volume_positions
from pydicom.dataset import Dataset

from mmv_jax.readers.deidentify import number_of
from mmv_jax.readers.image import MIN_SPACING_MM
from mmv_jax.readers.orient import Orientation, orientation_of, triple
from mmv_jax.readers.refused import Refused

COSINE_TOLERANCE = 1e-3  # between planes of one series; 0.06 degrees
SLACK = 0.01  # of the slice distance, as highdicom's default: what rounding in a header does


@dataclass(frozen=True)
class Plane:
    """Where a frame lies. `cosines`: along a row, then down a column (ImageOrientationPatient);
    `spacing_mm`: (y, x) of the frame.
    """

    position_mm: tuple[float, float, float]
    cosines: tuple[float, ...]
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]


def plane_of(dataset: Dataset, shared: Dataset | None = None, own: Dataset | None = None) -> Plane:
    """The plane of a file, or of a frame whose functional groups are `own` and `shared`.

    Raises:
      Refused: no_position.
    """

    def source(sequence: str) -> Dataset:
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

    row, column = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    return Plane(
        position_mm=triple(numbers("PlanePositionSequence", "ImagePositionPatient", 3)),
        cosines=tuple(numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)),
        spacing_mm=(row, column),
        shape=(int(dataset.Rows), int(dataset.Columns)),
    )


def arrange(planes: Sequence[Plane]) -> tuple[list[int], Orientation]:
    """The place k of every plane along the normal, and the orientation of the volume (k, row,
    column).

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
    if not np.allclose([along @ along, down @ down, 1 + along @ down], 1, atol=1e-2):
        raise Refused(
            "bad_spacing", "ImageOrientationPatient is not two unit vectors at a right angle"
        )
    positions = np.array([plane.position_mm for plane in planes])
    check_stack(positions, np.cross(along, down))
    # slant is judged by orientation_of
    places = get_volume_positions(positions.tolist(), first.cosines, perpendicular_tol=1.0)[1]
    if places is None:
        raise Refused("uneven_slices", "the distances between the slices vary by more than 1 %")
    bottom, top = positions[np.argmin(places)], positions[np.argmax(places)]
    step = (top - bottom) / (len(planes) - 1)
    astray = np.linalg.norm(positions - bottom - np.array(places)[:, None] * step, axis=1).max()
    if astray > max(SLACK * np.linalg.norm(step), 0.5 * min(first.spacing_mm)):
        raise Refused(
            "uneven_slices", f"a slice lies {astray:.2f} mm beside the line of the others"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 3] = step, bottom
    affine[:3, 1], affine[:3, 2] = down * first.spacing_mm[0], along * first.spacing_mm[1]
    return places, orientation_of((len(planes), *first.shape), affine)


def check_stack(positions: np.ndarray, normal: np.ndarray) -> None:
    """Names the defect where slices lie twice at one place or leave gaps of whole slices.

    Raises:
      Refused: duplicate_slices, missing_slices.
    """
    gaps = np.diff(np.sort(positions @ normal))
    if gaps.min() <= max(MIN_SPACING_MM, SLACK * np.median(gaps)):
        raise Refused(
            "duplicate_slices",
            "two slices lie at one position (repeated files, or several phases in one series)",
        )
    steps = gaps / gaps.min()
    if steps.max() > 1.5 and np.abs(steps - np.rint(steps)).max() < 0.05 * steps.max():
        missing = int(np.rint(steps - 1).sum())
        raise Refused(
            "missing_slices",
            f"{missing} of {missing + len(positions)} slices are missing between the first and the"
            " last",
        )
