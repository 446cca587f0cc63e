"""Confidence intervals by patient, in closed form or by a bootstrap that draws patients.

AUROC and proportions have a closed form (`closed_form.py`). Everything else is resampled;
`bootstrap_bounds.py` has the ways that cover better than quantiles for some metrics. A
resample is a vector of multinomial counts, so a statistic of many resamples is one vectorised sum
(`weighted.py`). Every encoder of a task is evaluated on the same draws. Below `FEWEST` patients (of
each class, where there are classes) no interval is given.

Axes: R resamples, N studies, P patients.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Num
from scipy import stats

from mmv_jax.metrics.behind import Behind
from mmv_jax.metrics.bootstrap_bounds import (
    accelerated_bounds,
    explained_bounds,
    studentised_bounds,
)
from mmv_jax.metrics.closed_form import auroc_interval, proportion_interval
from mmv_jax.metrics.weighted import METRICS, Weighted

RESAMPLES = 2000
# The largest share of undefined resamples. With more, the defined ones are a biased selection.
UNDEFINED = 0.05
BLOCK_BYTES = 2**25  # of one array of resamples by studies; a metric holds up to six at a time
MEANS = {  # metrics that are a mean over studies, and of what
    "mean": lambda truth, predicted: predicted,
    "mae": lambda truth, predicted: np.abs(truth - predicted),
    "brier": lambda truth, predicted: (truth - predicted) ** 2,
}
ACCELERATED = frozenset({"auprc", "auprc_skill"})
# patients above which none is left out in turn: skewness then moves no bound that is shown
MOST_LEFT_OUT = 500


@dataclass(frozen=True)
class Interval:
    """A point estimate with its confidence interval.

    Attributes:
      low, high: the bounds, which enclose the value; NaN where no interval is given.
      n: number of studies behind the value.
      why: the reason why there is no interval; empty where there is one.
      undefined: the share of resamples in which the metric was not defined; they are left out.
    """

    value: float
    low: float
    high: float
    n: int
    why: str = field(default="", repr=False)
    undefined: float = field(default=0.0, repr=False)


@dataclass(frozen=True)
class Difference:
    """A paired difference (first minus second) with its interval and its two-sided p-value.

    The null hypothesis is "no difference". `why` and `undefined` as in `Interval`.
    """

    value: float
    low: float
    high: float
    p: float
    why: str = field(default="", repr=False)
    undefined: float = field(default=0.0, repr=False)


def bounds_text(found: Interval | Difference, form: str = ".3f") -> str:
    """The interval as `[low, high]`, or why there is none."""
    if np.isnan(found.low):
        return f"no interval: {found.why or 'not defined'}"
    return f"[{found.low:{form}}, {found.high:{form}}]"


def patient_weights(
    patients: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "R N"]:
    """Number of times that a bootstrap over patients draws each study.

    A resample draws as many patients as there are, with replacement, each with all their studies.
    This array holds all resamples; where only a metric is needed, `interval` works in blocks of
    `BLOCK_BYTES`.
    """
    # A tuple, because the cache needs arguments that can be hashed.
    counts, index = _drawn(tuple(np.asarray(patients).tolist()), resamples, seed)
    # Counts of patients [R, P] become weights of studies [R, N].
    return counts[:, index].astype(np.float64)


@lru_cache(maxsize=2)  # all metrics and encoders of a task share the same draws
def _drawn(patients: tuple, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of patients [R, P], and the index of each study's patient [N]."""
    names, index = np.unique(np.array(patients), return_inverse=True)
    counts = np.empty((resamples, len(names)), np.uint16)  # a quarter of what NumPy would hold
    rng, share = np.random.default_rng(seed), np.full(len(names), 1 / len(names))
    for rows in _blocks(resamples, len(names)):
        counts[rows] = rng.multinomial(len(names), share, size=rows.stop - rows.start)
    # All callers share this one cached array.
    counts.flags.writeable = False
    return counts, index


