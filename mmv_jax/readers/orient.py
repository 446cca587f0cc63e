"""Orientation: from the axes of a file to `[z, y, x]` in LPS+ order.

Axes are only permuted and flipped; nothing is interpolated. An oblique volume keeps its own grid:
each axis takes the name of the nearest anatomical axis. The attribute `obliquity_deg` says how far
off that is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from nibabel.orientations import io_orientation

from mmv_jax.readers.refused import Refused

T = TypeVar("T")
# A straight box of voxels would show a slanted patient beyond this: 1 degree over 300 mm is 5 mm.
MAX_SHEAR_DEG = 1.0
# Limit of one voxel, checked before any arithmetic that could overflow. A plausible spacing is
# checked later, together with the manifest's.
MAX_STEP_MM = 1e6
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Orientation:
    """Map from the axes (k, j, i) of a file to (z, y, x).

    `oriented` and `source` return views: no voxel moves until one is assigned.

    Attributes:
      order: for each of z, y, x the axis of the file.
      steps: for each of z, y, x 1 or -1.
      spacing_mm: (z, y, x).
      first_mm, last_mm: (z, y, x) position of the centres of the first and the last voxel, LPS.
      obliquity_deg: the largest angle between an axis and the anatomical axis whose name it takes.
    """

    order: tuple[int, int, int]
    steps: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    first_mm: tuple[float, float, float]
    last_mm: tuple[float, float, float]
    obliquity_deg: float

    def oriented(self, source: np.ndarray) -> np.ndarray:
        """View `[z, y, x]` of the file's array (k, j, i)."""
        return source.transpose(self.order)[self._flips]

    def source(self, oriented: np.ndarray) -> np.ndarray:
        """View of an array `[z, y, x]` in the file's order (k, j, i).

        Assign to it to fill the array.
        """
        # argsort of a permutation is its inverse.
        return oriented[self._flips].transpose(np.argsort(self.order))

    @property
    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, step) for step in self.steps)


def orientation_of(shape: tuple[int, int, int], affine: np.ndarray) -> Orientation:
    """Orientation of a grid of `shape` (k, j, i); `affine` maps voxel indices to LPS mm.

    Raises:
      Refused: bad_spacing (singular or not finite), sheared.
    """
    axes, lengths = _axes(affine)
    named = io_orientation(affine)  # per axis of the file: (anatomical axis, sense)
    # x, y, z of space are 0, 1, 2; a volume is indexed by (z, y, x), hence the order (2, 1, 0).
    order = triple(int(np.flatnonzero(named[:, 0] == anatomical)[0]) for anatomical in (2, 1, 0))
    steps = triple(int(named[axis, 1]) for axis in order)
    corners = np.zeros((2, 4))  # indices of the first and the last voxel, homogeneous
    corners[:, 3] = 1
    for axis, step in zip(order, steps):
        # A flipped axis begins at its highest index, an unflipped one ends there.
        corners[int(step > 0), axis] = shape[axis] - 1
    # From (x, y, z), as in an affine, to (z, y, x).
    first, last = (corners @ affine.T)[:, [2, 1, 0]]
    # The smallest cosine belongs to the largest angle. Rounding can lift a cosine above 1.
    cosine = min(abs(axes[anatomical, axis]) for anatomical, axis in zip((2, 1, 0), order))
    return Orientation(
        order=order,
        steps=steps,
        spacing_mm=triple(float(lengths[axis]) for axis in order),
        first_mm=triple(map(float, first)),
        last_mm=triple(map(float, last)),
        obliquity_deg=float(np.rad2deg(np.arccos(min(1.0, cosine)))),
    )


def _axes(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of an affine (as columns) and their lengths in mm.

    Raises:
      Refused: bad_spacing; sheared (not at right angles).
    """
    columns = affine[:3, :3]
    if not np.isfinite(affine).all() or np.abs(columns).max() > MAX_STEP_MM:
        raise Refused(
            "bad_spacing", "the transform from voxels to millimetres has a number that is no length"
        )
    lengths = np.linalg.norm(columns, axis=0)
    if not (lengths > 0).all():
        raise Refused(
            "bad_spacing", "the transform from voxels to millimetres has an axis of length 0"
        )
    axes = columns / lengths
    # Off the diagonal are cosines between axes, that is sines of their error from 90 degrees.
    slant = np.abs(axes.T @ axes - np.eye(3)).max()
    if slant > np.sin(np.deg2rad(MAX_SHEAR_DEG)):
        angle = np.rad2deg(np.arcsin(min(slant, 1.0)))
        raise Refused(
            "sheared",
            f"the axes are {angle:.1f} degrees off a right angle (a tilted gantry?); resample it to"
            " a straight grid first",
        )
    return axes, lengths


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """The three values as a tuple."""
    z, y, x = values
    return z, y, x
