"""Supervised baselines of full width at the studies' own resolution: nnU-Net's U-Net, and a ResNet.

Their plan is made from the spacing and shape of the training studies, and bounded by memory.

Axes: N studies, B of a step, Z Y X voxels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.finetune.gradient_descent import (
    Fitted,
    Recipe,
    fit,
    fit_batches,
    in_batches,
    init_params,
)
from mmv_jax.evaluate.finetune.learner import Answer, Learner, told
from mmv_jax.evaluate.finetune.native_changes import change
from mmv_jax.evaluate.finetune.native_studies import (
    NativeStudies,
    Triple,
    draw_start,
    predict_whole,
    tile_count,
)
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.mask_scores import THRESHOLDS, Segmented, cut, sweep
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.models.nnunet import PlannedUNet, coarser, stage_weights
from mmv_jax.models.resnet import RESNETS, ResNet
from mmv_jax.models.resnet_plan import ResNetPlan, plan_resnet
from mmv_jax.models.unet_plan import UNetPlan, plan_unet
from mmv_jax.store.read import Store

SHOWN = 128  # voxels a side, at most, of masks that are kept to be looked at
TILES = 4  # predicted at once, at most
OVERLAP = 0.5  # of neighbouring tiles where masks are scored
SHIFT = 1 / 16  # of a side, by which whole studies move at most


@dataclass(frozen=True)
class NativeOptions:
    """`config.native`: the networks of the protocol "native".

    Attributes:
      features: of the first stage of the U-Net; the ResNet's first stage has twice as many. 32
        is the full width of both.
      resnet: "resnet18" or "resnet50".
      memory_gib: of the device, as nnU-Net counts it for half precision: float32 takes about twice
        as much. It bounds the U-Net's patch, the ResNet's resolution, and the batches of both.
    """

    features: int = 32
    resnet: str = "resnet18"
    memory_gib: float = 8.0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "NativeOptions":
        """The options of a config.

        Raises:
          UserError: there is no such option, or its value is not possible.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise UserError(
                f"config.native.{unknown[0]} does not exist. There are: {', '.join(known)}."
            )
        found = cls(**options)
        if found.resnet not in RESNETS:
            raise UserError(
                f"config.native.resnet is {found.resnet!r}, but must be one of"
                f" {', '.join(map(repr, RESNETS))}."
            )
        if type(found.features) is not int or found.features < 1:
            raise UserError(
                f"config.native.features is {found.features!r}, but must be a whole number from 1"
                " on."
            )
        memory = found.memory_gib
        if isinstance(memory, bool) or not isinstance(memory, int | float) or not memory > 0:
            raise UserError(
                f"config.native.memory_gib is {memory!r}, but must be a number above 0."
            )
        return found


def native_learner(
    options: NativeOptions, *, store: Store, geometry: Geometry, task: Task
) -> Learner:
    """The U-Net where the task is a mask, else the ResNet."""
    kind = NativeUNet if KINDS[task.kind].is_mask else NativeResNet
    return kind(options, store, geometry, task=task)


