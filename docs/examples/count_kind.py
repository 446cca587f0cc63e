"""Counts are never negative: the log of one more is fitted, and errors are of the count."""

from dataclasses import replace

import numpy as np

from mmv_jax.evaluate.kinds.features import Probed
from mmv_jax.evaluate.kinds.regression import Regression
from mmv_jax.evaluate.kinds.table import KINDS


def within_one(truth, predicted, weights):
    hit = (np.abs(predicted - truth) <= 1).astype(float)
    return (weights * hit).sum(axis=-1) / weights.sum(axis=-1)


class Count(Regression):
    metrics = {"within_one": within_one, "mae": "mae"}
    labels = {"within_one": "within one"}
    shares_axis = True

    def read_labels(self, values, *, task, label, positive):
        return np.round(super().read_labels(values, task=task, label=label, positive=positive))

    def probe(self, x, tasks):
        logs = [replace(task, labels=np.log1p(task.labels)) for task in tasks]
        found = super().probe(x, logs)
        return [Probed(np.expm1(p.predicted).clip(0), p.strength) for p in found]


KINDS.register("count", Count())
