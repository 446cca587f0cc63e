"""Crops: the box of a study that a view shows, and its number of tokens.

Both are known from the index alone. Axes: N studies, V views, C crops.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt64

from mmv_jax.errors import UserError

# Width of a planar study without a stated spacing: about that of a chest radiograph.
NOMINAL_EXTENT_MM = 350.0
ASPECT, COARSER = 4 / 3, 1.15  # defaults of a view; the first is Inception's
# A crop's voxels are at most this factor smaller than the study's own, by dimensionality: a
# thumbnail is not blown up to a page of tokens.
OVERSAMPLING = {2: 2.0, 3: 2.0}
# Uniform random numbers of a view: size, three aspects, three positions, spacing. A multiple of 4,
# since Philox draws in fours.
DRAWS = 8
STILL = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0])  # draws without any jitter
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """How a crop is cut from a study.

    Attributes:
      count: crops of this view per study and epoch.
      grid: the largest number of voxels (z, y, x), each a multiple of the patch. z is ignored for
        planar studies, which are one slice.
      scale: range of the share of the study's area (planar) or volume that a crop covers.
      is_global: whether the teacher reads it; such views come first in a row.
      aspect: largest ratio between two sides of a box, each as a share of its study's side.
      coarser: spacing jitter: voxels are up to this factor larger than the grid requires.
    """

    name: str
    count: int
    grid: Triple
    scale: tuple[float, float]
    is_global: bool
    aspect: float = ASPECT
    coarser: float = COARSER


@dataclass(frozen=True)
class Geometry:
    """Physical space of each study, from the index.

    Attributes:
      planar: whether the study is planar.
      voxels: (z, y, x) of the study's grid.
      spacing_mm: (z, y, x). NOMINAL_EXTENT_MM gives unknown in-plane spacings; z of a planar study
        is 1.
      extent_mm: (z, y, x); z of a planar study is 0, since it is a plane.
      cells: bits of the study's occupied cells. Planar: 16 lines (y), 16 bits each (x). Volumetric:
        8 slabs (z) of 64 bits (8 y + x).
    """

    planar: Bool[np.ndarray, "N"]
    voxels: Int[np.ndarray, "N 3"]
    spacing_mm: Float[np.ndarray, "N 3"]
    extent_mm: Float[np.ndarray, "N 3"]
    cells: UInt64[np.ndarray, "N 16"]

    @classmethod
    def of(cls, index: pd.DataFrame) -> "Geometry":
        """Geometry from the columns `ndim, grid_*, spacing_*, occupancy` of a store's index."""
        planar = (index["ndim"] == 2).to_numpy()
        voxels = index[["grid_z", "grid_y", "grid_x"]].to_numpy(np.int64)
        spacing = index[["spacing_z", "spacing_y", "spacing_x"]].to_numpy(np.float64, copy=True)
        unknown = np.isnan(spacing[:, 1:]).any(axis=1)
        # The nominal extent is the width (x). Pixels are assumed square, so y gets the same
        # spacing.
        spacing[unknown, 1:] = (NOMINAL_EXTENT_MM / voxels[unknown, 2])[:, None]
        spacing[planar, 0] = 1.0
        extent = voxels * spacing
        extent[planar, 0] = 0.0
        cells = np.zeros((len(index), 16), np.uint64)
        # store.layout.CELLS
        for lines, slabs, packed in ((planar, 16, ">u2"), (~planar, 8, ">u8")):
            # packbits puts the first cell into the highest bit. Here cell x is bit x, so that
            # ranges of cells are ranges of bits.
            raw = np.frombuffer(b"".join(index["occupancy"].to_numpy()[lines]), np.uint8)
            bits = np.unpackbits(raw).reshape(-1, slabs, np.dtype(packed).itemsize * 8)
            cells[lines, :slabs] = np.packbits(bits[..., ::-1], axis=-1).view(packed)[..., 0]
        return cls(planar=planar, voxels=voxels, spacing_mm=spacing, extent_mm=extent, cells=cells)

    def __getitem__(self, lines) -> "Geometry":
        return Geometry(
            planar=self.planar[lines],
            voxels=self.voxels[lines],
            spacing_mm=self.spacing_mm[lines],
            extent_mm=self.extent_mm[lines],
            cells=self.cells[lines],
        )


