"""Canvas: an oriented volume that is filled slice by slice, in the file's order.

Each slice is moved once, so memory holds the volume and one slice.
"""

import numpy as np

from mmv_jax.readers.orient import Orientation
from mmv_jax.readers.refused import Refused


def rescaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """`stored * slope + intercept`, of any shape.

    Whole numbers stay whole: in the file's own type where slope is 1 and intercept is 0, else
    int64. Everything else becomes float32.

    Raises:
      Refused: too_large.
    """
    if stored.dtype.kind == "f" or not is_whole(slope, intercept):
        if (slope, intercept) == (1.0, 0.0):
            return stored.astype(np.float32)
        return (stored * np.float64(slope) + intercept).astype(np.float32)
    if (slope, intercept) == (1.0, 0.0):
        return stored
    # Within this bound the product with a 32-bit value fits into int64.
    if max(abs(slope), abs(intercept)) > 1 << 31:
        raise Refused(
            "too_large", "slope and intercept lead to whole numbers that do not fit into 32 bits"
        )
    return stored.astype(np.int64) * int(slope) + int(intercept)


def is_whole(slope: float, intercept: float) -> bool:
    """Whether slope and intercept are both whole numbers."""
    return float(slope).is_integer() and float(intercept).is_integer()


def fitting(values: np.ndarray) -> np.ndarray:
    """`values` in a dtype that a Study may have.

    8-bit and 16-bit integers keep their type, wider integers become int16 or int32, floats become
    float32.

    Raises:
      Refused: too_large (does not fit int32).
    """
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    # DICOM can be big-endian; a Study is in the byte order of the machine.
    if values.dtype.itemsize < 4:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    return values.astype(np.int16 if _fits(values, np.int16) else _int32_or_refused(values))


class Canvas:
    """Volume `[z, y, x]` that takes slices `[j, i]` of the file at index k.

    The integer type grows to int32 when a value needs it.

    Attributes:
      voxels: the volume so far; slices not yet put are uninitialised.
    """

    def __init__(
        self, shape: tuple[int, int, int], orientation: Orientation, kind: np.dtype | type
    ):
        """Allocate a volume of `shape` (k, j, i); `kind` is float32 or the first integer type."""
        self.orientation = orientation
        self.voxels = np.empty([shape[axis] for axis in orientation.order], kind)
        # A view in the order of the file: assigning to it flips and transposes without a copy.
        self._place = orientation.source(self.voxels)

    def put(self, k: int, values: np.ndarray) -> None:
        """Store the slice `values` `[j, i]` at index k.

        Raises:
          Refused: too_large (a value does not fit int32).
        """
        kind = self.voxels.dtype
        if kind.kind != "f" and values.dtype != kind and not _fits(values, kind):
            # The canvas grows once: astype gives a new array, so the view on it must be made anew.
            self.voxels = self.voxels.astype(_int32_or_refused(values))
            self._place = self.orientation.source(self.voxels)
        self._place[k] = values


def _fits(values: np.ndarray, kind: np.dtype | type) -> bool:
    limits = np.iinfo(kind)
    return limits.min <= int(values.min()) and int(values.max()) <= limits.max


def _int32_or_refused(values: np.ndarray) -> type:
    if not _fits(values, np.int32):
        raise Refused("too_large", "whole numbers that do not fit into 32 bits")
    return np.int32
