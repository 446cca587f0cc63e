"""Confidence intervals by patient, in closed form or by a bootstrap that draws patients.

AUROC and proportions have a closed form (`closed_form.py`). Everything else is resampled;
`bootstrap_bounds.py` has the ways that cover better than quantiles for some metrics. A
resample is a vector of multinomial counts, so a statistic of many resamples is one vectorised sum
(`weighted.py`). Every encoder of a task is evaluated on the same draws. Below `FEWEST` patients (of
each class, where there are classes) no interval is given.

Axes: R resamples, N studies, P patients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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
from mmv_jax.metrics.resamples import RESAMPLES, blocks_of, draw_patients
from mmv_jax.metrics.weighted import METRICS, Weighted

# The largest share of undefined resamples. With more, the defined ones are a biased selection.
UNDEFINED = 0.05
MEANS = {  # metrics that are a mean over studies, and of what
    "mean": lambda truth, predicted: predicted,
    "mae": lambda truth, predicted: np.abs(truth - predicted),
    "brier": lambda truth, predicted: (truth - predicted) ** 2,
}
ALIKE = "every resample has the same value, which says nothing of its error"
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
      fits: number of models, fitted with different seeds, of which `value` is the mean.
      sd: their standard deviation (of a sample, K - 1); NaN of a single one.
    """

    value: float
    low: float
    high: float
    n: int
    why: str = field(default="", repr=False)
    undefined: float = field(default=0.0, repr=False)
    fits: int = field(default=1, repr=False)
    sd: float = field(default=float("nan"), repr=False)


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


def value_text(found: Interval) -> str:
    """The value; of several fits the mean with their standard deviation, `0.812 ± 0.010`."""
    return f"{found.value:.3f}" + (f" ± {found.sd:.3f}" if found.fits > 1 else "")


def bounds_text(found: Interval | Difference, form: str = ".3f") -> str:
    """The interval as `[low, high]`, or why there is none."""
    if np.isnan(found.low):
        return f"no interval: {found.why or 'not defined'}"
    return f"[{found.low:{form}}, {found.high:{form}}]"


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
      >>> found = interval("mae", np.zeros(6), np.array([1.0, 1, 2, 2, 3, 3]), np.arange(6))
      >>> found.value, found.low < 1.5, found.n
      (2.0, True, 6)

    Source: Hesterberg, The American Statistician 69 (2015), section 5.3, for the quantiles.
    """
    value = float(_function(metric)(truth, predicted, np.ones((1, len(truth))))[0])
    behind = Behind.of_metrics((metric,), truth, patients)
    why = behind.too_few
    if np.isnan(value):
        return Interval(value, np.nan, np.nan, len(truth), why="the metric is not defined")
    # A proportion has bounds with any number of patients; an AUROC needs FEWEST of each class.
    if metric == "auroc" and not why and np.ptp(predicted) == 0:
        why = "all predictions are equal, so the value is that of a guess"
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
        if np.ptp(values) == 0:
            return Interval(value, np.nan, np.nan, len(truth), why=ALIKE)
        counts, index = draw_patients(tuple(np.asarray(patients).tolist()), resamples, seed)
        more, _ = draw_patients(tuple(range(counts.shape[1] + 1)), resamples, seed)
        low, high = studentised_bounds(values, index, counts, more, level=level)
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
    return paired_over_fits(
        metric,
        truth,
        first=first[None],
        second=second[None],
        patients=patients,
        resamples=resamples,
        seed=seed,
        level=level,
    )


def paired_over_fits(
    metric: str | Weighted,
    truth: Num[np.ndarray, "N *C"],
    first: Num[np.ndarray, "K N *D"],
    second: Num[np.ndarray, "J N *D"],
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """As `paired`, between models that were fitted K and J times with different seeds.

    The value is the mean difference. Each resample of the patients is evaluated with one pair of
    fits, in turn. So both the seeds and the patients widen the interval, which is that of a single
    pair.
    """

    def judge(k: int) -> Judge:
        a, b = (_pair(metric, truth, fits[k % len(fits)]) for fits in (first, second))
        return lambda weights: a(weights) - b(weights)

    return _difference(
        # The longer list is gone through once, the shorter one again from its front.
        [judge(k) for k in range(max(len(first), len(second)))],
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
        [lambda weights: a(weights) - b(weights)],
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
    drawn = _in_turn(models, patients, resamples, seed)
    return _interval(value, drawn, n=len(truth), behind=behind, level=level)


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
    counts, index = draw_patients(tuple(np.asarray(patients).tolist()), resamples, seed)
    counts = counts[part]
    # Weights are made block by block: all [R, N] of a large task may exceed the memory.
    blocks = blocks_of(len(counts), len(index))
    return np.concatenate([judge(counts[rows][:, index].astype(np.float64)) for rows in blocks])


def _in_turn(
    judges: Sequence[Judge], patients: np.ndarray, resamples: int, seed: int
) -> Float[np.ndarray, " R"]:
    """Every resample, judged by one of K models: model k has the resamples k, k + K, …"""
    # Each resample is used once, so that K fits cost no more than one.
    drawn = [
        _judged(judge, patients, resamples, seed, part=slice(k, None, len(judges)))
        for k, judge in enumerate(judges)
    ]
    return np.concatenate(drawn)


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
        why = ALIKE
    if why:
        return Interval(value, np.nan, np.nan, n, why=why, undefined=undefined)
    if centred:
        defined = np.maximum(defined + value - np.median(defined), 0.0)
    low, high = _expanded(defined, behind, level)
    # The interval must contain the value, also where all draws lie on one side of it.
    return Interval(value, min(low, value), max(high, value), n, undefined=undefined)


def _difference(
    judges: Sequence[Judge],
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
    value = float(np.mean([judge(np.ones((1, len(patients))))[0] for judge in judges]))
    if behind.too_few or np.isnan(value):
        why = behind.too_few or "the metric is not defined"
        return Difference(value, nan, nan, p=nan, why=why)
    defined, undefined, why = _defined(_in_turn(judges, patients, resamples, seed))
    if why:
        return Difference(value, nan, nan, p=nan, why=why, undefined=undefined)
    if np.ptp(defined) <= 1e-12 * np.abs(defined).max():
        if value == 0:  # as of equal predictions
            return Difference(0.0, 0.0, 0.0, p=1.0, undefined=undefined)
        # Neither an error nor t is defined. No test of n signs has a p below 2 / 2^n.
        p = max(2 / (len(defined) + 1), 2.0 ** (1 - behind.rarer))
        return Difference(value, nan, nan, p=p, why=ALIKE, undefined=undefined)
    low, high = _expanded(defined, behind, level)
    error = float(defined.std()) * np.sqrt(behind.rarer / (behind.rarer - 1))
    p = float(2 * stats.t.sf(abs(value) / error, behind.all - 1))
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
