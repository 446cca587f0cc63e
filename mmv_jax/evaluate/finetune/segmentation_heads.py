"""Three segmentation heads on frozen tokens, trained by gradient descent.

Axes: N studies, M levels, z y x tokens, Z Y X voxels, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.finetune.gradient_descent import (
    Fitted,
    Recipe,
    fit,
    in_batches,
    init_params,
)
from mmv_jax.evaluate.finetune.learner import told
from mmv_jax.evaluate.kinds.features import Standardiser
from mmv_jax.evaluate.kinds.mask_scores import THRESHOLDS, Segmented, corner, cut, sweep
from mmv_jax.evaluate.kinds.segmentation import agreement, mask_loss
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.models.segmentation import GlobalLocalDecoder, LinearDecoder, MultiScaleDecoder, resize

WIDTH = 64
# Output places along a token's side. They are finer than the usual output of segmentation networks,
# a quarter of the resolution.
FINEST = {2: 8, 3: 4}
# The usual learning rates, around which others are tried. One layer on normalised features allows
# larger steps than convolutions do, and with theirs it would need more epochs.
HEAD_RECIPES = {
    "linear": Recipe(peak_lr=1e-2),
    "multi-scale": Recipe(peak_lr=2e-3),
    "global-local": Recipe(peak_lr=2e-3),
}
HEADS = tuple(HEAD_RECIPES)


@dataclass(frozen=True)
class TokenGrids:
    """Tokens of studies on grids (zeros where no token was kept), and the truth on the view's
    voxels.

    All grids are as large as the largest study's.

    Attributes:
      counted: which voxels belong to the study's own view.
    """

    levels: Float[np.ndarray, "N M z y x D"]
    cls: Float[np.ndarray, "N D"]
    truth: Bool[np.ndarray, "N Z Y X"]
    counted: Bool[np.ndarray, "N Z Y X"]

    @classmethod
    def of(cls, scenes: Sequence[Scene], encoded: Sequence[Encoded]) -> "TokenGrids":
        """Grids of studies of one dimensionality.

        Levels are float16, since they take most of the memory.
        """
        tokens = np.max([scene.kept.shape for scene in scenes], axis=0)
        # All scenes have the same patch size, so the first one gives it.
        voxels = tokens * np.floor_divide(scenes[0].truth.shape, scenes[0].kept.shape)
        levels, width = len(encoded[0].early) + 1, encoded[0].patches.shape[1]
        grids = np.zeros((len(scenes), levels, *tokens, width), np.float16)
        truth, counted = np.zeros((2, len(scenes), *voxels), bool)
        for n, (scene, e) in enumerate(zip(scenes, encoded)):
            own, inside = corner(scene.kept.shape), corner(scene.truth.shape)
            for m, level in enumerate([*e.early, e.patches]):
                # `own` is slices, so `grids[n, m][own]` is a view and
                # the assignment reaches the array.
                grids[n, m][own][scene.kept] = level
            truth[n][inside], counted[n][inside] = scene.truth, True
        return cls(grids, np.stack([e.cls for e in encoded]).astype(np.float32), truth, counted)


def make_head(
    name: str, planar: bool, tokens: Sequence[int], voxels: Sequence[int]
) -> tuple[nn.Module, tuple[int, int, int]]:
    """Make a head of `HEADS`, with its output grid.

    Its logits are interpolated from that grid to the voxels.
    """
    if name == "linear":
        return LinearDecoder(1), (tokens[0], tokens[1], tokens[2])
    finest = FINEST[2 if planar else 3]
    z, y, x = (min(v, t * finest) for t, v in zip(tokens, voxels))
    return {"multi-scale": MultiScaleDecoder, "global-local": GlobalLocalDecoder}[name](
        1, width=WIDTH
    ), (z, y, x)


@dataclass(frozen=True)
class HeadLearner:
    """A head of `HEADS` on the frozen tokens of one structure's studies, a `Learner`.

    Attributes:
      scenes: of the task's studies, as the encoder sees them.
      encode: gives the encodings of the same studies, in the same order; called by the first fit.
      split: "train", "val" or "test" of each.
    """

    name: str
    scenes: Sequence[Scene]
    encode: Callable[[], Sequence[Encoded]]
    split: np.ndarray

    def fit(self, recipe: Recipe, seed: int) -> Fitted:
        """Fit on train, stopped by the loss on val."""
        train, val = self._part("train"), self._part("val")
        first = {key: jnp.asarray(array[:1]) for key, array in train.items()}
        head, answers = self._head
        inputs = (_levels(first), first["cls"], answers)
        params = init_params(head, seed, *inputs)

        def loss_fn(params: Any, batch: Mapping[str, Array], key: Array) -> Float[Array, ""]:
            return mask_loss(self._logits(params, batch), batch["truth"], batch["counted"])

        return fit(
            params,
            loss_fn,
            data=train,
            score=lambda params: agreement(
                self._probabilities(params, val, recipe.batch), self._scenes("val")
            ),
            recipe=recipe,
            seed=seed,
        )

    def answer(self, fitted: Fitted, batch: int) -> Segmented:
        """Masks of the test studies, at the threshold that is best on val."""
        # Both at once: the threshold of val cuts the masks of test.
        val, test = (
            self._probabilities(fitted.params, self._part(split), batch)
            for split in ("val", "test")
        )
        threshold = float(THRESHOLDS[int(sweep(val, self._scenes("val")).argmax())])
        return cut(test, self._scenes("test"), threshold, told(fitted))

    @cached_property
    def _grids(self) -> TokenGrids:
        return TokenGrids.of(self.scenes, standardised(self.encode(), self.split == "train"))

    @cached_property
    def _head(self) -> tuple[nn.Module, tuple[int, int, int]]:
        tokens, voxels = self._grids.levels.shape[2:5], self._grids.truth.shape[1:]
        return make_head(self.name, self.scenes[0].truth.shape[0] == 1, tokens, voxels)

    @cached_property
    def _predict_fn(self) -> Callable[..., Array]:
        return jax.jit(lambda params, batch: jax.nn.sigmoid(self._logits(params, batch)))

    def _logits(self, params: Any, batch: Mapping[str, Array]) -> Float[Array, "N Z Y X"]:
        head, answers = self._head
        found = head.apply({"params": params}, _levels(batch), batch["cls"], answers)
        return resize(found, self._grids.truth.shape[1:])[..., 0]

    def _probabilities(
        self, params: Any, part: Mapping[str, np.ndarray], batch: int
    ) -> Float[np.ndarray, "N Z Y X"]:
        return in_batches(partial(self._predict_fn, params), part, batch)

    def _part(self, split: str) -> dict[str, np.ndarray]:
        return {name: array[self.split == split] for name, array in vars(self._grids).items()}

    def _scenes(self, split: str) -> list[Scene]:
        return [scene for scene, own in zip(self.scenes, self.split) if own == split]


def standardised(encoded: Sequence[Encoded], fitted: Bool[np.ndarray, " N"]) -> list[Encoded]:
    """Every feature scaled to mean 0 and variance 1 over the `fitted` studies, as for probes.

    Gradient descent hardly moves along features that vary little.
    """
    from_these = [e for e, chosen in zip(encoded, fitted) if chosen]
    of_cls = Standardiser.of(np.stack([e.cls for e in from_these]))
    of_patches = Standardiser.of(np.concatenate([e.patches for e in from_these]))
    # Depths differ in scale, so each level is standardised by itself.
    of_early = [
        Standardiser.of(np.concatenate([e.early[m] for e in from_these]))
        for m in range(len(encoded[0].early))
    ]
    return [
        Encoded(
            e.study,
            of_cls(e.cls[None])[0],
            of_patches(e.patches),
            np.stack([s(x) for s, x in zip(of_early, e.early)]) if of_early else e.early,
        )
        for e in encoded
    ]


def encoded_of(scenes: Sequence[Scene]) -> Iterator[Encoded]:
    """Encodings from scenes alone, for pixels: CLS is the mean token, and there are no earlier
    levels.
    """
    for n, scene in enumerate(scenes):
        yield Encoded(n, scene.tokens.mean(axis=0), scene.tokens, scene.tokens[None][:0])


def _levels(batch: Mapping[str, Array]) -> Float[Array, "M N z y x D"]:
    # float16 saves memory on the host; heads compute in float32, with levels first.
    return jnp.moveaxis(jnp.asarray(batch["levels"], jnp.float32), 1, 0)
