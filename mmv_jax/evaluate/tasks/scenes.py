"""Studies as a segmentation head sees them. Axes: n tokens, D width, z y x tokens or voxels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.data.crops import Crops, Geometry
from mmv_jax.data.resample import GridBox, read_crop_mask, to_study_grid
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.features import Features
from mmv_jax.evaluate.tasks.task import SPLITS, Task
from mmv_jax.store.read import Store

SHOWN = 8  # studies whose values a message lists
ANY_BIT = 0x7FFF  # all of a mask's 16 bits but the sign


@dataclass(frozen=True)
class NativeGrid:
    """The voxels of a study itself, on which every encoder is scored: the truth is then the same
    for all, whatever grid they see.
    """

    store: Store
    geometry: Geometry
    study: int
    crop: Crops | GridBox
    task: Task

    def truth(self) -> Bool[np.ndarray, "Z Y X"]:
        """The structure as it was drawn; read anew each time, since a CT's takes much memory."""
        return self.task.structure(self.mask())

    def mask(self) -> Int[np.ndarray, "Z Y X"]:
        """All values of the task's mask."""
        z, y, x = self.geometry.voxels[self.study].tolist()
        return self.store.read_box(self.study, (0, 0, 0), (z, y, x), mask=self.task.mask)

    def spread(self, values: Float[np.ndarray, "gz gy gx"]) -> Float[np.ndarray, "Z Y X"]:
        """Values of the view, interpolated to the study's voxels."""
        return to_study_grid(values, self.geometry, self.study, self.crop)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        z, y, x = self.geometry.spacing_mm[self.study].tolist()
        return z, y, x


@dataclass(frozen=True)
class Scene:
    """A study as a segmentation head sees it: the whole view.

    Attributes:
      tokens: of the kept patches, in the order of `kept`.
      kept: which patches have content. The others are not encoded, and nothing is predicted there.
      truth: the structure on the view's grid. A planar view has gz = 1.
      spacing_mm: the edge of the view's voxels.
      native: the study's own voxels, which scores are of; None where the view's grid is all there
        is.
    """

    tokens: Float[np.ndarray, "n D"]
    kept: Bool[np.ndarray, "tz ty tx"]
    truth: Bool[np.ndarray, "gz gy gx"]
    spacing_mm: float
    native: NativeGrid | None = None

    def showing(self, task: Task) -> "Scene":
        """The same view with the structure of another task on the same mask."""
        if self.native is None or task is self.native.task:
            return self
        own, study = self.native, self.native.study
        mask = read_crop_mask(own.store, own.geometry, i=study, crop=own.crop, mask=task.mask)
        return replace(self, truth=task.structure(mask), native=replace(own, task=task))

    def scored(
        self, values: Float[np.ndarray, "gz gy gx"]
    ) -> tuple[Bool[np.ndarray, "Z Y X"], Float[np.ndarray, "Z Y X"], tuple[float, float, float]]:
        """Truth, values and edges (mm) of the voxels on which the study is scored."""
        if self.native is None:
            return self.truth, values, (self.spacing_mm,) * 3
        return self.native.truth(), self.native.spread(values), self.native.spacing_mm


def scenes(
    encoder: StudyEncoder, store: Store, geometry: Geometry, task: Task, features: Features
) -> list[Scene]:
    """The studies of a segmentation: tokens, and the truth on the grid of the encoder's view."""
    crops, kept = encoder.views(geometry[task.studies])
    out = []
    for n, study in enumerate(task.studies.tolist()):
        truth = task.structure(
            read_crop_mask(store, geometry, i=study, crop=crops[n], mask=task.mask)
        )
        # `kept` is padded to the largest study; a study's own grid is its low corner.
        own = kept[n][tuple(slice(t) for t in crops.tokens[n])]
        native = NativeGrid(store, geometry, study, crop=crops[n], task=task)
        spacing_mm = float(crops.spacing_mm[n])
        out.append(Scene(features.tokens[study], own, truth, spacing_mm, native=native))
    return out


def local_means(
    encoder: StudyEncoder, store: Store, geometry: Geometry, task: Task, features: Features
) -> Float[np.ndarray, "N D"]:
    """The mean of each study's patch tokens, weighted by their share in the task's local region.

    Raises:
      UserError: the region of a study is empty, or the encoder reads no patch of it. An empty
        region would reveal the label.
    """
    # Every structure of this mask belongs to the region, so any bit counts.
    region = replace(task, mask=task.local, flags=ANY_BIT)
    # For each study, the covered share of each kept patch [n], and the tokens [n, D].
    weights = [
        (tiles(scene.truth, scene.kept).mean(axis=1), scene.tokens)
        for scene in scenes(encoder, store, geometry=geometry, task=region, features=features)
    ]
    empty = sum(weight.sum() == 0 for weight, _ in weights)
    if empty:
        raise UserError(
            f"config.tasks.{task.name}.local: {empty} of {len(task)} studies have an empty region"
            f" {task.local!r}. Leave `local` out."
        )
    return np.stack([weight @ tokens / weight.sum() for weight, tokens in weights])


def check_structure(task: Task, scenes: Sequence[Scene], name: str = "") -> None:
    """Refuse a task in which no study of a split has the structure.

    Args:
      name: of the structure, where the task has several.
    Raises:
      UserError: there is such a split: nothing can be learnt, chosen or measured on it.
    """
    there = np.array([scene.truth.any() for scene in scenes])
    for split in SPLITS:
        if not there[task.split == split].any():
            called = f"the structure {name!r}" if name else "this structure"
            asked = f"bits {task.flags}" if task.flags else f"values {task.values}"
            raise UserError(
                f"config.tasks.{task.name}: none of the {(task.split == split).sum()} studies of"
                f" {task.called(split)} has {called} ({asked}) in its mask {task.mask!r}."
                f"{_values_of(scenes)} Correct `values`, `flags` or `structures`, or leave the task"
                " out."
            )


def _values_of(scenes: Sequence[Scene]) -> str:
    """A sentence on the values that a few masks have."""
    few = [scene.native.mask() for scene in scenes[:SHOWN] if scene.native]
    there = sorted({int(value) for mask in few for value in np.unique(mask)})
    return f" The first masks have the values {', '.join(map(str, there))}." if there else ""


def tiles(grid: np.ndarray, kept: Bool[np.ndarray, "tz ty tx"]) -> np.ndarray:
    """The kept patches of a grid, `[n, P]`."""
    (tz, ty, tx), (gz, gy, gx) = kept.shape, grid.shape
    # Axes (tz, pz, ty, py, tx, px); the transpose puts the three of tokens first.
    split = grid.reshape((tz, gz // tz, ty, gy // ty, tx, gx // tx))
    cut = split.transpose((0, 2, 4, 1, 3, 5))[kept]
    return cut.reshape(len(cut), -1)


def untile(
    patches: np.ndarray, kept: Bool[np.ndarray, "tz ty tx"], shape: tuple[int, int, int]
) -> np.ndarray:
    """A grid from its kept patches `[n, P]`; 0 where none was kept."""
    (tz, ty, tx), (gz, gy, gx) = kept.shape, shape
    # The inverse of `tiles`: filled with the token axes first, then interleaved with voxel axes.
    out = np.zeros((tz, ty, tx, gz // tz, gy // ty, gx // tx), patches.dtype)
    out[kept] = patches.reshape(-1, *out.shape[3:])
    return out.transpose((0, 3, 1, 4, 2, 5)).reshape(shape)
