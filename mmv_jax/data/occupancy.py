"""Patches of a crop that become tokens, from the index alone. Axes: N studies, t patches."""

import numpy as np
from jaxtyping import Bool, Int

from mmv_jax.data.crops import Crops, Geometry, Triple

CHUNK = 4096  # studies whose token grids are counted at once; it bounds memory


def kept_tokens(
    geometry: Geometry, crops: Crops, tokens: str = "occupied"
) -> Bool[np.ndarray, "N tz ty tx"]:
    """Mask of the patches to keep in crop i of study i.

    Args:
      tokens: "occupied": a patch is kept if it meets an occupied cell of the study. If none does,
        the middle one is kept. "all": every patch of the crop's grid.
    """
    size = tuple(crops.tokens.max(axis=0, initial=0).tolist())
    if tokens == "all":
        # The mask has the largest grid's size, so that a smaller one fills its lower corner.
        places = np.moveaxis(np.indices(size), 0, -1)
        return np.all(crops.tokens[:, None, None, None] > places, axis=-1)
    kept = np.zeros((len(crops.spacing_mm), *size), bool)
    for planar in (True, False):
        lines = geometry.planar == planar
        if lines.any():
            kept[lines] = _occupied(geometry[lines], crops[lines], planar, size)
    empty = np.flatnonzero(~kept.any(axis=(1, 2, 3)) & (crops.tokens > 0).all(axis=1))
    # One index array per axis, so that each study gets the middle of its own grid.
    kept[(empty, *(crops.tokens[empty] // 2).T)] = True
    return kept


def _occupied(geometry: Geometry, crops: Crops, planar: bool, size: Triple) -> np.ndarray:
    """`kept_tokens` for studies of one dimensionality.

    Cells are bits, so a patch needs two logical operations instead of a sum over cells.
    """
    if planar:
        y, x = (_ranges(geometry, crops, axis=axis, cells=16, size=size[axis]) for axis in (1, 2))
        # Word y holds line y, and its bit x is cell x.
        lines = _any_slab(geometry.cells.astype(np.uint16), *y)
        return (lines[:, None, :, None] & _bits(x, 1, np.uint16)[:, None, None, :] != 0) & (
            np.arange(size[0]) == 0
        )[:, None, None]
    z, y, x = (_ranges(geometry, crops, axis=axis, cells=8, size=size[axis]) for axis in range(3))
    every_line = np.uint64(0x0101010101010101)  # bit 0 of each of the 8 lines of a slab
    # Line y of a slab is byte y of the word. The product repeats the bits of x in all 8 bytes.
    inside = _bits(y, 8, np.uint64)[:, :, None] & (_bits(x, 1, np.uint64) * every_line)[:, None, :]
    return _any_slab(geometry.cells[:, :8], *z)[:, :, None, None] & inside[:, None] != 0


def _ranges(
    geometry: Geometry, crops: Crops, axis: int, cells: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """First cell and one past the last cell, [N, size], that each patch along an axis meets.

    Both are equal if it meets none.
    """
    t = np.arange(size)
    voxels, spacing = geometry.voxels[:, axis, None], geometry.spacing_mm[:, axis, None]
    step = crops.spacing_mm[:, None] * crops.patch[axis]
    start = crops.start_mm[:, axis, None] + t * step
    # Rounding must not let a patch meet a voxel that it only touches.
    first = np.floor(start / spacing + 1e-6).clip(0, None).astype(np.int64)
    end = np.minimum(np.ceil((start + step) / spacing - 1e-6).astype(np.int64), voxels)
    # The cell of voxel v, by store.layout.cell_edges, is the largest c with c * voxels // cells <=
    # v. That means c < (v + 1) * cells / voxels: round that up and subtract 1. For `high`, v is the
    # last voxel; one past its cell adds the 1 again.
    low = -(-(first + 1) * cells // voxels) - 1
    high = -(-end * cells // voxels)
    empty = (first >= end) | (t >= crops.tokens[:, axis, None])
    return np.where(empty, 0, low), np.where(empty, 0, high)


def _any_slab(slabs: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Union [N, t] of the slabs low <= s < high."""
    union = np.zeros(low.shape, slabs.dtype)
    # A loop over at most 16 slabs; a table [N, t, slabs] would need that many times the memory.
    for s in range(slabs.shape[1]):
        union |= np.where((low <= s) & (s < high), slabs[:, s, None], slabs.dtype.type(0))
    return union


def _bits(ranges: tuple[np.ndarray, np.ndarray], width: int, dtype: type) -> np.ndarray:
    """Words with the cells of a range set; each cell is `width` bits wide."""
    cells = np.iinfo(dtype).bits // width
    # below[c] has the lowest c cells set. In Python integers, since 1 << 64 overflows a uint64.
    below: np.ndarray = np.array([(1 << (width * cell)) - 1 for cell in range(cells + 1)], dtype)
    return below[ranges[1]] & ~below[ranges[0]]


def count_tokens(
    geometry: Geometry, crops: Crops, tokens: str = "occupied"
) -> Int[np.ndarray, "N V"]:
    """Patch tokens of each crop [N, V], by `kept_tokens`. No voxel is read."""
    counts: np.ndarray = np.zeros(crops.spacing_mm.shape, np.int64)
    for start in range(0, len(counts), CHUNK):
        part = slice(start, start + CHUNK)
        for v in range(counts.shape[1]):
            counts[part, v] = kept_tokens(geometry[part], crops[part, v], tokens).sum(
                axis=(1, 2, 3)
            )
    return counts
