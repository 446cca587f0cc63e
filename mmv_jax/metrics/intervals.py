"""Intervals by patient: a bootstrap that draws patients, as weights of their studies. Axes: R
resamples, N studies.

A resample is a vector of multinomial counts, so that a statistic of all resamples is one vectorised
sum instead of R calls: 2,000 resamples of the AUROC of 500 studies take a tenth of a second, and
every encoder of a task is judged on the same draws.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Num

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval; `n` is the number of studies behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A paired difference (first minus second) with its interval and the two-sided bootstrap
    p-value of "no difference".
    """

    value: float
    low: float
    high: float
    p: float


def patient_weights(
    patients: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "R N"]:
    """How often each study is drawn when as many patients as there are, each with all of their
    studies, are drawn with replacement.
    """
    return _drawn(tuple(np.asarray(patients).tolist()), resamples, seed)


@lru_cache(maxsize=4)  # every metric and encoder of a task asks for the same draws
def _drawn(patients: tuple, resamples: int, seed: int) -> np.ndarray:
    names, index = np.unique(np.array(patients), return_inverse=True)
    counts = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=resamples
    )
    weights = counts[:, index].astype(np.float64)
    weights.flags.writeable = False
    return weights


def weighted_auroc(
    truth: Num[np.ndarray, " N"], score: Num[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """The AUROC under each line of weights, ties counted half; NaN where a class has no weight."""
    starts, order = _groups(score)
    positive = np.add.reduceat((weights * truth[None])[:, order], starts, axis=1)
    negative = np.add.reduceat((weights * (1 - truth)[None])[:, order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def weighted_auprc(
    truth: Num[np.ndarray, " N"], score: Num[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """Average precision under each line of weights; NaN where no positive has weight."""
    starts, order = _groups(-np.asarray(score, np.float64))
    positive = np.add.reduceat((weights * truth[None])[:, order], starts, axis=1)
    both = np.add.reduceat(weights[:, order], starts, axis=1)
    precision = np.cumsum(positive, axis=1) / np.maximum(np.cumsum(both, axis=1), 1e-12)
    return _ratio((positive * precision).sum(axis=1), positive.sum(axis=1))


def weighted_auprc_skill(
    truth: Num[np.ndarray, " N"], score: Num[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """Average precision rescaled so that the resample's own prevalence is 0."""
    prevalence = weighted_mean(truth, weights)
    return _ratio(weighted_auprc(truth, score, weights) - prevalence, 1 - prevalence)


def weighted_mean(
    values: Num[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """The mean under each line of weights."""
    return _ratio(weights @ np.asarray(values, np.float64), weights.sum(axis=1))


def weighted_mae(
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """The mean absolute error under each line of weights."""
    return weighted_mean(np.abs(truth - predicted), weights)


def weighted_brier(
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """The mean squared distance under each line of weights."""
    return weighted_mean((truth - predicted) ** 2, weights)


def weighted_r2(
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """The share of variance that is explained, under each line of weights."""
    truth = np.asarray(truth, np.float64)
    variance = weighted_mean(truth**2, weights) - weighted_mean(truth, weights) ** 2
    return 1 - _ratio(weighted_mean((truth - predicted) ** 2, weights), variance)


def weighted_calibration(
    truth: Num[np.ndarray, " N"],
    probability: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
    bins: int = 10,
) -> Float[np.ndarray, " R"]:
    """`scores.calibration_error` under each line of weights, in the bins that the probabilities of
    all studies make.
    """
    inside = np.zeros((len(truth), bins))
    for b, part in enumerate(np.array_split(np.argsort(probability, kind="stable"), bins)):
        inside[part, b] = 1.0
    gap = np.asarray(probability, np.float64) - truth
    return _ratio(np.abs((weights * gap[None]) @ inside).sum(axis=1), weights.sum(axis=1))


def weighted_calibration_slope(
    truth: Num[np.ndarray, " N"],
    probability: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """The slope of a logistic regression of the truth on the log odds: 1 is calibrated, less is too
    sure of itself; NaN where it has no finite value.

    Newton's steps of all lines together; a class that the log odds separate has no finite slope.

    Source: Cox, Biometrika 45 (1958); Van Calster et al., BMC Medicine 17 (2019), "weak
      calibration".
    """
    p = np.clip(np.asarray(probability, np.float64), 1e-6, 1 - 1e-6)
    x = np.log(p / (1 - p))
    a, b = np.zeros((2, len(weights)))
    step = np.full(len(weights), np.inf)
    for _ in range(25):
        said = 1 / (1 + np.exp(-np.clip(a[:, None] + b[:, None] * x[None], -30, 30)))
        residual, spread = weights * (truth[None] - said), weights * said * (1 - said)
        g0, g1 = residual.sum(axis=1), residual @ x
        h00, h01, h11 = spread.sum(axis=1), spread @ x, spread @ (x * x)
        determinant = np.maximum(h00 * h11 - h01 * h01, 1e-12)
        step = (h00 * g1 - h01 * g0) / determinant
        a, b = a + np.clip((h11 * g0 - h01 * g1) / determinant, -5, 5), b + np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-8:
            break
    return np.where((np.abs(step) < 1e-4) & (np.abs(b) < 50), b, np.nan)


def weighted_first(
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """The mean of `predicted`, for scores that exist a study (Dice, distances): `truth` is not
    read.
    """
    return weighted_mean(predicted, weights)


Weighted = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
METRICS: dict[str, Weighted] = {
    "auroc": weighted_auroc,
    "auprc": weighted_auprc,
    "auprc_skill": weighted_auprc_skill,
    "mae": weighted_mae,
    "r2": weighted_r2,
    "brier": weighted_brier,
    "calibration": weighted_calibration,
    "calibration_slope": weighted_calibration_slope,
    "mean": weighted_first,
}


def interval(
    metric: str | Weighted,
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The value of a metric (a key of `METRICS`, or a function like those) with its percentile
    bootstrap interval, patients drawn with replacement.

    Resamples in which the metric is not defined (no positive was drawn) are left out; where the
    metric itself is not defined, all are NaN.

    Example:
      >>> interval("mae", np.array([1.0, 2.0]), np.array([2.0, 3.0]), np.array(["a", "b"]))
      Interval(value=1.0, low=1.0, high=1.0, n=2)
    """
    weighted = _function(metric)
    value = weighted(truth, predicted, np.ones((1, len(truth))))[0]
    low, high = _percentiles(
        weighted(truth, predicted, patient_weights(patients, resamples, seed)), level
    )
    return Interval(float(value), low, high, len(truth))


def paired(
    metric: str,
    truth: Num[np.ndarray, " N"],
    first: Num[np.ndarray, " N"],
    second: Num[np.ndarray, " N"],
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """How far two predictions for the same studies differ in a metric: both are judged on the same
    draws of patients.
    """
    weighted = _function(metric)
    ones, draws = np.ones((1, len(truth))), patient_weights(patients, resamples, seed)
    value = weighted(truth, first, ones)[0] - weighted(truth, second, ones)[0]
    return _told(
        float(value), weighted(truth, first, draws) - weighted(truth, second, draws), level
    )


def contrast(
    first: str | Weighted,
    second: str | Weighted,
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """How far two metrics of the same predictions differ, such as the AUROC of two groups of
    studies (`metrics/groups.py`), on the same draws.
    """
    a, b = _function(first), _function(second)
    ones, draws = np.ones((1, len(truth))), patient_weights(patients, resamples, seed)
    value = a(truth, predicted, ones)[0] - b(truth, predicted, ones)[0]
    return _told(float(value), a(truth, predicted, draws) - b(truth, predicted, draws), level)


def interval_over_draws(
    metric: str,
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, "K N"],
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The mean of a metric over K models that were fitted on other draws of the training patients.

    The interval is that of one such model: each resample of the test patients is judged with one of
    the K, in turn, so that both the draw of the training patients and that of the test patients
    widen it.
    """
    weighted, draws = _function(metric), patient_weights(patients, resamples, seed)
    values = [weighted(truth, p, np.ones((1, len(truth))))[0] for p in predicted]
    resampled = [weighted(truth, p, draws[k :: len(predicted)]) for k, p in enumerate(predicted)]
    return Interval(
        float(np.mean(values)), *_percentiles(np.concatenate(resampled), level), len(truth)
    )


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for the number of comparisons, in the order given; NaN stays NaN and is
    not counted.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    adjusted, running = p.copy(), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return adjusted.tolist()


def _function(metric: str | Weighted) -> Weighted:
    return METRICS[metric] if isinstance(metric, str) else metric


def _told(value: float, resampled: np.ndarray, level: float) -> Difference:
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return Difference(value, float("nan"), float("nan"), float("nan"))
    # One is added to both counts so that no finite number of resamples can claim a p-value of 0.
    tail = min((defined <= 0).sum(), (defined >= 0).sum())
    return Difference(
        value,
        *_percentiles(resampled, level),
        p=float(min(1.0, 2 * (tail + 1) / (len(defined) + 1))),
    )


def _groups(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal scores starts in ascending order, and that order."""
    order = np.argsort(score, kind="stable")
    ranked = np.asarray(score)[order]
    return np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]), order


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full_like(a, np.nan, dtype=np.float64), where=b > 0)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
