"""One of several classes: one logistic probe a class against the others.

Axes: N studies, C classes, R resamples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.multilabel import Multilabel, macro_auroc
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.weighted import Weighted, weighted_mean

MOST = 50  # classes, above which a column is taken for a number or a name


def accuracy(
    truth: Float[np.ndarray, "N C"],
    predicted: Float[np.ndarray, "N C"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """The share of studies whose most probable class is the true one."""
    return weighted_mean((truth.argmax(axis=1) == predicted.argmax(axis=1)) * 1.0, weights)


class Multiclass(Multilabel):
    """A column with several values, each of which is a class; `label` is its name."""

    metrics: Mapping[str, str | Weighted] = {"macro_auroc": macro_auroc, "accuracy": accuracy}

    def read_many(
        self, values: pd.DataFrame, *, task: str, positive: Any
    ) -> Float[np.ndarray, "N C"]:
        """One column a class, in the order of their names; NaN where the value is empty.

        Raises:
          UserError: more than one column, or fewer than two or too many values in it.
        """
        if values.shape[1] != 1:
            raise UserError(
                f"config.tasks.{task}.label: one of several classes is read from one column, and"
                f" here are {values.shape[1]}. Ask for kind 'multilabel' instead."
            )
        text = values.iloc[:, 0].fillna("").astype(str).to_numpy()
        names = sorted(set(text.tolist()) - {""})
        if not 2 <= len(names) <= MOST:
            raise UserError(
                f"config.tasks.{task}.label: {values.columns[0]!r} has {len(names)} different"
                f" values, and classes are 2 to {MOST}. Give another column."
            )
        there = (text[:, None] == np.array(names)[None]).astype(np.float64)
        return np.where((text == "")[:, None], np.nan, there)

    def check_split(self, task: Task, split: str) -> None:
        here = task.labels[task.split == split]
        for n, column in enumerate(here.T):
            if len(np.unique(column)) < 2:
                has = "every" if column.any() else "no"
                raise UserError(
                    f"config.tasks.{task.name}: {has} study of {task.called(split)} is of class"
                    f" {n + 1} of {here.shape[1]}, in the order of their names. Leave this class"
                    " out by `where`, or divide the patients anew."
                )

    def joined(self, predicted: Float[np.ndarray, "*M C"]) -> Float[np.ndarray, "*M C"]:
        """Probabilities that add up to 1."""
        return predicted / predicted.sum(axis=-1, keepdims=True)
