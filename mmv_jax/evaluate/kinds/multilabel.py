"""Several findings, or several classes, in one task: macro AUROC.

Axes: N studies, M of test, D width, C findings or classes, K draws, R resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.classification import Classification, probe_classes
from mmv_jax.evaluate.kinds.features import Probed
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.behind import rests_on
from mmv_jax.metrics.weighted import Weighted, weighted_auprc, weighted_auroc


def _macro(metric: Weighted) -> Weighted:
    """The mean of a metric over the columns of truth and prediction; studies without a label in a
    column (NaN) do not count there.
    """

    def macro(
        truth: Float[np.ndarray, "N C"],
        predicted: Float[np.ndarray, "N C"],
        weights: Float[np.ndarray, "R N"],
    ) -> Float[np.ndarray, " R"]:
        known = ~np.isnan(truth)
        columns = [
            metric(t[k], p[k], weights[:, k]) for t, p, k in zip(truth.T, predicted.T, known.T)
        ]
        # A resample that lacks one class has no macro value: the mean of the others is another
        # quantity.
        return np.mean(columns, axis=0)

    return rests_on(_classes)(macro)


def _classes(truth: Float[np.ndarray, "N C"]) -> list[Bool[np.ndarray, " N"]]:
    return [column == value for column in truth.T for value in (0, 1)]


macro_auroc = _macro(weighted_auroc)
macro_auprc = _macro(weighted_auprc)


class Multilabel(Kind):
    """Findings that may be there together: `label` is a list of columns, each of them 0 or 1 or
    empty. One logistic probe a finding, each with its own strength.
    """

    metrics: Mapping[str, str | Weighted] = {"macro_auroc": macro_auroc, "macro_auprc": macro_auprc}
    labels = {"macro_auroc": "macro AUROC", "macro_auprc": "macro AUPRC", "accuracy": "accuracy"}
    chance = 0.5
    shares_axis = True
    many_columns = True
    end_to_end = False

    def read_many(
        self, values: pd.DataFrame, *, task: str, positive: Any
    ) -> Float[np.ndarray, "N C"]:
        read = Classification().read_labels
        columns = [
            read(values[label], task=task, label=label, positive=positive)
            for label in map(str, values)
        ]
        return np.stack(columns, axis=1)

    def check_split(self, task: Task, split: str) -> None:
        here = task.labels[task.split == split]
        for n, column in enumerate(here.T):
            if len(np.unique(column[~np.isnan(column)])) < 2:
                raise UserError(
                    f"config.tasks.{task.name}: in {task.called(split)} the finding"
                    f" {task.classes[n]!r} is the same in all studies. Leave it out of `label`."
                )

    def probe(self, x: Float[np.ndarray, "N D"], tasks: Sequence[Task]) -> list[Probed]:
        return [self._probe(x, task) for task in tasks]

    def _probe(self, x: Float[np.ndarray, "N D"], task: Task) -> Probed:
        found = probe_classes(x, task.labels, task.split)
        return Probed(
            self.joined(np.stack([own.predicted for own in found], axis=1)),
            float(np.exp(np.mean(np.log([own.strength for own in found])))),
            float(np.mean([own.held_out for own in found])),
        )

    def shown_first(self, labels: Float[np.ndarray, "n C"]) -> list[Bool[np.ndarray, " n"]]:
        return [column == value for column in labels.T for value in (0, 1)]

    def fit_draws(
        self, x: Float[np.ndarray, "N D"], task: Task, drawn: Bool[np.ndarray, "N K"]
    ) -> Float[np.ndarray, "K M C"]:
        one = Classification()
        columns = []
        for column in task.labels.T:
            # The fit of a draw reads what is known of this finding alone.
            known = ~np.isnan(column)
            own = one.fit_known(x, task, column, drawn & known[:, None])
            columns.append(own)
        return self.joined(np.stack(columns, axis=2))

    def joined(self, predicted: Float[np.ndarray, "*M C"]) -> Float[np.ndarray, "*M C"]:
        """The probabilities of all findings, from those of each."""
        return predicted
