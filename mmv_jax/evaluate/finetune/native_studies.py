"""Studies on a planned grid: whole, in patches drawn at random, and in tiles that cover them.

Axes: K voxels, Z Y X voxels; every triple is (z, y, x).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.data.augment import BACKGROUND, normalise
from mmv_jax.data.crops import Geometry
from mmv_jax.data.resample import GridBox, read_crop, read_crop_mask
from mmv_jax.evaluate.tasks.scenes import NativeGrid, Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.store.read import Store

Triple = tuple[int, int, int]
OF_STRUCTURE = 1 / 3  # share of patches around a voxel of the structure, as in nnU-Net
REMEMBERED = 1000  # voxels of the structure, of each study
WIDTH = 1 / 8  # of a tile's Gaussian weights: their deviation, as a share of its side


@dataclass(frozen=True)
class NativeStudies:
    """The studies of a task on a grid of one spacing, which may differ between the axes."""

    store: Store
    geometry: Geometry
    task: Task
    spacing_mm: tuple[float, float, float]

    def shape(self, study: int) -> Triple:
        """Voxels of a study on this grid."""
        # A study that is thinner than a voxel still has one.
        sizes = self.geometry.voxels[study] * self.geometry.spacing_mm[study] / self.spacing_mm
        z, y, x = np.maximum(np.rint(sizes), 1).astype(int).tolist()
        return z, y, x

    def image(self, study: int, start: Triple, shape: Triple) -> Float[np.ndarray, "Z Y X"]:
        """Intensities of about [-1, 1] of a box, which may reach beyond the study."""
        line = self.store.index.iloc[study]
        values, inside = read_crop(self.store, self.geometry, study, self._box(start, shape))
        image = normalise(values, line["unit"], line["low"], line["high"])
        # Outside, the last voxel would be repeated; background is what networks see elsewhere.
        return np.where(inside, image, np.float32(BACKGROUND))

    def truth(self, study: int, start: Triple, shape: Triple) -> Bool[np.ndarray, "Z Y X"]:
        """The task's structure in a box."""
        box = self._box(start, shape)
        mask = read_crop_mask(self.store, self.geometry, i=study, crop=box, mask=self.task.mask)
        return self.task.structure(mask)

    def inside(self, study: int, start: Triple, shape: Triple) -> Bool[np.ndarray, "Z Y X"]:
        """Which voxels of a box belong to the study."""
        # Counted in voxels of the grid, as `resample` decides by their centres, too.
        axes = [
            (np.arange(count) + first >= 0) & (np.arange(count) + first < size)
            for first, count, size in zip(start, shape, self.shape(study))
        ]
        z, y, x = axes
        return z[:, None, None] & y[:, None] & x

    def scene(self, study: int) -> Scene:
        """The whole study with its truth on this grid, to be scored on its own voxels."""
        shape = self.shape(study)
        return Scene(
            np.zeros((0, 1), np.float32),
            np.ones((1, 1, 1), bool),
            self.truth(study, (0, 0, 0), shape),
            # Its one reader asks for the native spacing, since `native` is set.
            float(self.spacing_mm[1]),
            native=NativeGrid(
                self.store,
                self.geometry,
                study,
                crop=self._box((0, 0, 0), shape),
                task=self.task,
            ),
        )

    def places(self, study: int) -> Int[np.ndarray, "K 3"]:
        """Voxels of the structure, `REMEMBERED` of them at most, spread over all of it."""
        found = np.argwhere(self.truth(study, (0, 0, 0), self.shape(study)))
        # argwhere runs slice by slice, so every n-th voxel lies in all of the structure.
        return found[:: max(-(-len(found) // REMEMBERED), 1)]

    def _box(self, start: Triple, shape: Triple) -> GridBox:
        spacing = np.array(self.spacing_mm)
        return GridBox(np.array(start) * spacing, spacing, np.array(shape))


def tile_count(shape: Sequence[int], patch: Sequence[int]) -> int:
    """Patches that fill a study."""
    return int(np.prod([-(-size // side) for size, side in zip(shape, patch)]))


def draw_start(
    rng: np.random.Generator, shape: Triple, patch: Triple, places: Int[np.ndarray, "K 3"]
) -> Triple:
    """The low corner of a random patch; a third of them lie around a voxel of the structure.

    Along an axis on which the study is smaller than the patch, it lies in the middle of it.
    """
    size, side = np.array(shape), np.array(patch)
    # Drawn in any case, so that the next draws do not depend on the structure.
    start, around = rng.integers(0, np.maximum(size - side, 0) + 1), rng.random() < OF_STRUCTURE
    if around and len(places):
        start = places[rng.integers(len(places))] - side // 2
    # A patch around a voxel near the border moves into the study.
    start = np.clip(start, 0, np.maximum(size - side, 0))
    z, y, x = np.where(size < side, -((side - size) // 2), start).tolist()
    return z, y, x


def tile_starts(shape: Triple, patch: Triple, overlap: float) -> list[Triple]:
    """The low corners of tiles that cover a study; neighbours share at least `overlap` of a side.

    Example:
      >>> tile_starts((1, 96, 64), (1, 64, 64), 0.5)
      [(0, 0, 0), (0, 32, 0)]
    """
    axes: list[list[int]] = []
    for size, side in zip(shape, patch):
        if size <= side:
            axes.append([-((side - size) // 2)])
            continue
        # Evenly spread, so that the last tile ends with the study.
        count = int(np.ceil((size - side) / (side * (1 - overlap)))) + 1
        axes.append(np.rint(np.linspace(0, size - side, count)).astype(int).tolist())
    z, y, x = axes
    return list(product(z, y, x))


def predict_whole(
    predict: Callable[[Float[np.ndarray, "B Z Y X"]], Any],
    image: Float[np.ndarray, "Z Y X"],
    patch: Triple,
    *,
    overlap: float,
    batch: int,
) -> Float[np.ndarray, "Z Y X"]:
    """Logits of a whole study: the mean over its tiles, weighted by a Gaussian around each centre.

    Args:
      predict: logits of a batch of tiles, of the same shape.

    Source: sliding windows of nnU-Net (Isensee et al., Nature Methods 18:203, 2021).
    """
    shape = (image.shape[0], image.shape[1], image.shape[2])
    starts = tile_starts(shape, patch, overlap)
    batch = min(batch, len(starts))
    # A single tile needs no weights: each voxel is seen once.
    weight = _gaussian(patch) if len(starts) > 1 else np.ones(patch, np.float32)
    total, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for some in _chunks(starts, batch):
        tiles = np.full((batch, *patch), BACKGROUND, np.float32)
        for tile, start in zip(tiles, some):
            there, own = _overlap(shape, patch, start)
            tile[own] = image[there]
        # The last batch is filled up, so that one shape is compiled.
        for logits, start in zip(np.asarray(predict(tiles)), some):
            there, own = _overlap(shape, patch, start)
            total[there] += (weight * logits)[own]
            weights[there] += weight[own]
    return total / weights


def _chunks(starts: Sequence[Triple], batch: int) -> Iterator[Sequence[Triple]]:
    return (starts[n : n + batch] for n in range(0, len(starts), batch))


def _overlap(
    shape: Triple, patch: Triple, start: Triple
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a tile lies in the study, and the study in the tile."""
    there, own = [], []
    for size, side, first in zip(shape, patch, start):
        low, high = max(first, 0), min(first + side, size)
        there.append(slice(low, high))
        own.append(slice(low - first, high - first))
    return tuple(there), tuple(own)


def _gaussian(patch: Triple) -> Float[np.ndarray, "Z Y X"]:
    """Weights of a tile, 1 in its middle; the floor keeps borders of a study defined."""
    z, y, x = (
        np.exp(-(((np.arange(side) - (side - 1) / 2) / (WIDTH * side)) ** 2) / 2) for side in patch
    )
    return np.maximum(z[:, None, None] * y[:, None] * x, 1e-3).astype(np.float32)
