"""A difference hash of 512 bits, by which nearly equal images are found.

It tells whether each point of a 16 × 16 grid is brighter than its right and its lower neighbour. On
1,000 radiographs of NIH ChestX-ray14 two patients differed in 54 bits or more; an image and itself
after JPEG at quality 60, at 0.7 of the size, with other grey levels or moved by 2 pixels in at most
24. Noise of 4 levels changes 13 bits in 95 % of them and 62 at most; a crop of 3 pixels up to 36.
"""

import numpy as np

SIDE = 16  # points along each axis
LEAST = 64  # pixels: of smaller images a resize changes the hash as much as another patient does


def difference_hash(voxels: np.ndarray) -> bytes:
    """64 bytes that stay nearly the same where an image is resized, recompressed or rescaled; empty
    of an image that is too small. A volume is seen as its mean along z.

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
        # Sums up to each pixel edge; within a pixel they grow linearly, so edges may lie there.
        sums = np.insert(np.cumsum(plane, axis=axis, dtype=np.float64), 0, 0, axis=axis)
        edges = np.linspace(0, size, parts + 1)
        # The last edge is the image border; one less keeps low + 1 in range.
        low = np.minimum(edges.astype(int), size - 1)
        share = np.expand_dims(edges - low, 1 - axis)
        at = sums.take(low, axis) * (1 - share) + sums.take(low + 1, axis) * share
        plane = np.diff(at, axis=axis)
    return plane
