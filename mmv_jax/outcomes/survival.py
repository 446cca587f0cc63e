"""Curves of a cohort, and whether they differ. Axes: N women, T times of a curve, W times asked
for.

Kaplan–Meier and log-rank are lifelines'; cumulative incidence is our own, because lifelines breaks
tied times by random jitter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mmv_jax.errors import UserError
from mmv_jax.outcomes.cox import Z95


@dataclass(frozen=True)
class Curve:
    """A step function of time with its pointwise 95 % interval; the value at `time[i]` holds until
    `time[i + 1]`.
    """

    name: str
    time: Float[np.ndarray, "T"]
    value: Float[np.ndarray, "T"]
    low: Float[np.ndarray, "T"]
    high: Float[np.ndarray, "T"]

    def at(self, when: Float[np.ndarray, "W"]) -> Float[np.ndarray, "W"]:
        return self.value[np.searchsorted(self.time, when, side="right") - 1]

    def complement(self) -> "Curve":
        """One minus the curve."""
        return replace(self, value=1 - self.value, low=1 - self.high, high=1 - self.low)

    def thinned(self, points: int) -> "Curve":
        """The curve at no more than `points` even times: enough for a figure, and a page that
        opens.
        """
        if len(self.time) <= points:
            return self
        when = np.linspace(self.time[0], self.time[-1], points)
        i = np.searchsorted(self.time, when, side="right") - 1
        return replace(self, time=when, value=self.value[i], low=self.low[i], high=self.high[i])


def kaplan_meier(
    time: Float[np.ndarray, "N"], outcome: Bool[np.ndarray, "N"], *, name: str = ""
) -> Curve:
    """Survival without the outcome, from time 0; Greenwood's variance on the log(-log) scale."""
    fitter = lifelines().KaplanMeierFitter().fit(time, outcome)
    interval = fitter.confidence_interval_survival_function_.to_numpy(float)
    survival = fitter.survival_function_.iloc[:, 0]
    # no interval before the first outcome
    low, high = np.where(np.isnan(interval), survival.to_numpy()[:, None], interval).T
    return Curve(
        name=name,
        time=survival.index.to_numpy(float),
        value=survival.to_numpy(float),
        low=low,
        high=high,
    )


def cumulative_incidence(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], *, cause: int = 1, name: str = ""
) -> Curve:
    """Probability of `cause` by each time, where the other causes compete: the Aalen–Johansen
    estimator.

    Args:
      event: 0 is censored, other values are causes.
    Source: the variance is the delta method's, as in R's `cmprsk::cuminc` (Aalen 1978); the
      interval is on the log(-log) scale.
    """
    times, at_risk, of_cause, of_any = counts(time, event, cause)
    alive = np.cumprod(1 - of_any / at_risk)
    before = np.concatenate([[1.0], alive[:-1]])
    # rounding may carry the sum beyond
    value = np.minimum(np.cumsum(before * of_cause / at_risk), 1.0)
    # three sums that may cancel to less than 0
    variance = np.maximum(
        _incidence_variance(at_risk, of_cause, of_any, before=before, value=value), 0.0
    )
    # at 0 and at 1 there is no interval
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        half = Z95 * np.sqrt(variance) / np.abs((1 - value) * np.log1p(-value))
        low, high = 1 - (1 - value) ** np.exp(-half), 1 - (1 - value) ** np.exp(half)
    low, high = (np.where((value > 0) & (value < 1 - 1e-12), bound, value) for bound in (low, high))
    start = [np.concatenate([[0.0], x]) for x in (times, value, low, high)]
    return Curve(name, *start)


def counts(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], cause: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct times, and at each: women at risk, events of `cause`, events of any cause."""
    times, place = np.unique(time, return_inverse=True)
    leaving = np.bincount(place, minlength=len(times))
    at_risk = leaving[::-1].cumsum()[::-1]
    of_cause = np.bincount(place[event == cause], minlength=len(times))
    return times, at_risk, of_cause, np.bincount(place[event != 0], minlength=len(times))


def at_risk(
    time: Float[np.ndarray, "N"], when: Sequence[float | int] | np.ndarray
) -> Int[np.ndarray, "W"]:
    """How many women are still followed just before each time of `when`: the line of numbers under
    a curve.
    """
    return len(time) - np.searchsorted(np.sort(time), np.asarray(when, float), side="left")


def log_rank(
    time: Float[np.ndarray, "N"], outcome: Bool[np.ndarray, "N"], group: Shaped[np.ndarray, "N"]
) -> tuple[float, int, float]:
    """Are the curves of the groups the same? The chi-square, its degrees of freedom, and p."""
    lifelines()
    from lifelines.statistics import multivariate_logrank_test

    result = multivariate_logrank_test(time, group, outcome)
    return float(result.test_statistic), len(np.unique(group)) - 1, float(result.p_value)


def lifelines() -> Any:
    """The library, imported when it is first needed: that takes seconds."""
    try:
        import lifelines
        import lifelines.exceptions
    except ImportError as error:
        raise UserError(
            "Outcomes need lifelines, surpyval and pyprevent: pip install 'mmv_jax[survival]'."
        ) from error
    return lifelines


def _incidence_variance(at_risk, of_cause, of_any, *, before, value):
    """Var F(t) as sums over earlier times s of a(s) + F(t) b(s) + F(t)² c(s), so that one pass of
    cumulative sums gives every t.
    """
    n, d1, d = (x.astype(float) for x in (at_risk, of_cause, of_any))
    others = d - d1
    # Aalen's tie correction: m simultaneous events of n carry (n - m) / (n - 1) of the binomial
    # variance.
    tied = (n - np.stack([d1, others])) / np.maximum(n - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        after = before * (1 - d / n)
        from_cause, from_others = tied * np.stack([d1, others]) / n**2
        # An event at s lowers what comes later, F(t) - F(s), by 1 / S(s) of S(s-); an event of the
        # cause also adds S(s-) itself.
        ratio = np.where(after > 0, before / after, 0.0)
    p0, p1, p2 = _powers(from_cause, before + ratio * value, -ratio)
    q0, q1, q2 = _powers(from_others, ratio * value, -ratio)
    return (p0 + q0) + (p1 + q1) * value + (p2 + q2) * value**2


def _powers(weight, constant, slope):
    return (
        np.cumsum(weight * constant**2),
        np.cumsum(2 * weight * constant * slope),
        np.cumsum(weight * slope**2),
    )
