"""Three segmentation heads on frozen tokens, trained by gradient descent. Axes: N studies, M
levels, z y x tokens, Z Y X voxels, D width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmv_jax.evaluate.encoders import Encoded
from mmv_jax.evaluate.finetune import Recipe, fit, in_batches, init_params
from mmv_jax.evaluate.probes import Standardiser
from mmv_jax.evaluate.segmentation import (
    THRESHOLDS,
    Scene,
    Segmented,
    dice_by_threshold,
    score_masks,
)
from mmv_jax.models.decoders import GlobalLocalDecoder, LinearDecoder, MultiScaleDecoder, resize

HEADS = ("linear", "multi-scale", "global-local")
WIDTH = 64
# answers along a token's side: finer than the quarter of the resolution at which segmentation
# networks usually answer
FINEST = {2: 8, 3: 4}
RECIPE = Recipe(peak_lr=2e-3)
# one layer on normalised features bears a larger step than convolutions do, and would not be done
# in as many epochs with theirs
LINEAR_LR = 1e-2


@dataclass(frozen=True)
class TokenGrids:
    """Tokens of studies put to their places (zeros where none was kept), and the truth on the
    view's voxels; all as large as the largest study.

    Attributes:
      counted: which voxels belong to the study's own view.
    """

    levels: Float[np.ndarray, "N M z y x D"]
    cls: Float[np.ndarray, "N D"]
    truth: Bool[np.ndarray, "N Z Y X"]
    counted: Bool[np.ndarray, "N Z Y X"]

    @classmethod
    def of(cls, scenes: Sequence[Scene], encoded: Sequence[Encoded]) -> "TokenGrids":
        """Grids of studies of one dimensionality; levels as float16, since they are what takes
        memory.
        """
        tokens = np.max([scene.kept.shape for scene in scenes], axis=0)
        voxels = tokens * np.floor_divide(scenes[0].truth.shape, scenes[0].kept.shape)
        levels, width = len(encoded[0].early) + 1, encoded[0].patches.shape[1]
        grids = np.zeros((len(scenes), levels, *tokens, width), np.float16)
        truth, counted = np.zeros((2, len(scenes), *voxels), bool)
        for n, (scene, e) in enumerate(zip(scenes, encoded)):
            own, inside = _corner(scene.kept.shape), _corner(scene.truth.shape)
            for m, level in enumerate([*e.early, e.patches]):
                grids[n, m][own][scene.kept] = level
            truth[n][inside], counted[n][inside] = scene.truth, True
        return cls(grids, np.stack([e.cls for e in encoded]).astype(np.float32), truth, counted)


def make_head(
    name: str, planar: bool, tokens: Sequence[int], voxels: Sequence[int]
) -> tuple[nn.Module, tuple[int, int, int]]:
    """A head of `HEADS`, and the grid on which it answers: its logits are interpolated from there
    to the voxels.
    """
    if name == "linear":
        return LinearDecoder(1), (tokens[0], tokens[1], tokens[2])
    finest = FINEST[2 if planar else 3]
    z, y, x = (min(v, t * finest) for t, v in zip(tokens, voxels))
    return {"multi-scale": MultiScaleDecoder, "global-local": GlobalLocalDecoder}[name](
        1, width=WIDTH
    ), (z, y, x)


def fit_head(
    name: str,
    scenes: Sequence[Scene],
    encoded: Sequence[Encoded],
    split: np.ndarray,
    recipe: Recipe,
    seed: int,
) -> Segmented:
    """Fits a head on train, stops by the loss on val, chooses the threshold by the mean Dice there,
    and segments test.

    Args:
      scenes: of the task's studies, as the encoder sees them.
      encoded: of the same studies, in the same order.
      split: "train", "val" or "test" of each.
    """
    grids = TokenGrids.of(scenes, standardised(encoded, split == "train"))
    tokens, voxels = grids.levels.shape[2:5], grids.truth.shape[1:]
    head, answers = make_head(name, scenes[0].truth.shape[0] == 1, tokens, voxels)
    recipe = replace(recipe, peak_lr=LINEAR_LR) if name == "linear" else recipe
    train, val, test = (_part(grids, split == s) for s in ("train", "val", "test"))
    first = {key: jnp.asarray(array[:1]) for key, array in train.items()}
    apply = partial(_logits, head, answers=answers, voxels=voxels)
    params = init_params(head, seed, _levels(first), first["cls"], answers)
    predict = jax.jit(lambda params, batch: jax.nn.sigmoid(apply(params, batch)))

    def loss_fn(params: Any, batch: Mapping[str, Array], key: Array) -> Float[Array, ""]:
        return mask_loss(apply(params, batch), batch["truth"], batch["counted"])

    def probabilities(params: Any, part: Mapping[str, np.ndarray]) -> np.ndarray:
        return in_batches(partial(predict, params), part, recipe.batch)

    val_scenes, test_scenes = (
        [scene for scene, s in zip(scenes, split) if s == name] for name in ("val", "test")
    )
    fitted = fit(
        params,
        loss_fn,
        train,
        lambda params: agreement(probabilities(params, val), val_scenes),
        recipe,
        seed,
    )
    threshold = float(
        THRESHOLDS[int(sweep(probabilities(fitted.params, val), val_scenes).argmax())]
    )
    return cut(probabilities(fitted.params, test), test_scenes, threshold, f"epoch {fitted.epoch}")


def standardised(encoded: Sequence[Encoded], fitted: Bool[np.ndarray, " N"]) -> list[Encoded]:
    """Every feature with mean 0 and variance 1 over the `fitted` studies, as for probes: gradient
    descent hardly moves along what varies little.
    """
    from_these = [e for e, chosen in zip(encoded, fitted) if chosen]
    of_cls = Standardiser.of(np.stack([e.cls for e in from_these]))
    of_patches = Standardiser.of(np.concatenate([e.patches for e in from_these]))
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


def mask_loss(logits: Float[Array, "N Z Y X"], truth: Array, counted: Array) -> Float[Array, ""]:
    """Cross-entropy of voxels plus one minus soft Dice; Dice over the batch as a whole, since a
    study may lack the structure.

    Source: the sum of both is the loss of nnU-Net (Isensee et al., Nature Methods 18:203, 2021);
      soft Dice, Milletari et al. (arXiv 1606.04797).
    """
    truth, counted = truth.astype(jnp.float32), counted.astype(jnp.float32)
    entropy = ((jnp.logaddexp(0.0, logits) - truth * logits) * counted).sum() / counted.sum()
    probability = jax.nn.sigmoid(logits) * counted
    return entropy + 1 - (2 * (probability * truth).sum() + 1) / ((probability + truth).sum() + 1)


def agreement(probability: Float[np.ndarray, "N Z Y X"], scenes: Sequence[Scene]) -> float:
    """Minus `mask_loss` over all voxels of studies.

    A fit is stopped by this and not by Dice at a threshold, which says nothing while all
    probabilities of a rare structure lie below every threshold.
    """
    pairs = [
        (np.clip(p[_corner(s.truth.shape)], 1e-6, 1 - 1e-6).ravel(), s.truth.ravel())
        for p, s in zip(probability, scenes)
    ]
    said, truth = (np.concatenate(parts).astype(np.float64) for parts in zip(*pairs))
    entropy = -(truth * np.log(said) + (1 - truth) * np.log(1 - said)).mean()
    return float((2 * (said * truth).sum() + 1) / ((said + truth).sum() + 1) - 1 - entropy)


def sweep(
    probability: Iterable[Float[np.ndarray, "Z Y X"]], scenes: Sequence[Scene]
) -> Float[np.ndarray, " thresholds"]:
    """The mean Dice at each of `THRESHOLDS`, over the studies that have the structure."""
    return dice_by_threshold(
        [
            (p[_corner(s.truth.shape)], s.truth, int(s.truth.sum()))
            for p, s in zip(probability, scenes)
            if s.truth.any()
        ]
    )


def cut(
    probability: Iterable[Float[np.ndarray, "Z Y X"]],
    scenes: Sequence[Scene],
    threshold: float,
    choice: str,
) -> Segmented:
    """The masks of studies at a threshold, and their scores. As in `sweep`, `probability` may come
    one study after the other.
    """
    masks = [p[_corner(scene.truth.shape)] > threshold for p, scene in zip(probability, scenes)]
    return Segmented(
        masks, *score_masks(list(scenes), masks), f"{choice}, threshold {threshold:.3g}"
    )


def encoded_of(scenes: Sequence[Scene]) -> Iterator[Encoded]:
    """Scenes whose tokens are all there is (pixels): the mean token for CLS, and no earlier
    levels.
    """
    for n, scene in enumerate(scenes):
        yield Encoded(n, scene.tokens.mean(axis=0), scene.tokens, scene.tokens[None][:0])


def _part(grids: TokenGrids, chosen: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array[chosen] for name, array in vars(grids).items()}


def _levels(batch: Mapping[str, Array]) -> Float[Array, "M N z y x D"]:
    return jnp.moveaxis(jnp.asarray(batch["levels"], jnp.float32), 1, 0)


def _logits(
    head: nn.Module,
    params: Any,
    batch: Mapping[str, Array],
    *,
    answers: tuple[int, ...],
    voxels: tuple[int, ...],
) -> Array:
    return resize(head.apply({"params": params}, _levels(batch), batch["cls"], answers), voxels)[
        ..., 0
    ]


def _corner(shape: Sequence[int]) -> tuple[slice, ...]:
    """A study lies in the low corner of the common grid."""
    return tuple(map(slice, shape))
