"""A crop's voxels: separable, antialiased linear resampling of just the box that the crop touches. Axes: z, y, x; b input and g output voxels."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

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
      first: the first voxel of the study that is read.
      weights: each line sums to 1: output voxel g is the mean of the b voxels that are read, so weighted.
      inside: whether the centre of an output voxel lies in the study.
    """

    first: int
    weights: Float[np.ndarray, "g b"]
    inside: Bool[np.ndarray, "g"]


def resample_axis(start_mm: float, step_mm: float, count: int, spacing_mm: float, voxels: int) -> Axis:
    """Weights of a triangle as wide as the coarser of the two grids: linear interpolation where voxels grow in number, antialiased where they shrink.

    Args:
      start_mm, step_mm, count: the output grid: the lower edge of its first voxel, a voxel's edge, voxels.
      spacing_mm, voxels: the study's grid, which begins at 0. Beyond its ends its last voxel goes on.

    Source: the `reduce` filters of Pillow (Image.resize with BILINEAR).
    """
    centre = (start_mm + (np.arange(count) + 0.5) * step_mm) / spacing_mm - 0.5  # in voxels of the study
    width = max(step_mm / spacing_mm, 1.0)
    inside = (centre >= -0.5) & (centre <= voxels - 0.5)
    near = centre.clip(0, voxels - 1)
    first, last = int(np.floor(near[0] - width)), int(np.ceil(near[-1] + width))
    first, last = max(first, 0), min(last, voxels - 1)
    weights = np.maximum(1 - np.abs(np.arange(first, last + 1) - near[:, None]) / width, 0.0)
    return Axis(first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32), inside)


def read_crop(store: Boxes, geometry: Geometry, i: int, crop: Crops) -> tuple[Float[np.ndarray, "gz gy gx"], Bool[np.ndarray, "gz gy gx"]]:
    """The true intensities of study `i` on the crop's grid, and where the grid lies in the study. A planar study is one slice, gz = 1."""
    axes = _axes(geometry, i, crop)
    z, y, x = axes
    read = [a.weights.shape[1] for a in axes]
    plane = y.weights.shape[0] * x.weights.shape[0]
    deep = max(SLAB_BYTES // (4 * read[1] * read[2]), 1)
    small = np.empty((read[0], y.weights.shape[0], x.weights.shape[0]), np.float32)
    for at in range(0, read[0], deep):
        shape = (min(deep, read[0] - at), read[1], read[2])
        box = store.read_box(i, (z.first + at, y.first, x.first), shape)
        small[at : at + deep] = y.weights @ (box @ x.weights.T)
    out = (z.weights @ small.reshape(read[0], plane)).reshape(-1, *small.shape[1:])
    return out, z.inside[:, None, None] & y.inside[:, None] & x.inside


def read_crop_mask(store: Boxes, geometry: Geometry, i: int, crop: Crops, mask: str) -> Int[np.ndarray, "gz gy gx"]:
    """The named mask of study `i` on the crop's grid: the nearest voxel's value, 0 outside the study."""
    axes = _axes(geometry, i, crop)
    nearest = [a.first + a.weights.argmax(axis=1) for a in axes]
    first = [int(at[0]) for at in nearest]
    box = store.read_box(i, tuple(first), tuple(int(at[-1]) - low + 1 for at, low in zip(nearest, first)), mask=mask)
    z, y, x = (at - low for at, low in zip(nearest, first))
    inside = axes[0].inside[:, None, None] & axes[1].inside[:, None] & axes[2].inside
    return np.where(inside, box[np.ix_(z, y, x)], 0).astype(np.int32)


def _axes(geometry: Geometry, i: int, crop: Crops) -> list[Axis]:
    voxels = crop.tokens * np.array(crop.patch)
    step = float(crop.spacing_mm)
    axes = []
    for a in range(3):
        if a == 0 and geometry.planar[i]:  # one slice; tokens.py repeats it through the patch's depth
            axes.append(Axis(0, np.ones((1, 1), np.float32), np.ones(1, bool)))
        else:
            axes.append(resample_axis(float(crop.start_mm[a]), step, int(voxels[a]), float(geometry.spacing_mm[i, a]), int(geometry.voxels[i, a])))
    return axes
