"""Classification: logistic probes of frozen features, with all tasks and strengths in one solve.

Axes: N studies, M of test, D width, K tasks or draws, S strengths.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.features import LinearHead, Probed, Standardiser
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.logistic import fit_logistic
from mmv_jax.evaluate.tasks.columns import equals, refuse_spellings, unknown_of_two, values_there
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.features import knn_probabilities
from mmv_jax.metrics.intervals import Interval, interval
from mmv_jax.metrics.refinement import refined_log_loss
from mmv_jax.metrics.weighted import Weighted

# C of the logistic probe as scikit-learn defines it: the weight of the summed losses.
STRENGTHS = tuple(10.0**e for e in np.arange(-5, 1.5, 0.5))


def probe_classes(
    x: Float[np.ndarray, "N D"],
    labels: Float[np.ndarray, "N K"],
    split: np.ndarray,
    strengths: tuple[float, ...] = STRENGTHS,
) -> list[Probed]:
    """Logistic probes of K binary labels (NaN where unknown).

    They are fitted on train, with the strength chosen by the log loss on val, then refitted on
    train and val.

    Args:
      split: "train", "val" or "test" of each study.
    Returns:
      One result a label; `predicted` is the probability of each test study (in the order of `x`),
      whether its label is known or not, and `held_out` is minus the log loss on val.
    """
    train, val, test = (split == name for name in ("train", "val", "test"))
    *_, logits, total = _on_train(x, labels, split, strengths)
    known = ~np.isnan(labels[val])
    # argmin takes the first of equal losses: the smallest C, which is the strongest penalty.
    chosen = np.asarray(strengths)[np.argmin(total, axis=1)]
    held_out = -total.min(axis=1) / np.maximum(known.sum(axis=0), 1)
    best = np.take_along_axis(logits, np.argmin(total, axis=1)[None, :, None], axis=2)[:, :, 0]
    on_val = (1 / (1 + np.exp(-best))).T

    # All choices are made, so val may be fitted on too; test took no part in any of them.
    both = train | val
    standard = Standardiser.of(x[both])
    weights, bias = fit_logistic(
        standard(x[both]), labels[both], chosen[:, None], ~np.isnan(labels[both])
    )
    logits = standard(x[test]) @ weights[:, :, 0] + bias[None, :, 0]
    probabilities = (1 / (1 + np.exp(-logits))).T
    return [
        Probed(p, float(c), float(h), v)
        for p, c, h, v in zip(probabilities, chosen, held_out, on_val)
    ]


def _on_train(
    x: Float[np.ndarray, "N D"],
    labels: Float[np.ndarray, "N K"],
    split: np.ndarray,
    strengths: tuple[float, ...],
) -> tuple[Standardiser, np.ndarray, np.ndarray, Float[np.ndarray, "V K S"], np.ndarray]:
    """The logistic fits of train at every strength (`fit_logistic`), their logits on val, and the
    sums of their log losses there [K, S].
    """
    train, val = split == "train", split == "val"
    grid = np.tile(np.asarray(strengths), (labels.shape[1], 1))
    standard = Standardiser.of(x[train])
    weights, bias = fit_logistic(standard(x[train]), labels[train], grid, ~np.isnan(labels[train]))
    logits = np.einsum("nd,dks->nks", standard(x[val]), weights) + bias[None]
    # Unknown labels enter as 0; the mask removes their loss from the sum.
    loss = np.logaddexp(0, logits) - np.nan_to_num(labels[val])[:, :, None] * logits
    total = (loss * ~np.isnan(labels[val])[:, :, None]).sum(axis=0)
    return standard, weights, bias, logits, total


class Classification(Kind):
    """A label that is 0 or 1. A study is positive if its column has the value `positive`."""

    metrics: Mapping[str, str | Weighted] = {
        name: name
        for name in ("auroc", "auprc", "auprc_skill", "brier", "calibration", "calibration_slope")
    }
    lower_is_better = frozenset({"brier", "calibration"})
    labels = {
        "auroc": "AUROC",
        "knn_auroc": "kNN AUROC",
        "auprc": "AUPRC",
        "auprc_skill": "AUPRC skill",
        "brier": "Brier",
        "calibration": "calibration error",
        "calibration_slope": "calibration slope",
    }
    has_classes = True
    chance = 0.5
    shares_axis = True

    def read_labels(
        self, values: pd.Series, *, task: str, label: str, positive: Any
    ) -> Float[np.ndarray, " N"]:
        # An empty cell is an unknown label, not a negative one.
        missing, asked_by = unknown_of_two(values), f"config.tasks.{task}"
        if positive is None:
            # Of other values nobody has said that they are negative.
            if not (missing | equals(values, (0, 1), asked_by)).all():
                raise UserError(
                    f"{asked_by}: {label!r} has the values {values_there(values)}. Say which of"
                    " them are positive (`positive`): all others count as negative. Or ask for"
                    " kind 'multiclass'."
                )
            positive = 1
        found = equals(values, positive, f"{asked_by}.positive")
        if not found.any() and not missing.all():
            raise UserError(
                f"{asked_by}.positive is {positive!r}, which no study has. {label!r} has the values"
                f" {values_there(values)}."
            )
        refuse_spellings(values[~missing & ~found], positive, asked_by)
        return np.where(missing, np.nan, found.astype(np.float64))

    def check_split(self, task: Task, split: str) -> None:
        there = task.labels[task.split == split]
        if len(np.unique(there)) < 2:
            which = "positive" if there.any() else "negative"
            raise UserError(
                f"config.tasks.{task.name}: all {len(there)} studies of {task.called(split)} have"
                f" the same label, {which}. Leave the task out, or divide the patients anew."
            )

    def probe(self, x: Float[np.ndarray, "N D"], tasks: Sequence[Task]) -> list[Probed]:
        labels = np.stack([task.labels for task in tasks], axis=1)
        return probe_classes(x, labels, tasks[0].split)

    def more_metrics(self, task: Task, x: Float[np.ndarray, "N D"]) -> dict[str, Interval]:
        """The AUROC of the 20 nearest neighbours among train and val."""
        test = task.split == "test"
        # [1] is the share of votes [M, C]; classes are sorted, so column 1 is the class 1.
        nearest = knn_probabilities(x[~test], task.labels[~test], x[test])[1][:, 1]
        return {"knn_auroc": interval("auroc", task.labels[test], nearest, task.patients[test])}

    def shown_first(self, labels: Float[np.ndarray, " n"]) -> list[Bool[np.ndarray, " n"]]:
        return [labels == label for label in (0, 1)]

    def fit_draws(
        self, x: Float[np.ndarray, "N D"], task: Task, drawn: Bool[np.ndarray, "N K"]
    ) -> Float[np.ndarray, "K M"]:
        """Probabilities; all draws and strengths are one solve over the studies of any draw."""
        return self.fit_known(x, task, task.labels, drawn)

    def fit_known(
        self,
        x: Float[np.ndarray, "N D"],
        task: Task,
        label: Float[np.ndarray, " N"],
        drawn: Bool[np.ndarray, "N K"],
    ) -> Float[np.ndarray, "K M"]:
        """As `fit_draws`, for a label that may be unknown (NaN) in studies that are not drawn."""
        fitted, draws = drawn & (task.split == "train")[:, None], drawn.shape[1]
        used = fitted.any(axis=1)
        labels = np.repeat(label[:, None], draws, axis=1)
        grid = np.tile(np.asarray(STRENGTHS), (draws, 1))
        weights, bias = fit_logistic(x[used], labels[used], grid, fitted[used])
        logits = np.einsum("nd,dks->nks", x, weights) + bias[None]
        val, test = (task.split == "val") & ~np.isnan(label), task.split == "test"
        truth = label[val][:, None, None]
        loss = np.logaddexp(0, logits[val]) - truth * logits[val]
        # Each draw takes the strength with the lowest log loss on its own studies of val.
        loss = (loss * drawn[val][:, :, None]).sum(axis=0)
        return np.stack(
            [1 / (1 + np.exp(-logits[test, k, s])) for k, s in enumerate(loss.argmin(axis=1))]
        )

    def first_head(
        self, x: Float[np.ndarray, "N D"], truth: Float[np.ndarray, " N"], split: np.ndarray
    ) -> LinearHead:
        standard, weights, bias, _, total = _on_train(x, truth[:, None], split, STRENGTHS)
        # The first of equal losses has the strongest penalty.
        best = int(total[0].argmin())
        return LinearHead.of(standard, weights[:, 0, best], float(bias[0, best]))

    def loss(self, out: Array, truth: Array, counted: Array) -> Float[Array, ""]:
        return (jnp.logaddexp(0.0, out) - truth * out).mean()

    def torch_loss(self, out: Any, truth: Any, counted: Any) -> Any:
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(out, truth)

    def answer(self, out: Array) -> Array:
        return jax.nn.sigmoid(out)

    def score(self, answers: np.ndarray, truth: np.ndarray, scenes: Sequence[Any]) -> float:
        """Minus the log loss of calibrated predictions, so that over-confidence ends no fit."""
        # A diverged fit predicts NaN.
        return -refined_log_loss(answers, truth) if np.isfinite(answers).all() else float("nan")
