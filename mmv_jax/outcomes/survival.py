"""Survival curves of a cohort, their summaries and tests.

Axes: N women, T times of a curve, W requested times. The curves are our own; the tests compare them
with lifelines and R. Lifelines breaks tied times of competing causes by random jitter, and counts a
woman who enters at the time of an outcome as at risk of it. A woman with late entry (`entry`) is at
risk after it, up to and including her own time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import stats

from mmv_jax.outcomes.cox import Z95

Entry = Float[np.ndarray, "N"] | None


@dataclass(frozen=True)
class Curve:
    """Step function of time with its pointwise 95 % interval.

    The value at `time[i]` (years) holds until `time[i + 1]`.
    """

    name: str
    time: Float[np.ndarray, "T"]
    value: Float[np.ndarray, "T"]
    low: Float[np.ndarray, "T"]
    high: Float[np.ndarray, "T"]

    def at(self, when: Float[np.ndarray, "W"]) -> Float[np.ndarray, "W"]:
        """Values of the curve at the times `when`."""
        # side="right": at the time of a step the new value already holds.
        return self.value[np.searchsorted(self.time, when, side="right") - 1]

    def complement(self) -> "Curve":
        """One minus the curve."""
        return replace(self, value=1 - self.value, low=1 - self.high, high=1 - self.low)

    def thinned(self, points: int) -> "Curve":
        """The curve at no more than `points` evenly spaced times, to keep a page small."""
        if len(self.time) <= points:
            return self
        when = np.linspace(self.time[0], self.time[-1], points)
        i = np.searchsorted(self.time, when, side="right") - 1
        return replace(self, time=when, value=self.value[i], low=self.low[i], high=self.high[i])


def kaplan_meier(
    time: Float[np.ndarray, "N"],
    outcome: Bool[np.ndarray, "N"],
    *,
    entry: Entry = None,
    name: str = "",
) -> Curve:
    """Survival without the outcome, from time 0.

    The interval uses Greenwood's variance on the log(-log) scale.
    """
    times, at_risk, happened, _ = counts(time, outcome.astype(int), entry=entry)
    value = np.cumprod(1 - happened / at_risk)
    # at 0 and at 1 there is no interval
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance = np.cumsum(happened / (at_risk * (at_risk - happened)))
        # On the log(-log S) scale both bounds stay between 0 and 1, unlike S ± 1.96 errors.
        half = Z95 * np.sqrt(variance) / np.abs(np.log(value))
        low, high = value ** np.exp(half), value ** np.exp(-half)
    inside = (value > 0) & (value < 1)
    low, high = (np.where(inside, bound, value) for bound in (low, high))
    # At time 0 the curve and both of its bounds are 1.
    start = [np.concatenate([[at], x]) for at, x in zip((0, 1, 1, 1), (times, value, low, high))]
    return Curve(name, *start)


def cumulative_incidence(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    *,
    cause: int = 1,
    entry: Entry = None,
    name: str = "",
) -> Curve:
    """Probability of `cause` by each time, with competing other causes (Aalen–Johansen).

    Args:
      event: 0 is censored, other values are causes.
    Source: the variance is the delta method's, as in R's `cmprsk::cuminc` (Aalen 1978); the
    interval is on the log(-log) scale.
    """
    times, at_risk, of_cause, of_any = counts(time, event, cause, entry=entry)
    alive = np.cumprod(1 - of_any / at_risk)
    # S(t-): to have the cause at t, a woman must be free of every cause just before t.
    before = np.concatenate([[1.0], alive[:-1]])
    # Rounding may lift the sum above 1.
    value = np.minimum(np.cumsum(before * of_cause / at_risk), 1.0)
    # Three sums that may cancel to less than 0.
    variance = np.maximum(
        _incidence_variance(at_risk, of_cause, of_any, before=before, value=value), 0.0
    )
    # at 0 and at 1 there is no interval
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # Delta method: the derivative of log(-log(1 - F)) is -1 / ((1 - F) log(1 - F)).
        half = Z95 * np.sqrt(variance) / np.abs((1 - value) * np.log1p(-value))
        low, high = 1 - (1 - value) ** np.exp(-half), 1 - (1 - value) ** np.exp(half)
    # Rounding may keep a curve that has reached 1 just below it.
    low, high = (np.where((value > 0) & (value < 1 - 1e-12), bound, value) for bound in (low, high))
    start = [np.concatenate([[0.0], x]) for x in (times, value, low, high)]
    return Curve(name, *start)


def counts(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    cause: int = 1,
    *,
    entry: Entry = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct times, and at each: women at risk, events of `cause`, events of any cause."""
    times, place = np.unique(time, return_inverse=True)
    of_cause = np.bincount(place[event == cause], minlength=len(times))
    of_any = np.bincount(place[event != 0], minlength=len(times))
    return times, at_risk(time, times, entry=entry), of_cause, of_any


