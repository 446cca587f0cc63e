"""Survival curves and Cox models of a cohort. Axes: N women, T times of a curve, P covariates, G groups.

Curves, log-rank tests and Cox models are lifelines'; cumulative incidence is our own, because lifelines breaks tied times by random jitter, and so
is the test of proportional hazards, for which lifelines takes 36 s on 116,135 women.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import stats

from mmv_jax.errors import UserError

Z95 = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class Effect:
    """A hazard ratio: one line of a forest plot. `women` and `outcomes` are those of the model."""

    name: str
    hazard_ratio: float
    ci95: tuple[float, float]
    p: float
    women: int
    outcomes: int


@dataclass(frozen=True)
class Curve:
    """A step function of time with its pointwise 95 % interval; the value at `time[i]` holds until `time[i + 1]`."""

    name: str
    time: Float[np.ndarray, "T"]
    value: Float[np.ndarray, "T"]
    low: Float[np.ndarray, "T"]
    high: Float[np.ndarray, "T"]

    def at(self, when: Float[np.ndarray, "W"]) -> Float[np.ndarray, "W"]:
        return self.value[np.searchsorted(self.time, when, side="right") - 1]

    def thinned(self, points: int) -> "Curve":
        """The curve at no more than `points` even times: enough for a figure, and a page that opens."""
        if len(self.time) <= points:
            return self
        when = np.linspace(self.time[0], self.time[-1], points)
        i = np.searchsorted(self.time, when, side="right") - 1
        return Curve(self.name, when, self.value[i], self.low[i], self.high[i])


def kaplan_meier(time: Float[np.ndarray, "N"], outcome: Bool[np.ndarray, "N"], *, name: str = "") -> Curve:
    """Survival without the outcome, from time 0; Greenwood's variance on the log(-log) scale."""
    fitter = lifelines().KaplanMeierFitter().fit(time, outcome)
    interval = fitter.confidence_interval_survival_function_.to_numpy(float)
    survival = fitter.survival_function_.iloc[:, 0]
    low, high = np.where(np.isnan(interval), survival.to_numpy()[:, None], interval).T  # no interval before the first outcome
    return Curve(name, survival.index.to_numpy(float), survival.to_numpy(float), low, high)


def cumulative_incidence(time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], *, cause: int = 1, name: str = "") -> Curve:
    """Probability of `cause` by each time, where the other causes compete: the Aalen–Johansen estimator.

    Args:
      event: 0 is censored, other values are causes.
    Source: the variance is the delta method's, as in R's `cmprsk::cuminc` (Aalen 1978); the interval is on the log(-log) scale.
    """
    times, at_risk, of_cause, of_any = counts(time, event, cause)
    alive = np.cumprod(1 - of_any / at_risk)
    before = np.concatenate([[1.0], alive[:-1]])
    value = np.cumsum(before * of_cause / at_risk)
    variance = _incidence_variance(at_risk, of_cause, of_any, before, value)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = Z95 * np.sqrt(variance) / np.abs((1 - value) * np.log1p(-value))
        low, high = 1 - (1 - value) ** np.exp(-half), 1 - (1 - value) ** np.exp(half)
    low, high = (np.where((value > 0) & (value < 1), bound, value) for bound in (low, high))
    start = [np.concatenate([[0.0], x]) for x in (times, value, low, high)]
    return Curve(name, *start)


