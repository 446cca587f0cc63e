"""Regression: ridge probes of frozen features.

Axes: N studies, M of test, D width, K draws, S penalties.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.features import LinearHead, Probed, Standardiser, principal_axes
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.tasks.columns import numbers_of
from mmv_jax.evaluate.tasks.task import Task

PENALTIES = tuple(10.0**e for e in np.arange(0, 6.5, 0.5))  # alpha of the ridge probe


def fit_ridge(
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, " N"],
    penalties: tuple[float, ...] = PENALTIES,
) -> tuple[Float[np.ndarray, "D S"], float]:
    """Ridge regression at every penalty from one decomposition.

    The intercept is the mean of `y`, so `x` must be centred. With xᵀx = V diag(v) Vᵀ the weights at
    penalty a are V diag(1 / (v + a)) Vᵀ xᵀ y: only the diagonal changes.
    """
    axes, values = principal_axes(x)
    mean = float(y.mean())
    along = (x @ axes).T @ (y - mean)
    return axes @ (along[:, None] / (values[:, None] + np.asarray(penalties)[None])), mean


def probe_number(
    x: Float[np.ndarray, "N D"],
    label: Float[np.ndarray, " N"],
    split: np.ndarray,
    penalties: tuple[float, ...] = PENALTIES,
) -> Probed:
    """A ridge probe of a number.

    It is fitted on train, with the penalty chosen by the absolute error on val, then refitted on
    train and val. `held_out` is minus that error.
    """
    train, val, test = (split == name for name in ("train", "val", "test"))
    *_, error = _on_train(x, label, split, penalties)
    chosen = penalties[int(np.argmin(error))]

    both = train | val
    standard = Standardiser.of(x[both])
    weights, mean = fit_ridge(standard(x[both]), label[both], (chosen,))
    return Probed(standard(x[test]) @ weights[:, 0] + mean, chosen, -float(error.min()))


def _on_train(
    x: Float[np.ndarray, "N D"],
    label: Float[np.ndarray, " N"],
    split: np.ndarray,
    penalties: tuple[float, ...],
) -> tuple[Standardiser, Float[np.ndarray, "D S"], float, Float[np.ndarray, " S"]]:
    """The ridge fits of train at every penalty (`fit_ridge`), and their absolute errors on val."""
    train, val = split == "train", split == "val"
    standard = Standardiser.of(x[train])
    weights, mean = fit_ridge(standard(x[train]), label[train], penalties)
    # Chosen by the absolute error, the headline metric, although the ridge minimises squares.
    error = np.abs(standard(x[val]) @ weights + mean - label[val][:, None]).mean(axis=0)
    return standard, weights, mean, error


@dataclass(frozen=True)
class Regression(Kind):
    """A label that is a number. End-to-end fits learn it with mean 0 and variance 1 on train.

    Attributes:
      mean, std: of the label on train, for an end-to-end fit.
    """

    mean: float = 0.0
    std: float = 1.0

    # Without an annotation, which would make a dataclass field of it.
    metrics = {"mae": "mae", "r2": "r2"}
    lower_is_better = frozenset({"mae"})
    labels = {"mae": "MAE", "r2": "R²"}
    scale = "numbers"

    def read_labels(
        self, values: pd.Series, *, task: str, label: str, positive: Any
    ) -> Float[np.ndarray, " N"]:
        """The numbers of a column.

        Raises:
          UserError: a value is not a finite number.
        """
        otherwise = ", or ask for a classification"
        return numbers_of(values, label, f"config.tasks.{task}", otherwise=otherwise)

    def check_split(self, task: Task, split: str) -> None:
        there = task.labels[task.split == split]
        # A constant truth in val or test alone can still be predicted wrongly.
        if split == "train" and len(np.unique(there)) < 2:
            raise UserError(
                f"config.tasks.{task.name}: all {len(there)} studies of {task.called(split)} have"
                " the same number, so that nothing can be learnt. Leave the task out."
            )

    def probe(self, x: Float[np.ndarray, "N D"], tasks: Sequence[Task]) -> list[Probed]:
        return [probe_number(x, task.labels, task.split) for task in tasks]

    def fit_draws(
        self, x: Float[np.ndarray, "N D"], task: Task, drawn: Bool[np.ndarray, "N K"]
    ) -> Float[np.ndarray, "K M"]:
        """Predictions of one ridge regression for each draw."""
        train, val, test = (task.split == part for part in ("train", "val", "test"))
        predicted = []
        for draw in drawn.T:
            own, choosing = draw & train, draw & val
            # `fit_ridge` needs centred features, and each draw has a mean of its own.
            centre = x[own].mean(axis=0)[None]
            weights, mean = fit_ridge(x[own] - centre, task.labels[own], PENALTIES)
            found = (x - centre) @ weights + mean
            error = np.abs(found[choosing] - task.labels[choosing][:, None]).mean(axis=0)
            best = int(error.argmin())
            predicted.append(found[test, best])
        return np.stack(predicted)

    def first_head(
        self, x: Float[np.ndarray, "N D"], truth: Float[np.ndarray, " N"], split: np.ndarray
    ) -> LinearHead:
        # `answer` gives a network's output this mean and scale.
        label = (truth - self.mean) / self.std
        standard, weights, mean, error = _on_train(x, label, split, PENALTIES)
        return LinearHead.of(standard, weights[:, int(error.argmin())], mean)

    def fitted_to(self, truth: np.ndarray) -> "Regression":
        # A constant label has a standard deviation of 0, and `loss` divides by it.
        return Regression(float(truth.mean()), float(truth.std()) or 1.0)

    def loss(self, out: Array, truth: Array, counted: Array) -> Float[Array, ""]:
        return jnp.abs(out - (truth - self.mean) / self.std).mean()

    def torch_loss(self, out: Any, truth: Any, counted: Any) -> Any:
        return (out - (truth - self.mean) / self.std).abs().mean()

    def answer(self, out: Array) -> Array:
        return self.mean + self.std * out

    def score(self, answers: np.ndarray, truth: np.ndarray, scenes: Sequence[Any]) -> float:
        """Minus the mean absolute error."""
        return -float(np.abs(answers - truth).mean())