def at_risk(
    time: Float[np.ndarray, "N"],
    when: Sequence[float | int] | np.ndarray,
    *,
    entry: Entry = None,
) -> Int[np.ndarray, "W"]:
    """Number of women still followed just before each time of `when`."""
    when = np.asarray(when, float)
    # side="left" keeps a woman at her own time, but not at her entry.
    followed = len(time) - np.searchsorted(np.sort(time), when, side="left")
    if entry is None:
        return followed
    late = np.sort(entry[entry > 0])  # the others are at risk at 0 too
    return followed - (len(late) - np.searchsorted(late, when, side="left"))


@dataclass(frozen=True)
class RestrictedMean:
    """Restricted mean time: years without the outcome within `years`, and its standard error.

    It is the area under the Kaplan–Meier curve.
    """

    years: float
    value: float
    error: float

    @property
    def ci95(self) -> tuple[float, float]:
        """95 % interval in years."""
        return self.value - Z95 * self.error, self.value + Z95 * self.error

    def __sub__(self, other: "RestrictedMean") -> "RestrictedMean":
        """Difference of two means of different women."""
        error = float(np.hypot(self.error, other.error))
        return RestrictedMean(self.years, self.value - other.value, error)


def restricted_mean(
    time: Float[np.ndarray, "N"],
    outcome: Bool[np.ndarray, "N"],
    years: float,
    *,
    entry: Entry = None,
) -> RestrictedMean:
    """Mean time to the outcome, cut off at `years`.

    Unlike a hazard ratio, its meaning does not depend on proportional hazards.

    Source: the variance is Greenwood's, as R's `print(survfit(...), rmean = years)` gives it.
    """
    times, at_risk, happened, _ = counts(time, outcome.astype(int), entry=entry)
    survival = np.concatenate([[1.0], np.cumprod(1 - happened / at_risk)])
    # The infinite edge extends the curve flat beyond the last time, up to `years`.
    edges = np.minimum(np.concatenate([[0.0], times, [np.inf]]), years)
    pieces = survival * np.diff(edges)
    later = np.cumsum(pieces[::-1])[::-1][1:]  # the area beyond each time
    left = at_risk - happened
    # If all at risk have the outcome, no area lies beyond: the term is 0, not 0 · ∞.
    term = np.where(left > 0, happened / (at_risk * np.maximum(left, 1)), 0.0)
    return RestrictedMean(years, float(pieces.sum()), float(np.sqrt(np.sum(later**2 * term))))


def median_follow_up(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], *, entry: Entry = None
) -> tuple[float, float, float]:
    """Median follow-up in years and its 95 % interval; infinite if the curve does not get there.

    It is the reverse Kaplan–Meier estimate: the curve of the censoring, which outcomes and deaths
    end early. The mean of observed times would describe a cohort with early deaths as badly
    followed.

    Source: Schemper and Smith, Control Clin Trials 1996; the interval as R's `quantile(survfit)`.
    """
    curve = kaplan_meier(time, event == 0, entry=entry)
    found = []
    # There is no interval before the first censoring, where the curve is still 1. The curve's lower
    # bound reaches 1/2 first, so it gives the median's lower bound.
    for values in (curve.value, np.where(curve.value < 1, curve.low, 1.0), curve.high):
        # A product that should be 1/2 may round to just above it.
        below = np.flatnonzero(values <= 0.5 + 1e-12)
        found.append(float(curve.time[below[0]]) if len(below) else float("inf"))
    return found[0], found[1], found[2]