@dataclass(frozen=True)
class Crops:
    """Boxes of studies on grids of cubic voxels; any leading axes.

    Attributes:
      start_mm: lower corner (z, y, x), from the study's lower corner. A box may extend beyond its
        study; there it shows background.
      spacing_mm: edge of a voxel, equal along every axis, so that lengths keep their proportions.
      tokens: number of patches (z, y, x); 0 if the study has no such view.
      patch: voxels of a patch (z, y, x).
    """

    start_mm: Float[np.ndarray, "*C 3"]
    spacing_mm: Float[np.ndarray, "*C"]
    tokens: Int[np.ndarray, "*C 3"]
    patch: Triple

    def __getitem__(self, item) -> "Crops":
        return Crops(
            self.start_mm[item], np.asarray(self.spacing_mm[item]), self.tokens[item], self.patch
        )


def crop_views(
    *,
    globals: int,
    global_grid: Sequence[int],
    global_scale: Sequence[float],
    locals: int = 0,
    local_grid: Sequence[int] | None = None,
    local_scale: Sequence[float] | None = None,
    aspect: float = ASPECT,
    coarser: float = COARSER,
) -> list[View]:
    """Views that are cut from each study of one dimensionality.

    Args:
      globals, locals: number of each; the teacher reads only the global ones.
      global_grid, local_grid: largest number of voxels (z, y, x), multiples of the patch.
      global_scale, local_scale: range (low, high) of the share of the study that a crop covers.
      aspect: a crop's sides, as shares of its study's, differ by up to this factor; 1 for none.
      coarser: voxels are up to this factor larger than the grid requires; 1 for never.
    Raises:
      UserError: local views without grid or scale.
    """
    jitter: dict[str, Any] = {"aspect": aspect, "coarser": coarser}
    views = [
        View(
            "global", globals, _triple(global_grid), _range(global_scale), is_global=True, **jitter
        )
    ]
    if locals:
        if local_grid is None or local_scale is None:
            raise UserError("config.crops: local views need local_grid and local_scale.")
        where = _triple(local_grid), _range(local_scale)
        views.append(View("local", locals, *where, is_global=False, **jitter))
    return views


def _triple(voxels: Sequence[int]) -> tuple[int, int, int]:
    z, y, x = voxels
    return z, y, x


def _range(shares: Sequence[float]) -> tuple[float, float]:
    low, high = shares
    return low, high


def check_views(views: Mapping[int, Sequence[View]], patch: Triple) -> None:
    """Check that views can be cut into patches and have valid scales, global views first.

    Raises:
      UserError: a view or their order is invalid.
    """
    for ndim, listed in views.items():
        for view in listed:
            axes = range(4 - ndim - 1, 3)
            if any(view.grid[a] % patch[a] or view.grid[a] <= 0 for a in axes):
                raise UserError(
                    f"View {view.name!r} ({ndim}D) has the grid {view.grid}, but each side must be"
                    f" a multiple of the patch {patch}."
                )
            if not 0 < view.scale[0] <= view.scale[1] <= 1:
                raise UserError(
                    f"View {view.name!r} ({ndim}D) has the scale {view.scale}: two shares of the"
                    " study, 0 < low <= high <= 1."
                )
            if min(view.aspect, view.coarser) < 1:
                raise UserError(
                    f"View {view.name!r} ({ndim}D) has aspect={view.aspect} and"
                    f" coarser={view.coarser}: both must be at least 1, and 1 changes nothing."
                )
        if (
            sorted(listed, key=lambda view: not view.is_global) != list(listed)
            or not listed
            or not listed[0].is_global
        ):
            raise UserError(
                f"The {ndim}D views must begin with a global view, and all global views must come"
                " before the local ones."
            )


