"""One of several classes: one logistic probe a class against the others.

Axes: N studies, C classes, R resamples.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.multilabel import Multilabel, macro_auroc
from mmv_jax.evaluate.tasks.columns import plain
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.weighted import Weighted, weighted_mean

MOST = 50  # classes, above which a column is taken for a number or a name
LEAST = 3  # studies of a class: with fewer it cannot be in train, val and test


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
    scale = "classes"

    def read_many(
        self, values: pd.DataFrame, *, task: str, positive: Any
    ) -> Float[np.ndarray, "N C"]:
        """One column a class, in the order of their names; NaN where the value is empty or of a
        class of one or two studies, which cannot be in three splits.

        Raises:
          UserError: more than one column, or fewer than two or too many values in it.
        """
        if values.shape[1] != 1:
            raise UserError(
                f"config.tasks.{task}.label: one of several classes is read from one column, and"
                f" here are {values.shape[1]}. Ask for kind 'multilabel' instead."
            )
        text, names = _text_of(values), self.names_of(values)
        if not 2 <= len(names) <= MOST:
            raise UserError(
                f"config.tasks.{task}.label: {values.columns[0]!r} has {len(names)} different"
                f" values that {LEAST} studies or more have, and classes are 2 to {MOST}. Give"
                " another column."
            )
        # A class that is left out has no column, so its studies have a line of zeros.
        there = (text[:, None] == np.array(names)[None]).astype(np.float64)
        return np.where(there.any(axis=1)[:, None], there, np.nan)

    def names_of(self, values: pd.DataFrame) -> tuple[str, ...]:
        counts = Counter(_text_of(values).tolist())
        return tuple(sorted(name for name, n in counts.items() if name and n >= LEAST))

    def check_split(self, task: Task, split: str) -> None:
        here = task.labels[task.split == split]
        for n, column in enumerate(here.T):
            if len(np.unique(column)) < 2:
                has = "every" if column.any() else "no"
                count = int(task.labels[:, n].sum())
                raise UserError(
                    f"config.tasks.{task.name}: {has} study of {task.called(split)} is of the class"
                    f" {task.classes[n]!r} ({count} studies in all). Leave this class out by"
                    " `where`, or divide the patients anew."
                )

    def joined(self, predicted: Float[np.ndarray, "*M C"]) -> Float[np.ndarray, "*M C"]:
        """Probabilities that add up to 1."""
        return predicted / predicted.sum(axis=-1, keepdims=True)


def _text_of(values: pd.DataFrame) -> np.ndarray:
    """The values of the only column as the manifest had them; "" where a cell is empty."""
    return values.iloc[:, 0].map(plain, na_action="ignore").fillna("").astype(str).to_numpy()
