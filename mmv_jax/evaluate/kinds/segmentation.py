"""The linear probe of patch tokens: each token predicts which voxels of its patch have a structure.

It is one linear map D -> P, with no context other than the token. It is fitted by least squares on
the 0/1 masks, from sums over studies, so memory does not grow with their number.

Axes: n tokens, D width, P voxels of a patch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmv_jax.evaluate.kinds.features import Standardiser
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.tasks.scenes import Scene, tiles, untile
from mmv_jax.metrics import scores


@dataclass(frozen=True)
class Segmented:
    """Masks of the test studies with their scores, and the choices of val in words.

    Scores are NaN for studies without the structure.

    Attributes:
      held_out: the mean Dice on val before val was fitted on; NaN where it is not known.
    """

    masks: list[np.ndarray]  # boolean, each on the grid of its own view
    dice: Float[np.ndarray, " M"]
    hd95: Float[np.ndarray, " M"]
    choice: str
    held_out: float = float("nan")


def mask_loss(logits: Float[Array, "N Z Y X"], truth: Array, counted: Array) -> Float[Array, ""]:
    """Cross-entropy of voxels plus one minus soft Dice.

    Dice is of the batch as a whole, since a study may lack the structure.

    Source: the sum of both is the loss of nnU-Net (Isensee et al., Nature Methods 18:203, 2021);
      soft Dice, Milletari et al. (arXiv 1606.04797).
    """
    truth, counted = truth.astype(jnp.float32), counted.astype(jnp.float32)
    # Voxels outside a study's own view count in neither term.
    entropy = ((jnp.logaddexp(0.0, logits) - truth * logits) * counted).sum() / counted.sum()
    probability = jax.nn.sigmoid(logits) * counted
    # + 1 above and below the line: Dice stays finite in a batch without the structure.
    return entropy + 1 - (2 * (probability * truth).sum() + 1) / ((probability + truth).sum() + 1)


def agreement(probability: Float[np.ndarray, "N Z Y X"], scenes: Sequence[Scene]) -> float:
    """Minus `mask_loss` over all voxels of studies; early stopping uses it.

    Dice at a threshold says nothing while all probabilities of a rare structure are below every
    threshold.
    """
    pairs = [
        (np.clip(p[corner(s.truth.shape)], 1e-6, 1 - 1e-6).ravel(), s.truth.ravel())
        for p, s in zip(probability, scenes)
    ]
    # Voxels of all studies are pooled, as the loss pools those of a batch.
    said, truth = (np.concatenate(parts).astype(np.float64) for parts in zip(*pairs))
    entropy = -(truth * np.log(said) + (1 - truth) * np.log(1 - said)).mean()
    return float((2 * (said * truth).sum() + 1) / ((said + truth).sum() + 1) - 1 - entropy)


def sweep(
    probability: Iterable[Float[np.ndarray, "Z Y X"]], scenes: Sequence[Scene]
) -> Float[np.ndarray, " thresholds"]:
    """The mean Dice at each of `THRESHOLDS`, over the studies that have the structure."""
    return dice_by_threshold(
        [
            (p[corner(s.truth.shape)], s.truth, int(s.truth.sum()))
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
    """Masks of studies at a threshold, with their scores.

    As in `sweep`, `probability` may be an iterator over studies.
    """
    masks = [p[corner(scene.truth.shape)] > threshold for p, scene in zip(probability, scenes)]
    return Segmented(
        masks, *score_masks(list(scenes), masks), f"{choice}, threshold {threshold:.3g}"
    )


def corner(shape: Sequence[int]) -> tuple[slice, ...]:
    """Slices of the low corner of the common grid, where a study lies."""
    return tuple(map(slice, shape))


PENALTIES = tuple(10.0**e for e in range(-6, 1))  # of the ridge, a token and standardised feature
# The lowest thresholds are for heads of rare structures.
THRESHOLDS = np.r_[0.005, 0.01, 0.02, np.arange(0.05, 0.95, 0.05)]


@dataclass
class PatchRidge:
    """Ridge regression of patch masks on tokens at every penalty, from running sums."""

    standard: Standardiser
    xx: np.ndarray  # [D + 1, D + 1], the last feature is 1
    xy: np.ndarray  # [D + 1, P]
    count: int = 0

    @classmethod
    def of(cls, scenes: list[Scene], standard: Standardiser | None = None) -> "PatchRidge":
        """The sums over some scenes.

        Without `standard`, tokens are standardised on these scenes.
        """
        model = cls.empty(
            scenes[0],
            standard or Standardiser.of(np.concatenate([scene.tokens for scene in scenes])),
        )
        for scene in scenes:
            model.add(scene)
        return model

    @classmethod
    def empty(cls, like: Scene, standard: Standardiser) -> "PatchRidge":
        # A grid is whole patches, so its voxels over its tokens are the voxels of one patch.
        width, voxels = like.tokens.shape[1], like.truth.size // like.kept.size
        return cls(standard, np.zeros((width + 1, width + 1)), np.zeros((width + 1, voxels)))

    def add(self, scene: Scene) -> None:
        x, y = self.features(scene), tiles(scene.truth, scene.kept).astype(np.float32)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.count += len(x)

    def features(self, scene: Scene) -> Float[np.ndarray, "n E"]:
        x = self.standard(scene.tokens)
        return np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)

    def weights(self, penalty: float) -> Float[np.ndarray, "E P"]:
        # Times the count: a penalty a token has the same meaning for every number of studies.
        ridge = penalty * self.count * np.eye(len(self.xx))
        ridge[-1, -1] = 1e-9 * self.count  # the intercept is free
        return np.linalg.solve(self.xx + ridge, self.xy).astype(np.float32)

    def error(self, weights: Float[np.ndarray, "E P"]) -> float:
        """The squared error of these weights on the scenes of the sums, up to a constant."""
        # |XW - Y|² = W · (XᵀX W - 2 XᵀY) + |Y|², and the last term is the same for all weights.
        return float(np.sum(weights * (self.xx @ weights - 2 * self.xy)))


def probe_masks(scenes: list[Scene], split: np.ndarray) -> Segmented:
    """Fit on train, choose penalty and threshold by the mean Dice on val, refit on both, predict
    test.

    Args:
      split: "train", "val" or "test" of each scene.
    """
    train, val, test = (
        [scene for scene, s in zip(scenes, split) if s == name] for name in ("train", "val", "test")
    )
    model = PatchRidge.of(train)
    by_penalty = np.stack(
        [sweep_thresholds(model, model.weights(penalty), val) for penalty in PENALTIES]
    )
    # Chosen together: a larger penalty shrinks the scores, which then need a lower threshold.
    s, t = np.unravel_index(int(by_penalty.argmax()), by_penalty.shape)
    model = PatchRidge.of(train + val)
    weights = model.weights(PENALTIES[s])
    masks = [
        untile(model.features(scene) @ weights > THRESHOLDS[t], scene.kept, scene.truth.shape)
        for scene in test
    ]
    dice, hd95 = score_masks(test, masks)
    choice = f"penalty {PENALTIES[s]:g}, threshold {THRESHOLDS[t]:.3g}"
    # `by_penalty` belongs to the fit on train alone; the refit has seen val.
    return Segmented(masks, dice, hd95, choice, held_out=float(by_penalty.max()))


def score_masks(
    scenes: list[Scene], masks: list[np.ndarray]
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Dice and HD95 (mm) of each study that has the structure.

    NaN for the others: their Dice is 0 or undefined, whatever is predicted.
    """
    dice, hd95 = np.full((2, len(scenes)), np.nan)
    for i, (scene, mask) in enumerate(zip(scenes, masks)):
        if scene.truth.any():
            # A planar view is scored in 2D, where the surface is the contour.
            planar = scene.truth.shape[0] == 1
            truth, found = (scene.truth[0], mask[0]) if planar else (scene.truth, mask)
            dice[i] = scores.dice(truth, found)
            hd95[i] = scores.hd95(truth, found, (scene.spacing_mm,) * truth.ndim)
    return dice, hd95


