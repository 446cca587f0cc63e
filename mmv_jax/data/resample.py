"""Voxels of a crop: separable, antialiased linear resampling of the box that the crop touches.

Axes: z, y, x; b input and g output voxels.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import sparse

from mmv_jax.data.crops import Crops, Geometry
from mmv_jax.store.levels import covered

# A large box is read in slabs of about this size, so a whole CT never lies in memory.
SLAB_BYTES = 2**25


@runtime_checkable
class Boxes(Protocol):
    """Interface of a store: an index, and boxes of its studies (`store.read.Store`)."""

    index: pd.DataFrame

    def levels(self, i: int) -> np.ndarray: ...

    def read_box(
        self,
        i: int,
        start: tuple[int, int, int],
        shape: tuple[int, int, int],
        *,
        mask: str | None = None,
        level: int = 0,
    ) -> np.ndarray: ...


@dataclass(frozen=True)
class GridBox:
    """A grid of a study whose spacing may differ between the axes; every triple is (z, y, x).

    Attributes:
      start_mm: lower corner, from the study's lower corner. A box may extend beyond its study.
      spacing_mm: edges of a voxel.
      voxels: number along each axis.
    """

    start_mm: Float[np.ndarray, "3"]
    spacing_mm: Float[np.ndarray, "3"]
    voxels: Int[np.ndarray, "3"]

    @classmethod
    def of(cls, crop: "Crops | GridBox") -> "GridBox":
        """The box of one crop; a box is returned as it is."""
        if isinstance(crop, GridBox):
            return crop
        voxels = crop.tokens * np.array(crop.patch)
        return cls(crop.start_mm, np.full(3, float(crop.spacing_mm)), voxels)


@dataclass(frozen=True)
class Axis:
    """Resampling of one axis of a study to one axis of a crop.

    Attributes:
      first, read: first voxel and number of voxels that are read, of the study or a level.
      weights: `[g, b]`; each output voxel is a weighted mean of the b voxels that are read. Sparse,
        and not only for speed: a BLAS product can round differently in a worker process, but rows
        must not depend on who makes them.
      nearest: index of the voxel (of the study or level) nearest to each output voxel's centre.
      inside: whether the centre of an output voxel lies in the study.
    """

    first: int
    read: int
    weights: sparse.csr_array
    nearest: Int[np.ndarray, "g"]
    inside: Bool[np.ndarray, "g"]


def resample_axis(
    start_mm: float, step_mm: float, count: int, spacing_mm: float, voxels: int, factor: int = 1
) -> Axis:
    """Resampling weights of one axis: a triangle as wide as the coarser of the two grids.

    This is linear interpolation where the number of voxels grows, and antialiased where it shrinks.

    Args:
      start_mm, step_mm, count: the output grid: lower edge of its first voxel, edge of a voxel,
        number of voxels.
      spacing_mm, voxels: the study's grid, which begins at 0. Its end voxels are repeated outside.
      factor: voxels of the study in one voxel of the level that is read. The triangle is then
        narrower, so that level and triangle together have the variance of the triangle alone.

    Source: the `reduce` filters of Pillow (Image.resize with BILINEAR).
    """
    # Centres of the output voxels, in voxels of the study: its voxel v spans [v, v + 1].
    points = (start_mm + (np.arange(count) + 0.5) * step_mm) / spacing_mm
    inside = (points - 0.5 >= -0.5) & (points - 0.5 <= voxels - 0.5)
    there, voxels = voxels, -(-voxels // factor)
    centre = points / factor - 0.5  # in voxels of what is read
    near = centre.clip(0, voxels - 1)
    # Below 1 the triangle could fall between two voxels; 1 is linear interpolation.
    width = max(triangle(step_mm / spacing_mm, factor), 1.0)
    # At most floor(2 width) + 1 voxels lie within `width`. Each output voxel gets that many, so
    # that all rows of the matrix have equal length.
    taps = np.ceil(near - width).astype(np.int64)[:, None] + np.arange(int(2 * width) + 1)
    weights = np.maximum(1 - np.abs(taps - near[:, None]) / width, 0.0) * (
        (taps >= 0) & (taps < voxels)
    )
    if factor > 1:
        # the last one may be the mean of fewer
        weights *= (covered(there, factor) / factor)[taps.clip(0, voxels - 1)]
    weights /= weights.sum(axis=1, keepdims=True)
    # Taps beyond the ends have weight 0. Clipped, they point to existing voxels and add nothing.
    taps = taps.clip(0, voxels - 1)
    first, read = int(taps[0, 0]), int(taps[-1, -1] - taps[0, 0] + 1)
    # Row pointers of the CSR format.
    ends = np.arange(count + 1, dtype=np.int32) * np.int32(taps.shape[1])
    matrix = sparse.csr_array(
        (weights.astype(np.float32).ravel(), (taps - first).astype(np.int32).ravel(), ends),
        shape=(count, read),
    )
    return Axis(
        first=first,
        read=read,
        weights=matrix,
        nearest=np.rint(near).astype(np.int64),
        inside=inside,
    )


def triangle(step: float, factor: int) -> float:
    """Half the base, in level voxels, of the triangle that resamples a level.

    0 if the level is already too coarse. Variances add up: (factor^2 - 1) / 12 of the means and
    base^2 / 6 of the triangle give step^2 / 6.

    Args:
      step: edge of an output voxel, in voxels of the study.
      factor: voxels of the study in one voxel of the level.
    """
    return math.sqrt(max(step * step - (factor * factor - 1) / 2, 0.0)) / factor


def level_for(step: Float[np.ndarray, "3"], factors: Int[np.ndarray, "levels 3"]) -> int:
    """Coarsest level that gives a crop as sharp as the study itself does; 0 is the study.

    Args:
      step: edges of the crop's voxels, in voxels of the study.
      factors: as from `Store.levels`.
    """
    sharp = [
        level
        for level, own in enumerate(factors.tolist(), start=1)
        # A triangle below one voxel would be widened to 1, and so blur: that level is too coarse.
        if all(f == 1 or triangle(s, f) >= 1 for s, f in zip(step.tolist(), own))
    ]
    return max(sharp, default=0)


def read_crop(
    store: Boxes, geometry: Geometry, i: int, crop: Crops | GridBox
) -> tuple[Float[np.ndarray, "gz gy gx"], Bool[np.ndarray, "gz gy gx"]]:
    """True intensities of study `i` on the crop's grid, and a mask of the grid inside the study.

    A planar study is one slice, gz = 1.
    """
    factors, box = store.levels(i), GridBox.of(crop)
    level = level_for(box.spacing_mm / geometry.spacing_mm[i], factors)
    z, y, x = _axes(geometry, i, box, factors[level - 1] if level else np.ones(3, int))
    # 4 bytes a value. y and x shrink slab by slab; z is resampled once all slabs are in `small`.
    deep = max(SLAB_BYTES // (4 * y.read * x.read), 1)
    small = np.empty((z.read, len(y.inside), len(x.inside)), np.float32)
    for at in range(0, z.read, deep):
        slab = store.read_box(
            i,
            (z.first + at, y.first, x.first),
            (min(deep, z.read - at), y.read, x.read),
            level=level,
        )
        # Plane by plane: a plane that is turned round stays in the processor's cache.
        for plane, shrunk in zip(slab, small[at : at + deep]):
            shrunk[:] = (x.weights @ (y.weights @ plane).T).T
    return _along(small, z.weights, 0), z.inside[:, None, None] & y.inside[:, None] & x.inside


def read_crop_mask(
    store: Boxes, geometry: Geometry, i: int, crop: Crops | GridBox, mask: str
) -> Int[np.ndarray, "gz gy gx"]:
    """Named mask of study `i` on the crop's grid: nearest voxel, 0 outside the study."""
    # Labels must not be averaged, so masks are read at full resolution, never from a level.
    z, y, x = axes = _axes(geometry, i, GridBox.of(crop), np.ones(3, int))
    low, high = ([int(axis.nearest[end]) for axis in axes] for end in (0, -1))
    box = store.read_box(
        i,
        (low[0], low[1], low[2]),
        (high[0] - low[0] + 1, high[1] - low[1] + 1, high[2] - low[2] + 1),
        mask=mask,
    )
    values = box[np.ix_(*(axis.nearest - first for axis, first in zip(axes, low)))]
    return np.where(z.inside[:, None, None] & y.inside[:, None] & x.inside, values, 0).astype(
        np.int32
    )