def uniforms(
    seed: int, epoch: int, first: int, lines: int, views: int
) -> Float[np.ndarray, "lines views 8"]:
    """Random numbers in [0, 1) for the crops of an epoch's lines `first`, `first + 1`, ...

    Line i gets the same numbers however the lines are requested.
    """
    # Philox is counter-based: it jumps to any line without drawing the lines before it.
    philox = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    philox.advance(first * views * DRAWS // 4)  # one step of its counter gives four numbers
    return np.random.Generator(philox).random((lines, views, DRAWS))


def draw_crops(
    geometry: Geometry,
    views: Mapping[int, Sequence[View]],
    patch: Triple,
    u: Float[np.ndarray, "N V 8"],
    oversampling: Mapping[int, float] = OVERSAMPLING,
) -> Crops:
    """Crops [N, V] of N studies, view by view in the order of `views`.

    Args:
      u: random numbers; line i decides the crops of study i.
      oversampling: by dimensionality, see OVERSAMPLING.
    """
    n, most, _ = u.shape
    # A view that a study does not have keeps 0 tokens; its spacing of 1 keeps divisions finite.
    crops = Crops(
        np.zeros((n, most, 3)), np.ones((n, most)), np.zeros((n, most, 3), np.int64), patch
    )
    for ndim, listed in views.items():
        lines = np.flatnonzero(geometry.planar == (ndim == 2))
        for v, view in enumerate(expand(listed)):
            # Only in plane: z of a planar study is a placeholder of 1 mm.
            finest = geometry.spacing_mm[lines, 1:].min(axis=1) / oversampling[ndim]
            start, spacing, tokens = _boxes(
                geometry.extent_mm[lines],
                finest,
                ndim=ndim,
                view=view,
                patch=np.array(patch),
                u=u[lines, v],
            )
            crops.start_mm[lines, v], crops.spacing_mm[lines, v], crops.tokens[lines, v] = (
                start,
                spacing,
                tokens,
            )
    return crops


def whole_crops(
    geometry: Geometry,
    grids: Mapping[int, Triple],
    patch: Triple,
    oversampling: Mapping[int, float] = OVERSAMPLING,
) -> Crops:
    """One crop [N] per study that shows all of it, without jitter.

    It has at most `grids[ndim]` voxels.
    """
    views = {
        ndim: [View(name="whole", count=1, grid=grid, scale=(1.0, 1.0), is_global=True)]
        for ndim, grid in grids.items()
    }
    check_views(views, patch)
    return draw_crops(
        geometry,
        views,
        patch=patch,
        u=np.broadcast_to(STILL, (len(geometry.planar), 1, DRAWS)),
        oversampling=oversampling,
    )[:, 0]


def expand(views: Sequence[View]) -> list[View]:
    """List with each view repeated `count` times: the order of the crops of a study."""
    return [view for view in views for _ in range(view.count)]


def _boxes(
    extent: np.ndarray, finest: np.ndarray, ndim: int, view: View, patch: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower corners (mm), voxel edges (mm) and token grids of one view of studies of one `ndim`."""
    first = 3 - ndim  # a planar study has no z
    # For the columns of `u` see DRAWS.
    share = view.scale[0] + (view.scale[1] - view.scale[0]) * u[:, 0]
    # Logs within half of log(aspect) around 0: two sides differ by at most `aspect`, and a ratio is
    # as likely as its inverse.
    stretch = (u[:, 1 + first : 4] - 0.5) * np.log(view.aspect)
    stretch -= stretch.mean(axis=1, keepdims=True)  # changes the shape, not the volume
    # `share` is a share of area or volume, so each side gets its ndim-th root.
    side = np.minimum(share[:, None] ** (1 / ndim) * np.exp(stretch), 1.0)
    box = side * extent[:, first:]
    centre = box / 2 + u[:, 4 + first : 7] * (extent[:, first:] - box)
    # Voxels are cubic, so the axis that fills its grid first determines their edge.
    asked = (box / np.array(view.grid[first:])).max(axis=1)
    spacing = np.maximum(asked, finest) * view.coarser ** u[:, 7]
    tokens = np.ones((len(extent), 3), np.int64)
    # The small subtraction keeps rounding from adding a patch to a box that fits exactly.
    tokens[:, first:] = np.maximum(np.ceil(box / (spacing[:, None] * patch[first:]) - 1e-6), 1)
    middle = np.zeros((len(extent), 3))
    middle[:, first:] = centre
    # Whole patches cover a little more than the box; the excess is split between both sides.
    return middle - tokens * patch * spacing[:, None] / 2, spacing, tokens


def largest_crop(view: View, patch: Triple, ndim: int) -> int:
    """Patches of the largest crop that this view cuts from a study of that `ndim`."""
    # Sides are cut to the grid's, and a planar study has one layer of patches.
    sides = [side // p for side, p in zip(view.grid, patch, strict=True)][3 - ndim :]
    return math.prod(sides)


def most_tokens(geometry: Geometry, view: View, patch: Triple, ndim: int) -> Int[np.ndarray, "N"]:
    """Upper bound of the patch tokens of any crop of this view, for each study of that `ndim`."""
    extent = geometry.extent_mm[geometry.planar == (ndim == 2), 3 - ndim :]
    grid, sides = np.array(view.grid[3 - ndim :]), np.array(patch[3 - ndim :])
    # Side a of a box takes box_a / h voxels, and h >= box_b / grid_b for each side b. The ratio
    # box_a / box_b is that of the study, times at most `aspect`. This also holds for views of whole
    # studies: the longer side is cut to the study, and the shorter one still shrinks.
    others = np.where(np.eye(ndim, dtype=bool), 1.0, view.aspect)
    ratio = extent[:, :, None] / extent[:, None, :] * others
    return (
        np.ceil((ratio * grid / sides[:, None]).min(axis=2) - 1e-6)
        .clip(min=1)
        .prod(axis=1)
        .astype(np.int64)
    )