@dataclass(frozen=True)
class NativeUNet:
    """nnU-Net's U-Net, trained on patches and stopped by whole val studies; a `Learner`.

    An epoch has as many patches as fill the training studies.
    """

    options: NativeOptions
    store: Store
    geometry: Geometry
    task: Task

    @cached_property
    def plan(self) -> UNetPlan:
        """From the training studies alone."""
        train = self._of("train")
        return plan_unet(
            self.geometry.spacing_mm[train],
            self.geometry.voxels[train],
            features=self.options.features,
            memory_gib=self.options.memory_gib,
        )

    def fit(self, recipe: Recipe, seed: int) -> Fitted:
        """Fit on train, stopped by val."""
        patch, val, kind = self.plan.patch, self._val, self._kind
        model, mirrored = PlannedUNet(self.plan), self.task.mirror
        # One patch is enough: parameters do not depend on the size of a patch.
        params = init_params(model, seed, jnp.zeros((1, *patch, 1)))
        weights = stage_weights(len(self.plan.features) - 1)

        def loss_fn(params: Any, batch: Mapping[str, Array], key: Array) -> Float[Array, ""]:
            changed = change(batch, key, mirrored=mirrored)
            total = jnp.zeros(())
            for weight, out in zip(weights, model.apply({"params": params}, _channel(changed))):
                truth, counted = (
                    coarser(changed[name], out.shape[1:4]) for name in ("truth", "counted")
                )
                # The coarsest grid counts nothing, and XLA then computes none of its loss.
                if weight:
                    total += weight * kind.loss(out[..., 0], truth, counted)
            return total

        scenes, items = self._val_scenes, self._items

        def score(params: Any) -> float:
            # Tiles side by side, which is enough to compare epochs.
            return kind.score(self._probabilities(params, val, overlap=0.0), np.zeros(0), scenes)

        return fit_batches(
            params,
            loss_fn,
            lambda lines, number: self._patches(items[lines], [seed, number]),
            count=len(items),
            score=score,
            recipe=self._bounded(recipe),
            seed=seed,
        )

    def answer(self, fitted: Fitted, batch: int) -> Answer:
        """Masks of the test studies, at the threshold that is best on val."""
        on_val = sweep(
            self._probabilities(fitted.params, self._val, overlap=OVERLAP), self._val_scenes
        )
        # Each seed has a threshold of its own, as each would have in use.
        threshold = float(THRESHOLDS[int(on_val.argmax())])
        test = self._of("test")
        found = self._probabilities(fitted.params, test, overlap=OVERLAP)
        # One study after the other: truth and masks of all would not fit into memory.
        parts = [
            _shown(cut([value], [self._studies.scene(study)], threshold, told(fitted)))
            for study, value in zip(test.tolist(), found)
        ]
        scores = {
            name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores
        }
        return Segmented([part.masks[0] for part in parts], scores, parts[0].choice)

    @cached_property
    def _studies(self) -> NativeStudies:
        return NativeStudies(self.store, self.geometry, self.task, self.plan.spacing_mm)

    @cached_property
    def _val(self) -> np.ndarray:
        return self._of("val")

    @cached_property
    def _val_scenes(self) -> list[Scene]:
        return [self._studies.scene(study) for study in self._val.tolist()]

    @cached_property
    def _items(self) -> np.ndarray:
        """Training studies, each as often as patches fill it."""
        # A large study has more to show than a small one, and takes more patches of an epoch.
        train = self._of("train")
        shapes = [self._studies.shape(study) for study in train.tolist()]
        return np.repeat(train, [tile_count(shape, self.plan.patch) for shape in shapes])

    @cached_property
    def _places(self) -> dict[int, np.ndarray]:
        return {study: self._studies.places(study) for study in self._of("train").tolist()}

    @cached_property
    def _kind(self) -> Kind:
        return KINDS[self.task.kind]

    @cached_property
    def _predict_fn(self) -> Callable[[Any, Any], Array]:
        model = PlannedUNet(self.plan)
        return jax.jit(lambda params, x: model.apply({"params": params}, x[..., None])[0][..., 0])

    def _of(self, split: str) -> np.ndarray:
        return self.task.studies[self.task.split == split]

    def _bounded(self, recipe: Recipe) -> Recipe:
        return replace(recipe, batch=min(recipe.batch, self.plan.batch))

    def _patches(self, studies: np.ndarray, seed: list[int]) -> dict[str, np.ndarray]:
        """A batch of patches drawn at random."""
        rng, patch, parts = np.random.default_rng(seed), self.plan.patch, []
        for study in studies.tolist():
            shape = self._studies.shape(study)
            # All random numbers come in one order, so that a resumed fit sees the same patches.
            start = draw_start(rng, shape, patch, self._places[study])
            parts.append(
                {
                    "voxels": self._studies.image(study, start, patch),
                    "truth": self._studies.truth(study, start, patch),
                    "counted": self._studies.inside(study, start, patch),
                }
            )
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    def _probabilities(
        self, params: Any, studies: np.ndarray, *, overlap: float
    ) -> Iterator[Float[np.ndarray, "Z Y X"]]:
        """Of one whole study after the other."""
        for study in studies.tolist():
            image = self._studies.image(study, (0, 0, 0), self._studies.shape(study))
            logits = predict_whole(
                lambda tiles: self._predict_fn(params, tiles),
                image,
                self.plan.patch,
                overlap=overlap,
                batch=min(TILES, self.plan.batch),
            )
            yield np.asarray(self._kind.answer(jnp.asarray(logits)))