class CurveTest(NamedTuple):
    """Test of the hypothesis that all groups have the same curve."""

    chi2: float
    df: int
    p: float


def log_rank(
    time: Float[np.ndarray, "N"],
    outcome: Bool[np.ndarray, "N"],
    group: Shaped[np.ndarray, "N"],
    *,
    entry: Entry = None,
) -> CurveTest:
    """Log-rank test (Mantel and Haenszel) of the hazards, as R's `survival::survdiff`."""
    risk, happened = by_group(np.unique(time[outcome]), time, outcome, group, entry=entry)
    n, d = risk.sum(axis=1), happened.sum(axis=1)
    share = risk / n[:, None]
    score = np.sum(happened - d[:, None] * share, axis=0)
    # Hypergeometric variance: d outcomes drawn from n women without replacement.
    weight = d * (n - d) / np.maximum(n - 1, 1)
    variance = np.diag(weight @ share) - (share * weight[:, None]).T @ share
    return chi2_of(score, variance)


def by_group(when, time, happened, group, *, entry=None) -> tuple[np.ndarray, np.ndarray]:
    """Women at risk, and events, at each time of each group."""
    risk, events = [], []
    for name in np.unique(group):
        own = group == name
        late = None if entry is None else entry[own]
        risk.append(at_risk(time[own], when, entry=late))
        # Exact places, not insertion points: `when` contains the time of every event counted here.
        at = np.searchsorted(when, time[own & happened])
        events.append(np.bincount(at, minlength=len(when)))
    return np.stack(risk, axis=1).astype(float), np.stack(events, axis=1).astype(float)


def chi2_of(score: np.ndarray, variance: np.ndarray) -> CurveTest:
    """Chi-square test of the scores; the last group's follows from the others."""
    df = len(score) - 1
    # pinv, because a group without women at risk has variance 0.
    chi2 = float(score[:-1] @ np.linalg.pinv(variance[:-1, :-1], hermitian=True) @ score[:-1])
    return CurveTest(chi2, df, float(stats.chi2.sf(chi2, df)) if df else 1.0)


def _incidence_variance(at_risk, of_cause, of_any, *, before, value):
    """Variance of F(t) by one pass of cumulative sums.

    Var F(t) is a sum over earlier times s of a(s) + F(t) b(s) + F(t)² c(s).
    """
    n, d1, d = (x.astype(float) for x in (at_risk, of_cause, of_any))
    others = d - d1
    # Aalen's tie correction: m simultaneous events of n have (n - m) / (n - 1) of the binomial
    # variance.
    tied = (n - np.stack([d1, others])) / np.maximum(n - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        after = before * (1 - d / n)
        from_cause, from_others = tied * np.stack([d1, others]) / n**2
        # An event at s lowers F(t) - F(s) by 1 / S(s) of S(s-); an event of the cause also adds
        # S(s-) itself.
        ratio = np.where(after > 0, before / after, 0.0)
    # Each event moves F(t) by constant + slope · F(t). Only an event of the cause adds S(s-).
    p0, p1, p2 = _powers(from_cause, before + ratio * value, -ratio)
    q0, q1, q2 = _powers(from_others, ratio * value, -ratio)
    return (p0 + q0) + (p1 + q1) * value + (p2 + q2) * value**2


def _powers(weight, constant, slope):
    return (
        # Σ w (constant + slope · F)², multiplied out by powers of F.
        np.cumsum(weight * constant**2),
        np.cumsum(2 * weight * constant * slope),
        np.cumsum(weight * slope**2),
    )
