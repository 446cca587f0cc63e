"""The linear probe of patch tokens: each token predicts which voxels of its patch have a structure.

It is one linear map D -> P, with no context other than the token. It is fitted by least squares on
the 0/1 masks, from sums over studies, so memory does not grow with their number.

Axes: n tokens, D width, P voxels of a patch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmv_jax.evaluate.kinds.features import Standardiser
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.mask_scores import (
    THRESHOLDS,
    Segmented,
    corner,
    cut,
    score_thresholds,
    sweep,
)
from mmv_jax.evaluate.tasks.scenes import Scene, tiles, untile
from mmv_jax.metrics.scores import TOLERANCE_MM


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


def agreement(probability: Iterable[Float[np.ndarray, "Z Y X"]], scenes: Sequence[Scene]) -> float:
    """Minus `mask_loss` over all voxels of studies; early stopping uses it.

    Dice at a threshold says nothing while all probabilities of a rare structure are below every
    threshold.

    Args:
      probability: of each study, which may come one after the other.
    """
    entropy = hit = both = 0.0
    voxels = 0
    for p, scene in zip(probability, scenes):
        truth = scene.truth
        said = np.clip(p[corner(truth.shape)], 1e-6, 1 - 1e-6).astype(np.float64)
        # Voxels of all studies are pooled, as the loss pools those of a batch.
        entropy -= float(np.log(said[truth]).sum() + np.log1p(-said[~truth]).sum())
        hit += float(said[truth].sum())
        both += float(said.sum() + truth.sum())
        voxels += truth.size
    return (2 * hit + 1) / (both + 1) - 1 - entropy / voxels


PENALTIES = tuple(10.0**e for e in range(-6, 1))  # of the ridge, a token and standardised feature


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

    def values(
        self, weights: Float[np.ndarray, "E P"], scenes: Iterable[Scene]
    ) -> Iterator[Float[np.ndarray, "gz gy gx"]]:
        """What the weights say of each voxel of each scene, one after the other."""
        for scene in scenes:
            yield untile(self.features(scene) @ weights, scene.kept, scene.truth.shape)

    def weights(self, penalty: float) -> Float[np.ndarray, "E P"]:
        # Times the count: a penalty a token has the same meaning for every number of studies.
        ridge = penalty * self.count * np.eye(len(self.xx))
        ridge[-1, -1] = 1e-9 * self.count  # the intercept is free
        return np.linalg.solve(self.xx + ridge, self.xy).astype(np.float32)

    def error(self, weights: Float[np.ndarray, "E P"]) -> float:
        """The squared error of these weights on the scenes of the sums, up to a constant."""
        # |XW - Y|² = W · (XᵀX W - 2 XᵀY) + |Y|², and the last term is the same for all weights.
        return float(np.sum(weights * (self.xx @ weights - 2 * self.xy)))


@dataclass(frozen=True)
class MaskProbe:
    """What val chose for the linear probe of a structure.

    Attributes:
      held_out: the best score on val (`score_thresholds`) of the fit on train alone.
    """

    penalty: float
    threshold: float
    held_out: float


def choose_probe(scenes: Sequence[Scene], split: np.ndarray) -> MaskProbe:
    """Fits on train and chooses penalty and threshold on val (`score_thresholds`).

    The penalty is chosen on the view's grid, the threshold on the voxels of the studies.

    Args:
      split: "train", "val" or "test" of each scene.
    """
    train, val = _of(scenes, split, "train"), _of(scenes, split, "val")
    model = PatchRidge.of(train)
    by_penalty = np.stack(
        [sweep_thresholds(model, model.weights(penalty), val) for penalty in PENALTIES]
    )
    # A larger penalty shrinks the scores, which then need a lower threshold: so the best penalty is
    # that with the best threshold of its own.
    penalty = PENALTIES[int(by_penalty.max(axis=1).argmax())]
    on_val = sweep(model.values(model.weights(penalty), val), val)
    return MaskProbe(penalty, float(THRESHOLDS[int(on_val.argmax())]), float(on_val.max()))


def predict_masks(
    probe: MaskProbe, scenes: Sequence[Scene], split: np.ndarray, locates: bool = False
) -> Segmented:
    """Refits a chosen probe on train and val, and predicts and scores test."""
    model = PatchRidge.of(_of(scenes, split, "train") + _of(scenes, split, "val"))
    test = _of(scenes, split, "test")
    found = cut(
        model.values(model.weights(probe.penalty), test),
        test,
        probe.threshold,
        f"penalty {probe.penalty:g}",
        locates=locates,
    )
    # The score on val is of the fit on train alone; the refit has seen val.
    return replace(found, held_out=probe.held_out)


def probe_masks(scenes: Sequence[Scene], split: np.ndarray, locates: bool = False) -> Segmented:
    """The linear probe of a structure: `choose_probe`, then `predict_masks`."""
    return predict_masks(choose_probe(scenes, split), scenes, split, locates)


def _of(scenes: Sequence[Scene], split: np.ndarray, name: str) -> list[Scene]:
    return [scene for scene, own in zip(scenes, split) if own == name]


def sweep_thresholds(
    model: PatchRidge, weights: np.ndarray, scenes: Sequence[Scene]
) -> Float[np.ndarray, " T"]:
    """`score_thresholds` on the view's grid; what lies in patches that were not kept is missed."""
    # A generator, so that the scores of one study at a time are in memory.
    return score_thresholds(
        (model.features(s) @ weights, tiles(s.truth, s.kept), int(s.truth.sum()), s.spacing_mm**3)
        for s in scenes
    )


class Segmentation(Kind):
    """A structure of a mask, or several. `metrics` are means over the test studies that have it;
    those that say what is found without it are `measure.result_of_masks`'s.
    """

    metrics = {"dice": "mean", "nsd": "mean", "hd95": "mean"}
    lower_is_better = frozenset(
        {"hd95", "false_positive_share", "false_positive_ml", "false_positive_mm2"}
    )
    labels = {
        "dice": "Dice",
        "nsd": f"NSD at {TOLERANCE_MM:g} mm",
        "hd95": "HD95 (mm)",
        "false_positive_share": "found without it (share)",
        "false_positive_ml": "found without it (mL)",
        "false_positive_mm2": "found without it (mm²)",
    }
    judged = ("dice", "nsd", "hd95")
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