def to_study_grid(
    values: Float[np.ndarray, "gz gy gx"], geometry: Geometry, i: int, crop: Crops | GridBox
) -> Float[np.ndarray, "Z Y X"]:
    """Values on the crop's grid, interpolated to the voxels of study `i` itself; 0 where the crop
    does not reach.
    """
    box, spacing = GridBox.of(crop), geometry.spacing_mm[i].tolist()
    # The crop takes the place of the study: its grid begins at 0, the study's at minus its start.
    axes = [
        resample_axis(
            -float(box.start_mm[a]),
            spacing[a],
            count=int(geometry.voxels[i, a]),
            spacing_mm=float(box.spacing_mm[a]),
            voxels=values.shape[a],
        )
        for a in range(3)
    ]
    if geometry.planar[i]:
        axes[0] = resample_axis(0.0, 1.0, count=1, spacing_mm=1.0, voxels=1)
    out = np.asarray(values, np.float32)
    for a, axis in enumerate(axes):
        out = _along(out[tuple(_taken(axis, a))], axis.weights, a)
    z, y, x = axes
    return out * (z.inside[:, None, None] & y.inside[:, None] & x.inside)


def _taken(axis: Axis, a: int) -> list[slice]:
    """The voxels along one axis that its weights read."""
    return [slice(None)] * a + [slice(axis.first, axis.first + axis.read)]


def _along(x: np.ndarray, weights: sparse.csr_array, axis: int) -> np.ndarray:
    """`x` resampled along one axis."""
    # A sparse matrix multiplies only the first axis.
    front = np.moveaxis(x, axis, 0)
    return np.moveaxis(
        (weights @ front.reshape(len(front), -1)).reshape(-1, *front.shape[1:]), 0, axis
    )


def _axes(geometry: Geometry, i: int, box: GridBox, factor: np.ndarray) -> list[Axis]:
    start, step = box.start_mm.tolist(), box.spacing_mm.tolist()
    spacing, there = geometry.spacing_mm[i].tolist(), geometry.voxels[i].tolist()
    axes = [
        resample_axis(
            start[a],
            step[a],
            count=int(box.voxels[a]),
            spacing_mm=spacing[a],
            voxels=there[a],
            factor=int(factor[a]),
        )
        for a in range(3)
    ]
    if geometry.planar[i]:  # one slice; tokens.to_patches repeats it through the patch's depth
        axes[0] = resample_axis(0.0, 1.0, count=1, spacing_mm=1.0, voxels=1)
    return axes