def counts(time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], cause: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct times, and at each: women at risk, events of `cause`, events of any cause."""
    times, place = np.unique(time, return_inverse=True)
    leaving = np.bincount(place, minlength=len(times))
    at_risk = leaving[::-1].cumsum()[::-1]
    of_cause = np.bincount(place[event == cause], minlength=len(times))
    return times, at_risk, of_cause, np.bincount(place[event != 0], minlength=len(times))


def at_risk(time: Float[np.ndarray, "N"], when: Sequence[float] | np.ndarray) -> Int[np.ndarray, "W"]:
    """How many women are still followed just before each time of `when`: the line of numbers under a curve."""
    return len(time) - np.searchsorted(np.sort(time), np.asarray(when, float), side="left")


def log_rank(time: Float[np.ndarray, "N"], outcome: Bool[np.ndarray, "N"], group: Shaped[np.ndarray, "N"]) -> tuple[float, int, float]:
    """Are the curves of the groups the same? The chi-square, its degrees of freedom, and p."""
    lifelines()
    from lifelines.statistics import multivariate_logrank_test

    result = multivariate_logrank_test(time, group, outcome)
    return float(result.test_statistic), len(np.unique(group)) - 1, float(result.p_value)


def cox(time: Float[np.ndarray, "N"], outcome: Bool[np.ndarray, "N"], x: Mapping[str, Float[np.ndarray, "N"]]) -> dict[str, Effect]:
    """Hazard ratios of the columns of `x`, each for one unit more, with Efron's handling of ties.

    Raises:
      UserError: the likelihood has no maximum that can be found, with the reason that lifelines gives in numbers of columns, not of cells.
    """
    import pandas as pd

    exceptions = lifelines().exceptions
    table = pd.DataFrame({**x, _TIME: time, _OUTCOME: outcome})
    with warnings.catch_warnings():
        warnings.simplefilter("error", exceptions.ConvergenceWarning)
        try:
            fit = lifelines().CoxPHFitter().fit(table, _TIME, _OUTCOME)
        except (exceptions.ConvergenceError, exceptions.ConvergenceWarning) as error:
            raise UserError(f"The Cox model of {', '.join(x)} does not converge: a covariate separates the outcomes. Adjust for fewer.") from error
    errors = fit.standard_errors_
    return {name: effect(name, fit.params_[name], errors[name], len(table), int(np.sum(outcome))) for name in x}


def effect(name: str, coefficient: float, error: float, women: int, outcomes: int) -> Effect:
    """A hazard ratio from its logarithm and the standard error of that (Wald)."""
    low, high = np.exp([coefficient - Z95 * error, coefficient + Z95 * error])
    p = float(2 * stats.norm.sf(abs(coefficient / error)))
    return Effect(name, float(np.exp(coefficient)), (float(low), float(high)), p, women, outcomes)


@dataclass(frozen=True)
class Proportionality:
    """Does the hazard ratio of a covariate change with time? A small p says yes. `global` is the test of all at once."""

    name: str
    chi2: float
    df: int
    p: float


def proportional_hazards(
    time: Float[np.ndarray, "N"], outcome: Bool[np.ndarray, "N"], x: Mapping[str, Float[np.ndarray, "N"]], log_ratios: Mapping[str, float]
) -> list[Proportionality]:
    """Tests that each log hazard ratio is constant, against a trend in 1 - S(t), the Kaplan–Meier curve.

    The score test for an added covariate x·(1 - S(t)), at the fitted coefficients: exact where Grambsch and Therneau's own form took the
    variance to be the same at every outcome.

    Source: Grambsch and Therneau, Biometrika 1994; the form of R's `survival::cox.zph` since version 3.0.
    """
    columns = np.stack(list(x.values()), axis=1)
    columns = columns - columns.mean(axis=0)
    schoenfeld, variance, scale = _schoenfeld(time, outcome, columns, np.array([log_ratios[name] for name in x]))
    centred = scale - scale.mean()
    score = centred @ schoenfeld
    information = variance.sum(axis=0)
    crossed, squared = np.einsum("e,epq->pq", centred, variance), np.einsum("e,epq->pq", centred**2, variance)
    of_score = squared - crossed @ np.linalg.solve(information, crossed)
    found = []
    for i, name in enumerate(x):
        # One covariate's trend alone: the others keep their constant coefficients.
        alone = squared[i, i] - crossed[i] @ np.linalg.solve(information, crossed[i])
        found.append(_chi2(name, score[i] ** 2 / alone, 1))
    return [*found, _chi2("global", score @ np.linalg.solve(of_score, score), len(x))]


def lifelines() -> Any:
    """The library, imported when it is first needed: that takes seconds."""
    try:
        import lifelines
        import lifelines.exceptions
    except ImportError as error:
        raise UserError("Outcomes need lifelines, surpyval and pyprevent: pip install 'mmv_jax[survival]'.") from error
    return lifelines


_TIME, _OUTCOME = "__time__", "__outcome__"


def _chi2(name: str, chi2: float, df: int) -> Proportionality:
    return Proportionality(name, float(chi2), df, float(stats.chi2.sf(chi2, df)))


def _incidence_variance(at_risk, of_cause, of_any, before, value):
    """Var F(t) as sums over earlier times s of a(s) + F(t) b(s) + F(t)² c(s), so that one pass of cumulative sums gives every t."""
    n, d1, d = (x.astype(float) for x in (at_risk, of_cause, of_any))
    others = d - d1
    # Aalen's tie correction: m simultaneous events of n carry (n - m) / (n - 1) of the binomial variance.
    tied = lambda m: np.where(n > 1, (n - m) / np.maximum(n - 1, 1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        after = before * (1 - d / n)
        from_cause, from_others = tied(d1) * d1 / n**2, tied(others) * others / n**2
        # An event at s lowers what comes later, F(t) - F(s), by 1 / S(s) of S(s-); an event of the cause also adds S(s-) itself.
        ratio = np.where(after > 0, before / after, 0.0)
    p0, p1, p2 = _powers(from_cause, before + ratio * value, -ratio)
    q0, q1, q2 = _powers(from_others, ratio * value, -ratio)
    return (p0 + q0) + (p1 + q1) * value + (p2 + q2) * value**2


def _powers(weight, constant, slope):
    return np.cumsum(weight * constant**2), np.cumsum(2 * weight * constant * slope), np.cumsum(weight * slope**2)


def _schoenfeld(time, outcome, x, log_ratios):
    """Schoenfeld residuals [E, P], the variance of x at each outcome [E, P, P], and 1 - S(t-) there, with Efron's ties."""
    order = np.argsort(-time, kind="stable")
    time, outcome, x = time[order], outcome[order], x[order]
    risk = np.exp(x @ log_ratios)
    last = np.searchsorted(-time, -time, side="right") - 1  # of the women at risk at each woman's time
    sums = lambda values: np.cumsum(values, axis=0)[last[outcome]]
    pairs = np.einsum("np,nq->npq", x, x) * risk[:, None, None]
    s0, s1, s2 = sums(risk), sums(risk[:, None] * x), sums(pairs)
    events = np.flatnonzero(outcome)
    _, first, place, size = np.unique(-time[events], return_inverse=True, return_index=True, return_counts=True)
    share = (np.arange(len(events)) - first[place]) / size[place]  # Efron: the k-th of d tied outcomes faces k/d fewer of the tied
    tied = lambda values: np.add.reduceat(values[events], first, axis=0)[place]
    s0 = s0 - share * tied(risk)
    s1 = s1 - share[:, None] * tied(risk[:, None] * x)
    s2 = s2 - share[:, None, None] * tied(pairs)
    mean = s1 / s0[:, None]
    variance = s2 / s0[:, None, None] - np.einsum("ep,eq->epq", mean, mean)
    average = np.add.reduceat(mean, first, axis=0)[place] / size[place][:, None]  # tied outcomes share one mean
    times, n, d, _ = counts(time, outcome.astype(int))
    survival = np.concatenate([[1.0], np.cumprod(1 - d / n)])
    return x[events] - average, variance, 1 - survival[np.searchsorted(times, time[events])]
