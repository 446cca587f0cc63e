"""Few-shot curves: what a probe of the headline features reaches with a part of the training patients. Axes: N studies, D width, K draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.evaluate.measure import HEADLINE
from mmv_jax.evaluate.probes import PENALTIES, STRENGTHS, Standardiser, fit_logistic, fit_ridge
from mmv_jax.evaluate.tasks import Task
from mmv_jax.metrics.intervals import Interval, interval_over_draws


@dataclass(frozen=True)
class Point:
    """A point of a curve: `value` is the mean over draws, its interval that of one draw; `patients` were drawn of those of train."""

    task: str
    encoder: str
    metric: str
    share: float
    patients: int
    value: Interval

    @property
    def key(self) -> str:
        return f"{self.metric}@train={100 * self.share:g}%"


def few_shot(encoder: str, x: Float[np.ndarray, "N D"], task: Task, *, shares: Sequence[float], draws: int) -> list[Point]:
    """The headline metric on test with each share of the training patients.

    The draws are the same for every encoder, and nested: the patients of 1 % are among those of 5 %. The first patients of a draw show both
    classes. The strength is chosen on the whole of val, which is not fitted on; features are standardised on all of train, its labels unread.

    Args:
      x: features of the task's studies; the task is no segmentation.
      shares: of the patients of train, 0 to 1.
    """
    train = np.flatnonzero(task.split == "train")
    standard = Standardiser.of(x[train])
    z, truth = standard(x), task.labels[task.split == "test"]
    orders = [_order(task, train, np.random.default_rng([17, draw])) for draw in range(draws)]
    fit = _fit_classes if task.kind == "classification" else _fit_number
    points, metric = [], HEADLINE[task.kind]
    for share in shares:
        count = min(max(round(share * len(orders[0])), 2), len(orders[0]))
        drawn = np.stack([np.isin(task.patients, order[:count]) & (task.split == "train") for order in orders], axis=1)
        predicted = fit(z, task, drawn)
        value = interval_over_draws(metric, truth, predicted, task.patients[task.split == "test"])
        points.append(Point(task.name, encoder, metric, share, count, value))
    return points


def _order(task: Task, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The patients of train in the order in which they are drawn; where there are classes, the first two patients show both."""
    patients = rng.permutation(np.unique(task.patients[train]))
    if task.kind != "classification":
        return patients
    first = []
    for label in (0, 1):
        with_label = np.isin(patients, task.patients[train][task.labels[train] == label])
        first += patients[with_label][:1].tolist()
    return np.array(list(dict.fromkeys([*first, *patients.tolist()])))


def _fit_classes(z: Float[np.ndarray, "N D"], task: Task, drawn: Bool[np.ndarray, "N K"]) -> Float[np.ndarray, "K M"]:
    """Probabilities of the test studies; all draws and strengths are one solve over the studies that any draw has."""
    used, draws = drawn.any(axis=1), drawn.shape[1]
    labels = np.repeat(task.labels[:, None], draws, axis=1)
    grid = np.tile(np.asarray(STRENGTHS), (draws, 1))
    weights, bias = fit_logistic(z[used], labels[used], grid, drawn[used])
    logits = np.einsum("nd,dks->nks", z, weights) + bias[None]
    val, test = task.split == "val", task.split == "test"
    loss = (np.logaddexp(0, logits[val]) - task.labels[val][:, None, None] * logits[val]).mean(axis=0)
    return np.stack([1 / (1 + np.exp(-logits[test, k, s])) for k, s in enumerate(loss.argmin(axis=1))])


def _fit_number(z: Float[np.ndarray, "N D"], task: Task, drawn: Bool[np.ndarray, "N K"]) -> Float[np.ndarray, "K M"]:
    """Predictions of the test studies, a ridge of its own for each draw."""
    val, test = task.split == "val", task.split == "test"
    predicted = []
    for own in drawn.T:
        centre = z[own].mean(axis=0)[None]
        weights, mean = fit_ridge(z[own] - centre, task.labels[own], PENALTIES)
        said = (z - centre) @ weights + mean
        best = int(np.abs(said[val] - task.labels[val][:, None]).mean(axis=0).argmin())
        predicted.append(said[test, best])
    return np.stack(predicted)
