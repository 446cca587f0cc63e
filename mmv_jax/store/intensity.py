"""Intensities of a study as stored: 16-bit values, foreground percentiles, occupancy map.

Axes: z, y, x of a study's own grid. Everything runs in slabs of z, so a large CT is never held
twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mmv_jax.store.layout import CELLS, cell_edges

SLAB_VOXELS = 4 << 20
LEVELS = 1 << 16
AIR_HU = -900.0
# A cell is background if at most this share of its voxels is above the threshold.
SHARE_OF_CELL = 0.01
# background threshold of a raw study: this share of p0.5 to p99.5, above p0.5
SHARE_OF_RANGE = 0.02
FLAT = 0.01  # share of the same range: largest standard deviation of a flat raw cell


@dataclass(frozen=True)
class Stored:
    """Voxels as they are stored: `value = voxels * slope + intercept`."""

    voxels: np.ndarray  # int16 [z, y, x]
    slope: float
    intercept: float


def slabs(voxels: np.ndarray, multiple: int = 1) -> Iterator[slice]:
    """Slices of z with about SLAB_VOXELS voxels each; each begins at a multiple of `multiple`."""
    # At least one plane a slab, however large it is.
    step = multiple * max(1, SLAB_VOXELS // (multiple * voxels.shape[1] * voxels.shape[2]))
    return (slice(z, z + step) for z in range(0, voxels.shape[0], step))


def to_int16(voxels: np.ndarray) -> Stored:
    """Values as int16: lossless if possible, else in 65,536 steps over their range.

    Lossless are whole numbers with a range of at most 16 bits. Otherwise the error is at most half
    a step, (max - min) / 131,070.

    Raises:
      ValueError: a value is not finite.
    """
    low = min(voxels[s].min() for s in slabs(voxels))
    high = max(voxels[s].max() for s in slabs(voxels))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("voxels are not finite")
    # Python numbers: the difference of two int16 could wrap around.
    low, high = (int(low), int(high)) if voxels.dtype.kind in "iub" else (float(low), float(high))
    whole = voxels.dtype.kind in "iub" or all(
        np.array_equal(voxels[s], np.rint(voxels[s])) for s in slabs(voxels)
    )
    if whole and high - low < LEVELS:
        # If the range fits but the values do not, shift them so that the lowest is -32,768.
        fits = low >= -LEVELS // 2 and high < LEVELS // 2
        slope, intercept = 1.0, 0.0 if fits else float(int(low) + LEVELS // 2)
    elif high == low:
        # A step of 1 from the lowest level would lose the value's last digits in float32.
        slope, intercept = 1.0, low
    else:
        slope = (high - low) / (LEVELS - 1)
        # -32,768 stands for the lowest value and 32,767 for the highest.
        intercept = low + slope * (LEVELS // 2)
    if voxels.dtype == np.int16:
        return Stored(voxels, 1.0, 0.0)
    stored = np.empty(voxels.shape, np.int16)
    for s in slabs(voxels):
        # float64: float32 has 24 bits and would lose steps of a large range.
        steps = (voxels[s].astype(np.float64) - intercept) / slope
        stored[s] = np.clip(np.rint(steps), -LEVELS // 2, LEVELS // 2 - 1)
    return Stored(stored, slope, intercept)


def occupancy(stored: Stored, unit: str, ndim: int) -> np.ndarray:
    """Map of the cells that are not background: bool `[8, 8, 8]`, or `[1, 16, 16]` if planar.

    Cells are equal divisions of the study's grid (`layout.cell_edges`). A cell is background if its
    99th percentile is at most
      HU: -900.
      shape: 0; here a single voxel of 1 makes the cell foreground.
      raw: p0.5 + 2 % of (p99.5 - p0.5) of the whole study. The cell must also be flat: its standard
        deviation is at most 1 % of that range. Dark tissue has texture, a collimator and the air
        around a patient have none.
    If all cells were background, all are set, so that no study is without tokens.
    """
    cells = CELLS[ndim]
    edges = [cell_edges(n, c) for n, c in zip(stored.voxels.shape, cells)]
    starts = [np.unique(e[:-1]) for e in edges]  # the non-empty cells
    # The threshold is converted to the stored scale, which needs no copy of the voxels.
    if unit == "shape":
        occupied = _share_above(stored.voxels, starts, (0.0 - stored.intercept) / stored.slope) > 0
    elif unit == "HU":
        occupied = (
            _share_above(stored.voxels, starts, (AIR_HU - stored.intercept) / stored.slope)
            > SHARE_OF_CELL
        )
    else:
        # Both are stored values, and so is the threshold made of them: no scale is needed.
        low, high = histogram_percentiles(_histogram(stored.voxels), (0.5, 99.5))
        bright = (
            _share_above(stored.voxels, starts, low + SHARE_OF_RANGE * (high - low)) > SHARE_OF_CELL
        )
        occupied = bright | (_deviation(stored.voxels, starts, low) > FLAT * (high - low))
    if not occupied.any():
        occupied[:] = True
    for axis, (e, s) in enumerate(zip(edges, starts)):
        # An empty cell lies inside one voxel and has the value of that voxel's cell.
        occupied = occupied.take(np.searchsorted(s, e[:-1]), axis)
    return occupied


def foreground_percentiles(
    stored: Stored, occupied: np.ndarray, percentiles: tuple[float, ...]
) -> tuple[float, ...]:
    """Percentiles (nearest rank) of the true values of all voxels in occupied cells."""
    z, y, x = (_cell_of(n, c) for n, c in zip(stored.voxels.shape, occupied.shape))
    counts = np.zeros(LEVELS, np.int64)
    for k in np.unique(z):
        inside = (
            # One layer of cells at a time, so that no mask of the whole volume is made.
            stored.voxels[z == k]
            if occupied[k].all()
            else stored.voxels[z == k][:, occupied[k][np.ix_(y, x)]]
        )
        counts += _histogram(inside)
    return tuple(
        float(p * stored.slope + stored.intercept)
        for p in histogram_percentiles(counts, percentiles)
    )


def histogram_percentiles(counts: np.ndarray, percentiles: tuple[float, ...]) -> tuple[int, ...]:
    """Int16 value at each percentile (nearest rank) of a histogram of int16 values."""
    # Nearest rank: the ceil(p / 100 * n)-th smallest value, and the first one for p = 0.
    ranks = np.ceil(np.array(percentiles) / 100 * counts.sum()).clip(1)
    return tuple(int(v) - LEVELS // 2 for v in np.searchsorted(np.cumsum(counts), ranks))


def _histogram(voxels: np.ndarray) -> np.ndarray:
    """Counts of int16 values, from -32,768 up.

    It works in pieces, because bincount widens its input to 64 bits.
    """
    flat = np.ascontiguousarray(voxels).reshape(-1)
    counts = np.zeros(LEVELS, np.int64)
    for i in range(0, flat.size, SLAB_VOXELS):
        counts += np.bincount(
            flat[i : i + SLAB_VOXELS].astype(np.int64) + LEVELS // 2, minlength=LEVELS
        )
    return counts


def _cell_of(voxels: int, cells: int) -> np.ndarray:
    """Cell index of each voxel of an axis."""
    # From the right: of empty cells with the same edge, the last one holds the voxel.
    return np.searchsorted(cell_edges(voxels, cells), np.arange(voxels), side="right") - 1


def _cell_means(
    voxels: np.ndarray, starts: list[np.ndarray], of_fn: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Means of `of_fn(voxels)` over the non-empty cells, one group of z at a time."""
    z, y, x = starts
    depth, height, width = (np.diff(np.append(s, n)) for s, n in zip(starts, voxels.shape))
    planes = [of_fn(voxels[a : a + d]).sum(axis=0, dtype=np.float64) for a, d in zip(z, depth)]
    # reduceat sums from each start to the next, so no empty cell may be among them.
    sums = np.add.reduceat(np.add.reduceat(np.stack(planes), y, axis=1), x, axis=2)
    return sums / (depth[:, None, None] * height[None, :, None] * width[None, None, :])


def _share_above(voxels: np.ndarray, starts: list[np.ndarray], threshold: float) -> np.ndarray:
    return _cell_means(voxels, starts, lambda v: v > threshold)


def _deviation(voxels: np.ndarray, starts: list[np.ndarray], origin: int) -> np.ndarray:
    """Standard deviation in each cell, in stored values.

    Squares are taken from `origin`, the study's dark end, to stay exact where it matters.
    """
    mean = _cell_means(voxels, starts, lambda v: v) - origin
    square = _cell_means(voxels, starts, lambda v: np.square(v.astype(np.float32) - origin))
    # E[x²] - E[x]²; rounding can bring a flat cell below 0.
    return np.sqrt(np.maximum(square - mean**2, 0.0))