@dataclass(frozen=True)
class NativeResNet:
    """A ResNet of whole studies, each in the middle of one common grid; a `Learner`."""

    options: NativeOptions
    store: Store
    geometry: Geometry
    task: Task

    @cached_property
    def plan(self) -> ResNetPlan:
        """The spacing is that of the training studies; the grid holds every study of the task."""
        train = self.task.studies[self.task.split == "train"]
        return plan_resnet(
            self.geometry.spacing_mm[train],
            self.geometry.voxels[self.task.studies] * self.geometry.spacing_mm[self.task.studies],
            RESNETS[self.options.resnet],
            width=2 * self.options.features,
            memory_gib=self.options.memory_gib,
        )

    def fit(self, recipe: Recipe, seed: int) -> Fitted:
        """Fit on train, stopped by val."""
        train, val, kind, model = self._train, self._val, self._kind, self._model
        params = init_params(model, seed, jnp.zeros((1, *self.plan.grid, 1)))

        def loss_fn(params: Any, batch: Mapping[str, Array], key: Array) -> Float[Array, ""]:
            voxels = batch["voxels"].astype(jnp.float32)
            given = {**batch, "voxels": voxels}
            changed = change(given, key, shift=SHIFT, mirrored=self.task.mirror)
            out = model.apply({"params": params}, _channel(changed))[..., 0]
            return kind.loss(out, batch["truth"], jnp.ones(()))

        def score(params: Any) -> float:
            found = self._predict(params, val["voxels"], recipe.batch)
            return kind.score(found, val["truth"], ())

        # The budget's batch is an upper limit: memory may ask for less.
        bounded = replace(recipe, batch=min(recipe.batch, self.plan.batch))
        return fit(params, loss_fn, data=train, score=score, recipe=bounded, seed=seed)

    def answer(self, fitted: Fitted, batch: int) -> Answer:
        """Predictions for the test studies."""
        return self._predict(fitted.params, self._read("test")["voxels"], batch)

    @cached_property
    def _model(self) -> ResNet:
        return ResNet(1, RESNETS[self.options.resnet], width=2 * self.options.features)

    @cached_property
    def _train(self) -> dict[str, np.ndarray]:
        return self._read("train")

    @cached_property
    def _val(self) -> dict[str, np.ndarray]:
        return self._read("val")

    @cached_property
    def _kind(self) -> Kind:
        # Mean and scale of a number come from train alone.
        return KINDS[self.task.kind].fitted_to(self._train["truth"])

    @cached_property
    def _predict_fn(self) -> Callable[[Any, Any], Array]:
        def predict(params: Any, voxels: Array) -> Array:
            image = voxels.astype(jnp.float32)[..., None]
            return self._kind.answer(self._model.apply({"params": params}, image)[..., 0])

        return jax.jit(predict)

    def _predict(self, params: Any, voxels: np.ndarray, batch: int) -> np.ndarray:
        return in_batches(
            lambda some: self._predict_fn(params, some["voxels"]),
            {"voxels": voxels},
            min(batch, self.plan.batch),
        )

    def _read(self, split: str) -> dict[str, np.ndarray]:
        """Whole studies; float16 takes half the memory and is still finer than 8 bits."""
        own = self.task[self.task.split == split]
        studies = NativeStudies(self.store, self.geometry, self.task, self.plan.spacing_mm)
        # All at once, as a fit goes through them many times.
        voxels = np.empty((len(own), *self.plan.grid), np.float16)
        for n, study in enumerate(own.studies.tolist()):
            start = _centred(studies.shape(study), self.plan.grid)
            voxels[n] = studies.image(study, start, self.plan.grid)
        return {"voxels": voxels, "truth": own.labels.astype(np.float32)}


def _channel(batch: Mapping[str, Array]) -> Float[Array, "B Z Y X 1"]:
    return batch["voxels"][..., None]


def _centred(shape: Triple, grid: Triple) -> Triple:
    """The low corner of a grid in the middle of which a study lies."""
    z, y, x = (-((side - size) // 2) for size, side in zip(shape, grid))
    return z, y, x


def _shown(found: Segmented) -> Segmented:
    """The same with a coarser mask: at native resolution, masks of all studies take gigabytes."""
    (mask,) = found.masks
    steps = tuple(slice(None, None, max(-(-size // SHOWN), 1)) for size in mask.shape)
    return replace(found, masks=[mask[steps]])
