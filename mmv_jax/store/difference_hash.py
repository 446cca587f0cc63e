"""Difference hash of 512 bits, to find nearly equal images.

A bit says whether a point of a 16 × 16 grid is brighter than its right or its lower neighbour. It
was measured on 1,000 radiographs of NIH ChestX-ray14. Two patients differed in 54 bits or more. An
image differed from its own copy in at most 24 bits after JPEG at quality 60, resizing to 0.7, other
grey levels, or a shift by 2 pixels. Noise of 4 levels changed 13 bits in 95 % of the images and 62
at most. A crop of 3 pixels changed up to 36.
"""

import numpy as np

SIDE = 16  # points along each axis
LEAST = 64  # pixels: in a smaller image, a resize changes the hash as much as another patient would


def difference_hash(voxels: np.ndarray) -> bytes:
    """Hash of 64 bytes that hardly changes if an image is resized, recompressed or rescaled.

    It is empty for an image below 64 pixels a side. A volume is represented by its mean along z.

    Args:
      voxels: `[z, y, x]`.
    """
    if min(voxels.shape[1:]) < LEAST:
        return b""
    plane = voxels.mean(axis=0, dtype=np.float32)
    # 17 points give 16 differences: 2 * 16 * 16 = 512 bits.
    wide, high = _pooled(plane, SIDE, SIDE + 1), _pooled(plane, SIDE + 1, SIDE)
    bits = np.concatenate([np.diff(wide, axis=1).ravel(), np.diff(high, axis=0).ravel()]) > 0
    return np.packbits(bits).tobytes()


def _pooled(plane: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means over a grid of equal parts, whose edges may lie within pixels."""
    for axis, parts in enumerate((rows, columns)):
        size = plane.shape[axis]
        # Sums up to each pixel edge; they grow linearly within a pixel, so edges may lie there.
        sums = np.insert(np.cumsum(plane, axis=axis, dtype=np.float64), 0, 0, axis=axis)
        edges = np.linspace(0, size, parts + 1)
        # The last edge is the image border; one less keeps low + 1 in range.
        low = np.minimum(edges.astype(int), size - 1)
        share = np.expand_dims(edges - low, 1 - axis)
        at = sums.take(low, axis) * (1 - share) + sums.take(low + 1, axis) * share
        plane = np.diff(at, axis=axis)
    return plane
