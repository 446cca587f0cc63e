"""Shared steps of the volume readers (NIfTI, MetaImage, NRRD).

None of these formats can state Hounsfield units, so the unit comes from the manifest. All three can
point to voxels in another file. That is refused, since such a path may be any file of the machine.
"""

import numpy as np

from mmv_jax.readers.canvas import Canvas, is_whole, rescaled
from mmv_jax.readers.image import Image
from mmv_jax.readers.orient import orientation_of
from mmv_jax.readers.refused import Refused

Shape = tuple[int, ...]
# columns of an affine for (i, j, k) -> for (k, j, i), the C order
SLOWEST_FIRST = [2, 1, 0, 3]


def three_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Shape with three axes: trailing axes of length 1 are dropped, and two axes become one slice.

    Raises:
      Refused: bad_shape.
    """
    # Some NIfTI writers add a time axis of length 1.
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise Refused(
            "bad_shape",
            f"an image of shape {shape}; one volume of three dimensions is expected (split a time"
            " series first)",
        )
    return shape


def check_rest(rest: int, a_slice: int) -> None:
    """Refuse a file with a slice or more behind the voxels that its header declares.

    Args:
      rest: bytes behind the voxels.
      a_slice: bytes of a slice.
    Raises:
      Refused: contradictory.
    """
    if rest >= a_slice:
        raise Refused(
            "contradictory", "more voxels follow than the header declares: a time series?"
        )


def first_kind(dtype: np.dtype, slope: float = 1.0, intercept: float = 0.0) -> np.dtype | type:
    """Dtype that a canvas starts with.

    8-bit and 16-bit integers that are not rescaled keep their type. Other whole numbers start at
    int16, and all else is float32.
    """
    if dtype.kind == "f" or not is_whole(slope, intercept):
        return np.float32
    # Small integers that are not rescaled keep their type; others begin at int16 and may grow.
    return (
        dtype.newbyteorder("=")
        if (slope, intercept) == (1.0, 0.0) and dtype.itemsize < 4
        else np.int16
    )


def placed(source: np.ndarray, affine: np.ndarray) -> Image:
    """Image of `source` `[k, j, i]`; `affine` maps (k, j, i) to LPS mm."""
    orientation = orientation_of(source.shape, affine)
    canvas = Canvas(source.shape, orientation, first_kind(source.dtype))
    # Slice by slice: a rescaled copy of the whole volume would double the memory.
    for k, values in enumerate(source):
        canvas.put(k, rescaled(values, 1.0, 0.0))
    return Image(canvas.voxels, orientation.spacing_mm, 3, orientation=orientation)
