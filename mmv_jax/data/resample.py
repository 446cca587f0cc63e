"""A crop's voxels: separable, antialiased linear resampling of just the box that the crop touches. Axes: z, y, x; b input and g output voxels."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import sparse

from mmv_jax.data.crops import Crops, Geometry

SLAB_BYTES = 2**25  # a large box is read in slabs of about this size, so that a whole CT never lies in memory


@runtime_checkable
class Boxes(Protocol):
    """What is asked of a store: an index, and boxes of its studies."""

    index: pd.DataFrame

    def read_box(self, i: int, start: tuple[int, int, int], shape: tuple[int, int, int], *, mask: str | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Axis:
    """How one axis of a crop is made of one axis of its study.

    Attributes:
      first, read: the voxels of the study that are read, from `first` on.
      weights: output voxel g is the mean, so weighted, of the b voxels that are read. Sparse, and not only for speed: a BLAS product can round
        otherwise in a worker process, and rows must not depend on who makes them.
      nearest: for each output voxel the one of the study that is nearest to its centre.
      inside: whether the centre of an output voxel lies in the study.
    """

    first: int
    read: int
    weights: sparse.csr_array
    nearest: Int[np.ndarray, "g"]
    inside: Bool[np.ndarray, "g"]


def resample_axis(start_mm: float, step_mm: float, count: int, spacing_mm: float, voxels: int) -> Axis:
    """Weights of a triangle as wide as the coarser of the two grids: linear interpolation where voxels grow in number, antialiased where they shrink.

    Args:
      start_mm, step_mm, count: the output grid: the lower edge of its first voxel, a voxel's edge, voxels.
      spacing_mm, voxels: the study's grid, which begins at 0. Beyond its ends its last voxel goes on.

    Source: the `reduce` filters of Pillow (Image.resize with BILINEAR).
    """
    centre = (start_mm + (np.arange(count) + 0.5) * step_mm) / spacing_mm - 0.5  # in voxels of the study
    inside = (centre >= -0.5) & (centre <= voxels - 0.5)
    near = centre.clip(0, voxels - 1)
    width = max(step_mm / spacing_mm, 1.0)
    taps = np.ceil(near - width).astype(np.int64)[:, None] + np.arange(int(2 * width) + 1)
    weights = np.maximum(1 - np.abs(taps - near[:, None]) / width, 0.0) * ((taps >= 0) & (taps < voxels))
    weights /= weights.sum(axis=1, keepdims=True)
    taps = taps.clip(0, voxels - 1)
    first, read = int(taps[0, 0]), int(taps[-1, -1] - taps[0, 0] + 1)
    ends = np.arange(count + 1, dtype=np.int32) * np.int32(taps.shape[1])
    matrix = sparse.csr_array((weights.astype(np.float32).ravel(), (taps - first).astype(np.int32).ravel(), ends), shape=(count, read))
    return Axis(first, read, matrix, np.rint(near).astype(np.int64), inside)


def read_crop(store: Boxes, geometry: Geometry, i: int, crop: Crops) -> tuple[Float[np.ndarray, "gz gy gx"], Bool[np.ndarray, "gz gy gx"]]:
    """The true intensities of study `i` on the crop's grid, and where the grid lies in the study. A planar study is one slice, gz = 1."""
    z, y, x = _axes(geometry, i, crop)
    deep = max(SLAB_BYTES // (4 * y.read * x.read), 1)
    small = np.empty((z.read, len(y.inside), len(x.inside)), np.float32)
    for at in range(0, z.read, deep):
        box = store.read_box(i, (z.first + at, y.first, x.first), (min(deep, z.read - at), y.read, x.read))
        small[at : at + deep] = _along(_along(box, y.weights, 1), x.weights, 2)
    return _along(small, z.weights, 0), z.inside[:, None, None] & y.inside[:, None] & x.inside


def read_crop_mask(store: Boxes, geometry: Geometry, i: int, crop: Crops, mask: str) -> Int[np.ndarray, "gz gy gx"]:
    """The named mask of study `i` on the crop's grid: the nearest voxel's value, 0 outside the study."""
    z, y, x = axes = _axes(geometry, i, crop)
    low, high = ([int(axis.nearest[end]) for axis in axes] for end in (0, -1))
    box = store.read_box(i, (low[0], low[1], low[2]), (high[0] - low[0] + 1, high[1] - low[1] + 1, high[2] - low[2] + 1), mask=mask)
    values = box[np.ix_(*(axis.nearest - first for axis, first in zip(axes, low)))]
    return np.where(z.inside[:, None, None] & y.inside[:, None] & x.inside, values, 0).astype(np.int32)


def _along(x: np.ndarray, weights: sparse.csr_array, axis: int) -> np.ndarray:
    """Applies the weights along one axis."""
    front = np.moveaxis(x, axis, 0)
    return np.moveaxis((weights @ front.reshape(len(front), -1)).reshape(-1, *front.shape[1:]), 0, axis)


def _axes(geometry: Geometry, i: int, crop: Crops) -> list[Axis]:
    voxels, step = crop.tokens * np.array(crop.patch), float(crop.spacing_mm)
    axes = [
        resample_axis(float(crop.start_mm[a]), step, int(voxels[a]), float(geometry.spacing_mm[i, a]), int(geometry.voxels[i, a])) for a in range(3)
    ]
    if geometry.planar[i]:  # one slice; tokens.to_patches repeats it through the patch's depth
        axes[0] = resample_axis(0.0, 1.0, 1, 1.0, 1)
    return axes
