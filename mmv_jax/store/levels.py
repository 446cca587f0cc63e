"""Coarser copies (levels) of a large study. Axes: z, y, x of the grid at hand.

A crop that shows all of a CT on 160 voxels a side then need not decode 80 million voxels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int16

from mmv_jax.store.intensity import slabs

LARGE = 1 << 20  # voxels: a grid with more than this has a coarser copy
# Least number of steps over a study's range on a level. Without it, means of zeros and ones would
# be rounded to zeros and ones.
STEPS = 1 << 12

Triple = tuple[int, int, int]


def level_factors(grid: Sequence[int], spacing_mm: Sequence[float]) -> list[Triple]:
    """Downsampling factors (z, y, x) of each coarser level, from fine to coarse.

    Each level halves the axes of the one before, except axes whose voxels are already coarse.
    Slices of 5 mm are not averaged until the pixels are as large, because a crop's voxels are
    cubes.

    Args:
      grid: shape of the study.
      spacing_mm: of the study, more than 0. NaN (unknown) is taken as the finest known spacing.

    Example:
      >>> level_factors((300, 512, 512), (1.0, 0.7, 0.7))
      [(2, 2, 2), (4, 4, 4), (8, 8, 8)]
      >>> level_factors((60, 512, 512), (5.0, 0.7, 0.7)), level_factors((1, 512, 512), (1, 1, 1))
      ([(1, 2, 2), (1, 4, 4)], [])
    """
    full, spacing = np.array(grid, np.int64), np.array(spacing_mm, float)
    # An axis of one voxel has no spacing to compare with.
    known = spacing[(full > 1) & np.isfinite(spacing)]
    spacing = np.where(np.isfinite(spacing), spacing, known.min() if known.size else 1.0)
    levels, factor = list[Triple](), np.ones(3, np.int64)
    # Ceiling division: an odd end makes its own voxel.
    while np.prod(now := -(-full // factor)) > LARGE:
        # An axis is halved unless its voxels are twice as coarse as the finest.
        several, size = now > 1, spacing * factor
        factor = np.where(several & (size < 2 * size[several].min()), 2 * factor, factor)
        levels.append((int(factor[0]), int(factor[1]), int(factor[2])))
    return levels


def level_scale(low: int, high: int) -> tuple[int, int]:
    """Scale (gain, offset) of a study's levels.

    A mean is stored as `(mean - offset) * gain`, rounded.

    Args:
      low, high: range of the study's 16-bit values. If it is small, gain is above 1 and a mean is
        rounded to a fraction of a step.
    """
    # The largest power of two for which the range times gain is within STEPS, at least 1.
    # A power of two divides out without a rounding error.
    gain = 1 << max(0, (STEPS // max(high - low, 1)).bit_length() - 1)
    return gain, low if gain > 1 else 0


def coarser(
    voxels: Int16[np.ndarray, "z y x"],
    before: Triple,
    factor: Triple,
    grid: Sequence[int],
    gain: int = 1,
    offset: int = 0,
) -> Int16[np.ndarray, "Z Y X"]:
    """The level of `factor`, computed from the finer level `before` or from the study itself.

    At an odd end, the last voxel is the mean of the remaining voxels.

    Args:
      before: factor of `voxels`; (1, 1, 1) for the study itself.
      factor: once or twice `before` along each axis.
      grid: shape of the study.
      gain, offset: from `level_scale`, if `voxels` are the study's own.
    """
    out = np.empty([-(-n // f) for n, f in zip(grid, factor)], np.int16)
    # The last voxel of an axis may average fewer voxels, and then weighs less.
    counts = [covered(n, f) for n, f in zip(grid, before)]
    # Even starts: no pair of planes is split between two slabs.
    for slab in slabs(voxels, multiple=2):
        means = voxels[slab].astype(np.float32)
        for axis, own in enumerate([counts[0][slab], *counts[1:]]):
            if factor[axis] > before[axis]:
                means = _halved(means, axis, own)
        # Half of the start where z is halved, otherwise the start itself.
        first = slab.start * before[0] // factor[0]
        out[first : first + len(means)] = np.rint((means - offset) * gain)
    return out


def covered(voxels: int, factor: int) -> np.ndarray:
    """Number of a study's voxels in each voxel of a level, along one axis.

    It is `factor`, except that the last voxel has the remainder.

    Example:
      >>> covered(9, 4).tolist()
      [4, 4, 1]
    """
    starts = np.arange(0, voxels, factor)
    return np.minimum(voxels - starts, factor)


def _halved(values: np.ndarray, axis: int, counts: np.ndarray) -> np.ndarray:
    """Means of neighbours along an axis; a last value without a neighbour is kept.

    Args:
      counts: how many voxels each value is the mean of; the last may be smaller.
    """
    values = np.moveaxis(values, axis, 0)
    pairs = len(values) // 2
    # With an odd length the last value has no neighbour and stays unchanged.
    means = values[::2].copy()
    means[:pairs] += values[1::2]
    means[:pairs] *= np.float32(0.5)
    if len(values) == 2 * pairs and counts[-1] < counts[0]:
        # Weighted mean of the last pair: (1 - share) a + share b = a + share (b - a).
        share = np.float32(counts[-1] / (counts[-2] + counts[-1]))
        means[-1] = values[-2] + share * (values[-1] - values[-2])
    return np.moveaxis(means, 0, axis)
