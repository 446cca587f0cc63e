"""Models that learn a task end to end: the encoder fine-tuned or from scratch, and convolutional
networks.

Axes: N studies, z y x tokens, Z Y X voxels, L tokens of a study with its special ones, P voxels of
a patch, D width, M levels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmv_jax.data.augment import BACKGROUND, normalise
from mmv_jax.data.crops import Geometry
from mmv_jax.data.resample import read_crop, read_crop_mask
from mmv_jax.data.tokens import token_coordinates
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.trained import TrainedEncoder
from mmv_jax.evaluate.finetune.gradient_descent import (
    Fitted,
    Recipe,
    fit,
    in_batches,
    init_params,
)
from mmv_jax.evaluate.finetune.learner import FORWARD, Answer, told
from mmv_jax.evaluate.finetune.networks import CommonGrid, Transformer, make_model
from mmv_jax.evaluate.kinds.features import LinearHead
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.mask_scores import THRESHOLDS, cut, sweep
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.scenes import NativeGrid, Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.store.read import Store

RECIPES = {  # by protocol: the usual learning rate, around which others are tried
    "finetune": Recipe(peak_lr=5e-4),
    "scratch": Recipe(peak_lr=5e-4),
    "supervised": Recipe(peak_lr=2e-3),
    "native": Recipe(peak_lr=1e-3),
}
# augmentation: contrast ± 20 %, brightness ± 0.1, places ± a 16th of the side
GAIN, OFFSET, SHIFT = 0.2, 0.1, 16
INPUTS = ("voxels", "kept", "coords")


@dataclass(frozen=True)
class Images:
    """Studies of one split, read once.

    Attributes:
      arrays: `voxels` [N, Z, Y, X] about [-1, 1], `kept` [N, z, y, x], `coords` [N, L, 3],
        `counted` [N, Z, Y, X], and `truth`: a mask [N, Z, Y, X], or a number [N].
      scenes: of a segmentation, for its scores.
    """

    arrays: dict[str, np.ndarray]
    scenes: list[Scene]


def frame_of(trained: TrainedEncoder, geometry: Geometry, task: Task) -> CommonGrid:
    """The grid that holds every study of the task; no voxel is read.

    Raises:
      UserError: the task has both planar and volumetric studies, which have no common grid.
    """
    planar = geometry.planar[task.studies]
    if planar.any() and not planar.all():
        raise UserError(
            f"config.tasks.{task.name}: end-to-end training needs studies that are all planar or"
            f" all volumetric, but {planar.sum()} of {len(planar)} are planar. Split the"
            " task by `where`, or leave the protocols out."
        )
    crops, _ = trained.views(geometry[task.studies])
    z, y, x = crops.tokens.max(axis=0).tolist()
    pz, py, px = crops.patch
    return CommonGrid((z, y, x), (1 if planar.all() else z * pz, y * py, x * px))


def read_images(
    trained: TrainedEncoder, store: Store, geometry: Geometry, task: Task, frame: CommonGrid
) -> Images:
    """Read all studies of a task as the encoder's view shows them.

    For a part, pass `task[task.split == "train"]`.
    """
    crops, kept = trained.views(geometry[task.studies])
    special, n = 1 + trained.encoder.registers, len(task)
    voxels, counted = (
        np.full((n, *frame.voxels), BACKGROUND, np.float32),
        np.zeros((n, *frame.voxels), bool),
    )
    kept_all, coords = (
        np.zeros((n, *frame.tokens), bool),
        np.zeros((n, special + int(np.prod(frame.tokens)), 3), np.float32),
    )
    masks, scenes = np.zeros((n, *frame.voxels), bool), []
    for i, study in enumerate(task.studies.tolist()):
        line, tokens = store.index.iloc[study], tuple(crops.tokens[i].tolist())
        image, inside = read_crop(store, geometry, study, crops[i])
        place = tuple(map(slice, image.shape))
        voxels[i][place] = np.where(
            inside,
            normalise(image, line["unit"], line["low"], line["high"]),
            np.float32(BACKGROUND),
        )
        counted[i][place] = True
        own = np.zeros(frame.tokens, bool)
        own[tuple(map(slice, tokens))] = True
        # All ones: on the common grid every token has a place, kept or not.
        points = token_coordinates(
            crops[i], geometry.extent_mm[study], np.ones(tokens, bool), trained.whole.coordinates
        )
        # points[0] is the crop's centre, for the special tokens. `coords[i, special:]` is a view.
        coords[i, :special], coords[i, special:][own.ravel()] = points[0], points[1:]
        kept_all[i][own] = kept[i][tuple(map(slice, tokens))].ravel()
        if KINDS[task.kind].is_mask:
            masks[i][place] = task.structure(
                read_crop_mask(store, geometry, i=study, crop=crops[i], mask=task.mask)
            )
            # Scores read truth and spacing alone, so these scenes have no tokens.
            scenes.append(
                Scene(
                    np.zeros((0, 1), np.float32),
                    kept_all[i][tuple(map(slice, tokens))],
                    masks[i][place],
                    float(crops.spacing_mm[i]),
                    native=NativeGrid(store, geometry, study, crop=crops[i], task=task),
                )
            )
    truth = masks if KINDS[task.kind].is_mask else task.labels.astype(np.float32)
    return Images(
        {"voxels": voxels, "kept": kept_all, "coords": coords, "counted": counted, "truth": truth},
        scenes,
    )


@dataclass(frozen=True)
class EndToEnd:
    """A network of `RECIPES` that learns a task from voxels, a `Learner`.

    Images are read when they are first needed, and once for all fits.
    """

    protocol: str
    trained: TrainedEncoder
    store: Store
    geometry: Geometry
    task: Task

    def fit(self, recipe: Recipe, seed: int) -> Fitted:
        """Fit on train, stopped by val."""
        first = [jnp.asarray(self._train.arrays[name][:1]) for name in INPUTS]
        params = init_params(self._model, seed, *first)
        if self.protocol == "finetune":
            # A decoder of masks keeps its fresh parameters: a checkpoint has none for this task.
            params = {**params, "encoder": self.trained.params}
            if head := self._first_head:
                begun = {"kernel": head.kernel[:, None], "bias": np.array([head.bias])}
                params["head"] = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), begun)
        # Read here, so that the loss is traced without opening a study.
        kind, model, val = self._kind, self._model, self._val

        def loss_fn(params: Any, batch: Mapping[str, Array], key: Array) -> Float[Array, ""]:
            changed = augment(batch, key)
            return kind.loss(_apply(model, params, changed), changed["truth"], changed["counted"])

        def score(params: Any) -> float:
            found = self._predict(params, val, recipe.batch)
            return kind.score(found, val.arrays["truth"], val.scenes)

        return fit(
            params,
            loss_fn,
            data=self._train.arrays,
            score=score,
            recipe=recipe,
            seed=seed,
            encoder=None if self.protocol == "supervised" else self.trained.encoder,
        )

    def answer(self, fitted: Fitted, batch: int) -> Answer:
        """Masks of the test studies, at the threshold that is best on val; or predictions."""
        # Not kept: test is large, and each seed reads it once.
        test = self._read("test")
        found = self._predict(fitted.params, test, batch)
        if not self._kind.is_mask:
            return found
        # Each seed has a threshold of its own, as each would have in use.
        chosen = sweep(self._predict(fitted.params, self._val, batch), self._val.scenes)
        threshold = float(THRESHOLDS[int(chosen.argmax())])
        return cut(found, test.scenes, threshold, told(fitted))

    @cached_property
    def _frame(self) -> CommonGrid:
        return frame_of(self.trained, self.geometry, self.task)

    @cached_property
    def _model(self) -> nn.Module:
        return make_model(self.protocol, self.trained, self.task, self._frame)

    @cached_property
    def _train(self) -> Images:
        return self._read("train")

    @cached_property
    def _val(self) -> Images:
        return self._read("val")

    @cached_property
    def _first_head(self) -> LinearHead | None:
        if self._kind.is_mask:
            return None
        params = {"params": {"encoder": self.trained.params}}
        pooled_fn = jax.jit(partial(self._model.apply, method=Transformer.pooled))
        parts = {"train": self._train, "val": self._val}
        seen = [
            in_batches(
                lambda batch: pooled_fn(params, *(batch[name] for name in INPUTS)),
                {name: part.arrays[name] for name in INPUTS},
                FORWARD,
            )
            for part in parts.values()
        ]
        truth = np.concatenate([part.arrays["truth"] for part in parts.values()])
        split = np.repeat(list(parts), [len(x) for x in seen])
        return self._kind.first_head(np.concatenate(seen), truth, split)

    @cached_property
    def _kind(self) -> Kind:
        # Mean and scale of a number come from train alone.
        return KINDS[self.task.kind].fitted_to(self._train.arrays["truth"])

    @cached_property
    def _predict_fn(self) -> Callable[..., Array]:
        return jax.jit(lambda params, batch: self._kind.answer(_apply(self._model, params, batch)))

    def _predict(self, params: Any, images: Images, batch: int) -> np.ndarray:
        inputs = {name: images.arrays[name] for name in INPUTS}
        return in_batches(partial(self._predict_fn, params), inputs, batch)

    def _read(self, part: str) -> Images:
        own = self.task[self.task.split == part]
        return read_images(
            self.trained, self.store, geometry=self.geometry, task=own, frame=self._frame
        )


def augment(batch: Mapping[str, Array], key: Array) -> dict[str, Array]:
    """Change contrast, brightness and position of each study at random.

    A network without pretraining has to learn that these do not matter.
    """
    n, *sides = batch["voxels"].shape
    keys = jax.random.split(key, 3)
    gain = jax.random.uniform(keys[0], (n, 1, 1, 1), minval=1 - GAIN, maxval=1 + GAIN)
    offset = jax.random.uniform(keys[1], (n, 1, 1, 1), minval=-OFFSET, maxval=OFFSET)
    # Of the padded image, a start of 0 to 2 · most is a shift by -most to most. Planar z: 0.
    most = jnp.array([side // SHIFT for side in sides])
    shift = jax.random.randint(keys[2], (n, 3), 0, 2 * most[None] + 1)
    margin = [(side // SHIFT,) * 2 for side in sides]
    moved = {"voxels": gain * batch["voxels"] + offset, "counted": batch["counted"]}
    # A mask moves with its image; a number per study stays.
    if batch["truth"].ndim > 1:
        moved["truth"] = batch["truth"]
    # Whole voxels are shifted and borders repeated, so that nothing is interpolated.
    move = jax.vmap(
        lambda x, by: jax.lax.dynamic_slice(jnp.pad(x, margin, mode="edge"), tuple(by), x.shape)
    )
    return {**batch, **{name: move(x, shift) for name, x in moved.items()}}


def _apply(model: nn.Module, params: Any, batch: Mapping[str, Array]) -> Array:
    return model.apply({"params": params}, *(batch[name] for name in INPUTS))