def sweep_thresholds(
    model: PatchRidge, weights: np.ndarray, scenes: list[Scene]
) -> Float[np.ndarray, " thresholds"]:
    """The mean Dice at each threshold, over studies that have the structure.

    The structure in patches that were not kept counts as missed.
    """
    # A generator, so that the scores of one study at a time are in memory.
    present = (scene for scene in scenes if scene.truth.any())
    return dice_by_threshold(
        (model.features(s) @ weights, tiles(s.truth, s.kept), int(s.truth.sum())) for s in present
    )


def dice_by_threshold(
    found: Iterable[tuple[np.ndarray, np.ndarray, int]],
) -> Float[np.ndarray, " thresholds"]:
    """The mean Dice over studies at each of `THRESHOLDS`.

    Voxels are sorted into bins once, then summed from the highest bin.

    Args:
      found: for each study the scores of voxels, the truth at the same voxels, and the number of
        voxels of the whole structure.
    """
    by_study = []
    for score, truth, size in found:
        bins = np.searchsorted(THRESHOLDS, score.ravel())  # bin b: above b of the thresholds
        # Cumulative sums from the top: entry t counts what is above threshold t. [1:] drops bin 0.
        above, hit = (
            np.cumsum(np.bincount(b, minlength=len(THRESHOLDS) + 1)[::-1])[::-1][1:]
            for b in (bins, bins[truth.ravel()])
        )
        # `size` is of the whole structure, so voxels in patches that were not kept count as missed.
        by_study.append(2 * hit / (above + size))
    return np.mean(by_study, axis=0) if by_study else np.zeros(len(THRESHOLDS))


class Segmentation(Kind):
    """A structure of a mask. Metrics are means over the test studies that have it."""

    metrics = {"dice": "mean", "hd95": "mean"}
    lower_is_better = frozenset({"hd95"})
    labels = {"dice": "Dice", "hd95": "HD95 (mm)"}
    is_mask = True
    shares_axis = True

    def loss(self, out: Array, truth: Array, counted: Array) -> Float[Array, ""]:
        return mask_loss(out, truth, counted)

    def torch_loss(self, out: Any, truth: Any, counted: Any) -> Any:
        """`mask_loss` for PyTorch tensors."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        target, weight = truth.float(), counted.float()
        entropy = binary_cross_entropy_with_logits(out, target, reduction="none")
        entropy = (entropy * weight).sum() / weight.sum()
        probability = out.sigmoid() * weight
        both = (probability * target).sum()
        return entropy + 1 - (2 * both + 1) / ((probability + target).sum() + 1)

    def answer(self, out: Array) -> Array:
        return jax.nn.sigmoid(out)

    def score(self, answers: np.ndarray, truth: np.ndarray, scenes: Sequence[Scene]) -> float:
        return agreement(answers, scenes)
