"""Slices of studies as PyTorch tensors: reading, augmentation, and reassembly to whole views.

Axes: N studies, S slices of all of them, Y X pixels as far as the patches go, Z Y X voxels of a
study's view.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmv_jax.data.crops import Geometry
from mmv_jax.data.resample import read_crop_mask
from mmv_jax.evaluate.encoders.huggingface import HuggingFaceEncoder
from mmv_jax.evaluate.finetune.end_to_end import GAIN, OFFSET, SHIFT
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.scenes import NativeGrid, Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class Slices:
    """Slices of studies, one study after the other.

    Attributes:
      images: 0 to 1, as `HuggingFaceEncoder.slices` shows them.
      counts: slices of each study.
      counted: which pixels belong to the study's own view.
      truth: a number for each study, or a mask of the structure for each slice.
    """

    images: Float[Tensor, "S side side"]
    counts: list[int]
    counted: Bool[Tensor, "S Y X"]
    truth: Float[Tensor, " N"] | Bool[Tensor, "S Y X"]

    def __getitem__(self, lines: Int[np.ndarray, " B"]) -> "Slices":
        ends = np.cumsum(self.counts)
        own = torch.from_numpy(
            np.concatenate([np.arange(ends[n] - self.counts[n], ends[n]) for n in lines])
        )
        # A mask is indexed by slice, a number by study.
        truth = self.truth[own if self.truth.ndim > 1 else torch.from_numpy(lines)]
        return Slices(
            self.images[own].float(), [self.counts[n] for n in lines], self.counted[own], truth
        )


def read_slices(
    encoder: HuggingFaceEncoder, store: Store, geometry: Geometry, task: Task
) -> tuple[Slices, list[Scene]]:
    """Read all studies of a task; for a segmentation also the whole views, for its scores.

    For a part, pass `task[task.split == "train"]`.
    """
    crops, kept = encoder.views(geometry[task.studies])
    side = encoder.side - encoder.side % encoder.patch
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    scenes: list[Scene] = []
    for n, study in enumerate(task.studies.tolist()):
        # float16 takes half the memory and is still finer than 8 bits.
        shown = encoder.slices(store, geometry, study, crops[n]).astype(np.float16)
        own, there = np.zeros((2, len(shown), side, side), bool)
        tokens = tuple(map(slice, crops.tokens[n].tolist()))
        # From tokens to pixels: `stop` is the number of tokens along an axis.
        inside = (slice(None), *(slice(part.stop * encoder.patch) for part in tokens[1:]))
        own[inside] = True
        if KINDS[task.kind].is_mask:
            mask = task.structure(
                read_crop_mask(store, geometry, i=study, crop=crops[n], mask=task.mask)
            )
            # The truth only of the slices that the model sees.
            there[inside] = encoder.layers(mask)
            scenes.append(
                Scene(
                    np.zeros((0, 1), np.float32),
                    kept[n][tokens],
                    mask,
                    float(crops.spacing_mm[n]),
                    native=NativeGrid(store, geometry, study, crop=crops[n], task=task),
                )
            )
        parts.append((shown, own, there))
    images, counted, masks = (torch.from_numpy(np.concatenate(found)) for found in zip(*parts))
    truth = masks if KINDS[task.kind].is_mask else torch.from_numpy(task.labels.astype(np.float32))
    return Slices(images, [len(shown) for shown, *_ in parts], counted, truth), scenes


def whole_views(
    logits: Float[Tensor, "S Y X"], counts: list[int], scenes: Sequence[Scene]
) -> Iterator[Float[np.ndarray, "Z Y X"]]:
    """The probabilities of one study after the other, on the grid of its view."""
    # The slices lie a patch apart. Logits between them are interpolated, then become probabilities.
    for own, scene in zip(logits.split(counts), scenes):
        _, y, x = scene.truth.shape
        yield (
            F.interpolate(own[None, None, :, :y, :x], size=scene.truth.shape, mode="trilinear")[
                0, 0
            ]
            .sigmoid()
            .numpy()
        )


def augment(batch: Slices, generator: torch.Generator) -> Slices:
    """Change contrast, brightness and position at random, the same for all slices of a study.

    It is `end_to_end.augment` for slices.
    """

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        values = low + (high - low) * torch.rand(len(batch.counts), *shape, generator=generator)
        # One draw a study, repeated for each of its slices.
        return values.repeat_interleave(torch.tensor(batch.counts), dim=0)

    gain, offset = drawn(1 - GAIN, 1 + GAIN, 1, 1), drawn(-OFFSET, OFFSET, 1, 1)
    most = float(batch.images.shape[-1] // SHIFT)
    # floor over [-most, most + 1): each whole shift from -most to most is equally likely.
    by = drawn(-most, most + 1, 2).floor().long()
    # Contrast is relative to 0.5, the middle of the range.
    images = (gain * (2 * move(batch.images, by) - 1) + offset + 1) / 2
    truth = move(batch.truth, by) if batch.truth.ndim > 1 else batch.truth
    return replace(batch, images=images, counted=move(batch.counted, by), truth=truth)


def move(x: Tensor, by: Int[Tensor, "S 2"]) -> Tensor:
    """Each slice [S, Y, X] shifted by whole pixels; the border pixels are repeated."""
    # Clamped indices repeat the border, as edge padding does in `end_to_end.augment`.
    lines, columns = (
        (torch.arange(size)[None] + own[:, None]).clamp(0, size - 1)
        for size, own in zip(x.shape[1:], by.T)
    )
    return x[torch.arange(len(x))[:, None, None], lines[:, :, None], columns[:, None]]