def _blocks(resamples: int, studies: int) -> Iterator[slice]:
    """Slices of resamples; an array of one slice by all studies has at most `BLOCK_BYTES`."""
    step = max(BLOCK_BYTES // (8 * max(studies, 1)), 1)
    for start in range(0, resamples, step):
        yield slice(start, min(start + step, resamples))


def interval(
    metric: str | Weighted,
    truth: Num[np.ndarray, "N *C"],
    predicted: Num[np.ndarray, "N *D"],
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The value of a metric with its confidence interval; a patient's studies are drawn together.

    "auroc" and "proportion" have a closed form. Means are studentised, average precision is
    bias-corrected and accelerated, R² is jackknifed. For all others the interval is an expanded
    percentile bootstrap: its quantiles lie further out, as Student's t is wider than the normal.
    Resamples in which the metric is not defined are left out and counted.

    Args:
      metric: a key of `METRICS`, or a function of the same form.
      truth, predicted: one number a study, or several (C and D) where the metric takes them.
    Returns:
      All NaN where the metric itself is not defined; NaN bounds where there are too few patients.

    Example:
      >>> interval("mae", np.arange(5.0), np.arange(5.0) + 1, np.arange(5))
      Interval(value=1.0, low=1.0, high=1.0, n=5)

    Source: Hesterberg, The American Statistician 69 (2015), section 5.3, for the quantiles.
    """
    value = float(_function(metric)(truth, predicted, np.ones((1, len(truth))))[0])
    behind = Behind.of_metrics((metric,), truth, patients)
    why = behind.too_few
    if np.isnan(value):
        return Interval(value, np.nan, np.nan, len(truth), why="the metric is not defined")
    # A proportion has bounds with any number of patients; an AUROC needs FEWEST of each class.
    if metric == "proportion" or (metric == "auroc" and not why):
        index = np.unique(patients, return_inverse=True)[1]
        if metric == "auroc":
            bounds = auroc_interval(truth, predicted, index, level)
        else:
            bounds = proportion_interval(np.asarray(predicted, np.float64), index, level)
        return Interval(value, *bounds, len(truth))
    if why:
        return Interval(value, np.nan, np.nan, len(truth), why=why)
    if metric in MEANS:
        values = np.asarray(MEANS[str(metric)](truth, predicted), np.float64)
        counts, index = _drawn(tuple(np.asarray(patients).tolist()), resamples, seed)
        low, high = studentised_bounds(values, index, counts, level)
        return Interval(value, min(low, value), max(high, value), len(truth))
    judge, left_out = _pair(metric, truth, predicted), np.zeros(0)
    if metric in (*ACCELERATED, "r2") and behind.all <= MOST_LEFT_OUT:
        left_out = _left_out(judge, patients)
    if metric == "r2" and len(left_out):
        return Interval(value, *explained_bounds(value, left_out, level), len(truth))
    if metric == "calibration_slope":
        # Few of a class bend a logistic curve more than few of all do.
        behind = replace(behind, all=behind.rarer)
    drawn = _judged(judge, patients, resamples, seed)
    found = _interval(
        value, drawn, n=len(truth), behind=behind, level=level, centred=metric == "calibration"
    )
    if metric in ACCELERATED and not found.why:
        low, high = accelerated_bounds(value, drawn[np.isfinite(drawn)], left_out, level)
        found = replace(found, low=min(low, value), high=max(high, value))
    return found


def _left_out(judge: "Judge", patients: np.ndarray) -> Float[np.ndarray, " P"]:
    """The metric without each patient in turn; empty where it is not always defined."""
    index = np.unique(patients, return_inverse=True)[1]
    found = judge((index[None] != np.arange(index.max() + 1)[:, None]).astype(np.float64))
    return found if np.isfinite(found).all() else np.zeros(0)


def paired(
    metric: str | Weighted,
    truth: Num[np.ndarray, "N *C"],
    first: Num[np.ndarray, "N *D"],
    second: Num[np.ndarray, "N *D"],
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """The difference of a metric between two predictions of the same studies, on the same draws."""
    a, b = _pair(metric, truth, first), _pair(metric, truth, second)
    return _difference(
        lambda weights: a(weights) - b(weights),
        patients,
        Behind.of_metrics((metric,), truth, patients),
        resamples=resamples,
        seed=seed,
        level=level,
    )


def contrast(
    first: str | Weighted,
    second: str | Weighted,
    truth: Num[np.ndarray, "N *C"],
    predicted: Num[np.ndarray, "N *D"],
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """The difference of two metrics of the same predictions, on the same draws.

    An example is the AUROC of two groups of studies (`metrics/groups.py`).
    """
    a, b = _pair(first, truth, predicted), _pair(second, truth, predicted)
    return _difference(
        lambda weights: a(weights) - b(weights),
        patients,
        Behind.of_metrics((first, second), truth, patients),
        resamples=resamples,
        seed=seed,
        level=level,
    )


def interval_over_draws(
    metric: str | Weighted,
    truth: Num[np.ndarray, "N *C"],
    predicted: Num[np.ndarray, "K N *D"],
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The mean of a metric over K models, each fitted on another draw of the training patients.

    The interval is that of a single such model. Each resample of the test patients is evaluated
    with one of the K models, in turn. So both the draw of training patients and that of test
    patients widen the interval.
    """
    models = [_pair(metric, truth, p) for p in predicted]
    value = float(np.mean([model(np.ones((1, len(truth))))[0] for model in models]))
    behind = Behind.of_metrics((metric,), truth, patients)
    if behind.too_few or np.isnan(value):
        why = behind.too_few or "the metric is not defined"
        return Interval(value, np.nan, np.nan, len(truth), why=why)
    drawn = [
        # Model k judges resamples k, k + K, …, so that together they use each once.
        _judged(model, patients, resamples, seed, part=slice(k, None, len(models)))
        for k, model in enumerate(models)
    ]
    return _interval(value, np.concatenate(drawn), n=len(truth), behind=behind, level=level)


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for multiple comparisons, in the given order.

    NaN stays NaN and is not counted.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    adjusted, running = p.copy(), 0.0
    for rank, i in enumerate(order):
        # The running maximum keeps the adjusted values in the order of the p-values.
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return adjusted.tolist()


Judge = Callable[[Float[np.ndarray, "R N"]], Float[np.ndarray, " R"]]


def _function(metric: str | Weighted) -> Weighted:
    return METRICS[metric] if isinstance(metric, str) else metric


def _pair(metric: str | Weighted, truth: np.ndarray, predicted: np.ndarray) -> Judge:
    """The metric of these studies as a function of their weights."""
    return lambda weights: _function(metric)(truth, predicted, weights)


def _judged(
    judge: Judge, patients: np.ndarray, resamples: int, seed: int, *, part: slice = slice(None)
) -> Float[np.ndarray, " R"]:
    """The metric in every resample, or in a part of them, computed block by block."""
    counts, index = _drawn(tuple(np.asarray(patients).tolist()), resamples, seed)
    counts = counts[part]
    # Weights are made block by block: all [R, N] of a large task may exceed the memory.
    blocks = _blocks(len(counts), len(index))
    return np.concatenate([judge(counts[rows][:, index].astype(np.float64)) for rows in blocks])


def _interval(
    value: float,
    drawn: np.ndarray,
    *,
    n: int,
    behind: Behind,
    level: float,
    centred: bool = False,
) -> Interval:
    """The value with the quantiles of its draws.

    Args:
      centred: whether the draws are shifted to the value. A calibration error is never negative,
        and the noise of a resample adds to it. So its draws lie above the value.
    """
    defined, undefined, why = _defined(drawn)
    # All lesions missed, or all ranked right: draws of these studies cannot show anything else.
    if not why and np.ptp(defined) == 0:
        why = "every resample has the same value, which says nothing of its error"
    if why:
        return Interval(value, np.nan, np.nan, n, why=why, undefined=undefined)
    if centred:
        defined = np.maximum(defined + value - np.median(defined), 0.0)
    low, high = _expanded(defined, behind, level)
    # The interval must contain the value, also where all draws lie on one side of it.
    return Interval(value, min(low, value), max(high, value), n, undefined=undefined)


def _difference(
    judge: Judge,
    patients: np.ndarray,
    behind: Behind,
    *,
    resamples: int,
    seed: int,
    level: float,
) -> Difference:
    """The difference with its interval and p-value.

    The p-value is that of Student's t with the bootstrap's standard error. A share of draws cannot
    be below 2 / R, which no correction for many comparisons survives.
    """
    nan = float("nan")
    value = float(judge(np.ones((1, len(patients))))[0])
    if behind.too_few or np.isnan(value):
        why = behind.too_few or "the metric is not defined"
        return Difference(value, nan, nan, p=nan, why=why)
    defined, undefined, why = _defined(_judged(judge, patients, resamples, seed))
    if why:
        return Difference(value, nan, nan, p=nan, why=why, undefined=undefined)
    low, high = _expanded(defined, behind, level)
    error = float(defined.std()) * np.sqrt(behind.rarer / (behind.rarer - 1))
    if error > 0:
        p = float(2 * stats.t.sf(abs(value) / error, behind.all - 1))
    else:
        # All draws agree, so t is not defined. R draws cannot show a smaller p.
        p = 1.0 if value == 0 else 2 / (len(defined) + 1)
    return Difference(value, min(low, value), max(high, value), p, undefined=undefined)


def _defined(drawn: np.ndarray) -> tuple[np.ndarray, float, str]:
    """The finite draws, the share of the others, and a reason if that share is too large."""
    defined = drawn[np.isfinite(drawn)]
    undefined = 1 - len(defined) / len(drawn)
    # Undefined draws are not missing at random: often they lack a class.
    why = f"not defined in {100 * undefined:.0f} % of the resamples"
    return defined, undefined, why if undefined > UNDEFINED else ""


def _expanded(drawn: np.ndarray, behind: Behind, level: float) -> tuple[float, float]:
    """Quantiles as far out as those of Student's t with the unbiased variance."""
    reach = behind.quantile((1 + level) / 2)
    # norm.cdf turns the reach into percentiles: with 10 patients 97.5 % becomes 99.1 %.
    low, high = np.quantile(drawn, [stats.norm.cdf(-reach), stats.norm.cdf(reach)])
    return float(low), float(high)
