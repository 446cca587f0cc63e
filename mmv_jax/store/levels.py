"""Coarser copies of a large study: a crop of all of a CT on 160 voxels a side need not decode 80 million. Axes: z, y, x of the grid at hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int16

from mmv_jax.store.intensity import slabs

LARGE = 1 << 20  # voxels: a grid with more than this has a coarser copy
STEPS = 1 << 12  # that a study's range has on a level at the least: means of zeros and ones are rounded finer than to zeros and ones

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Level:
    """Values as they are stored: a mean in the study's own 16-bit steps is `voxels / gain + offset`."""

    voxels: Int16[np.ndarray, "z y x"]
    gain: int
    offset: int


def level_factors(grid: Sequence[int], spacing_mm: Sequence[float]) -> list[Triple]:
    """How many of the study's voxels (z, y, x) one voxel of each coarser level is the mean of, from fine to coarse.

    A level has half the voxels of the one before along each axis, but for those that are coarse already: slices of 5 mm are not averaged before
    their pixels are as large, since a crop's voxels are cubes.

    Args:
      grid: of the study.
      spacing_mm: of the study, more than 0; NaN where unknown, which is taken for as fine as the finest.

    Example:
      >>> level_factors((300, 512, 512), (1.0, 0.7, 0.7)), level_factors((60, 512, 512), (5.0, 0.7, 0.7)), level_factors((1, 512, 512), (1, 1, 1))
      ([(2, 2, 2), (4, 4, 4), (8, 8, 8)], [(1, 2, 2), (1, 4, 4)], [])
    """
    full, spacing = np.array(grid, np.int64), np.array(spacing_mm, float)
    known = spacing[(full > 1) & np.isfinite(spacing)]
    spacing = np.where(np.isfinite(spacing), spacing, known.min() if known.size else 1.0)
    levels, factor = list[Triple](), np.ones(3, np.int64)
    while np.prod(now := -(-full // factor)) > LARGE:
        several, size = now > 1, spacing * factor
        factor = np.where(several & (size < 2 * size[several].min()), 2 * factor, factor)
        levels.append((int(factor[0]), int(factor[1]), int(factor[2])))
    return levels


def coarser(voxels: Int16[np.ndarray, "z y x"], factor: Triple, low: int, high: int) -> Level:
    """The means of boxes of so many voxels; at an odd end, of the voxels that are left.

    Args:
      low, high: of all voxels. Where they are few steps apart a mean is rounded to a share of a step.
    """
    out = np.empty([-(-n // f) for n, f in zip(voxels.shape, factor)], np.int16)
    gain = 1 << max(0, (STEPS // max(high - low, 1)).bit_length() - 1)
    offset = low if gain > 1 else 0
    for slab in slabs(voxels, multiple=factor[0]):
        first = slab.start // factor[0]
        means = _means(voxels[slab].astype(np.float32), factor)
        out[first : first + len(means)] = np.rint((means - offset) * gain)
    return Level(out, gain, offset)


def covered(voxels: int, factor: int) -> np.ndarray:
    """How many of an axis's voxels each voxel of a level is the mean of: `factor`, and the last one what is left.

    Example:
      >>> covered(9, 4).tolist()
      [4, 4, 1]
    """
    starts = np.arange(0, voxels, factor)
    return np.minimum(voxels - starts, factor)


def _means(values: Float32[np.ndarray, "z y x"], factor: Triple) -> Float32[np.ndarray, "Z Y X"]:
    for axis, f in enumerate(factor):
        if f > 1:
            shape = [1, 1, 1]
            shape[axis] = -1
            counts = covered(values.shape[axis], f).astype(np.float32)
            values = np.add.reduceat(values, np.arange(0, values.shape[axis], f), axis=axis) / counts.reshape(shape)
    return values
