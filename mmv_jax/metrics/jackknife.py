"""Intervals of statistics of all patients together, such as CKA: each is left out in turn.

Of several fits with different seeds, the seeds widen the interval too.

Axes: K fits, P patients.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from mmv_jax.metrics.behind import FEWEST
from mmv_jax.metrics.intervals import Difference, Interval

# A statistic of the patients at these positions.
Statistic = Callable[[Int[np.ndarray, " Q"]], float]


def leave_out(statistic: Statistic, patients: int) -> Float[np.ndarray, " P"]:
    """The statistic without each of the patients in turn."""
    # Positions, not rows: a statistic may read two arrays, and columns of a similarity too.
    everyone = np.arange(patients)
    return np.array([statistic(np.delete(everyone, n)) for n in everyone])


def jackknifed(
    values: Sequence[float] | np.ndarray,
    left_out: Float[np.ndarray, "K P"],
    *,
    within: tuple[float, float] = (-np.inf, np.inf),
    level: float = 0.95,
) -> Interval:
    """The mean of a statistic over K fits with its interval.

    Its variance is the jackknife's over patients, of the mean over fits, and that between fits
    divided by K. The quantile is Student's, with the degrees of freedom of both parts
    (Satterthwaite). With few fits that differ the interval is wide, as it should be.

    Args:
      values: of each fit.
      left_out: of each fit without each patient.
      within: the range of the statistic, to which the bounds are cut.
    Returns:
      NaN bounds with fewer than `FEWEST` patients, or where the statistic is not always defined.

    Example:
      >>> found = jackknifed([2.0], np.array([[2.5, 2.25, 2.0, 1.75, 1.5]]))  # the mean of 0 to 4
      >>> round(found.low, 2), found.value, round(found.high, 2)
      (0.04, 2.0, 3.96)

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 11;
      Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    own = np.asarray(values, np.float64)
    fits, patients = left_out.shape
    value = float(own.mean())
    sd = float(own.std(ddof=1)) if fits > 1 else float("nan")
    # What every answer says, also one without bounds.
    told = {"n": patients, "fits": fits, "sd": sd}
    if not np.isfinite(own).all() or not np.isfinite(left_out).all():
        return Interval(value, np.nan, np.nan, why="the statistic is not always defined", **told)
    if patients < FEWEST:
        why = f"{patients} patients; an interval needs {FEWEST}"
        return Interval(value, np.nan, np.nan, why=why, **told)
    # Of the mean over fits: all of them see the same patients, so their errors do not average out.
    mean = left_out.mean(axis=0)
    of_patients = (patients - 1) / patients * float(((mean - mean.mean()) ** 2).sum())
    # What fits differ by although they see the same patients is the seed's.
    of_fits = sd**2 / fits if fits > 1 else 0.0
    variance = of_patients + of_fits
    # Nothing varies, as for constant features: 0 / 0 below.
    if variance == 0:
        return Interval(value, value, value, **told)
    noise = of_patients**2 / (patients - 1) + of_fits**2 / max(fits - 1, 1)
    reach = float(stats.t.ppf((1 + level) / 2, variance**2 / noise)) * np.sqrt(variance)
    # A bound that was cut still encloses the value.
    low, high = max(value - reach, min(within[0], value)), min(value + reach, max(within[1], value))
    return Interval(value, float(low), float(high), **told)


def jackknifed_difference(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> Difference:
    """The paired difference of two statistics of the same patients, with its p-value.

    Args:
      first, second: `values` [K] and `left_out` [K, P], as `jackknifed` takes them. Fit k of both
        has the same seed; a single fit is paired with each of the other's.
    """
    # [K] minus [1], and [K, P] minus [1, P], pair a single fit with each of the others.
    values, left_out = (np.asarray(a) - np.asarray(b) for a, b in zip(first, second, strict=True))
    found = jackknifed(values, left_out)
    if np.isnan(found.low):
        return Difference(found.value, np.nan, np.nan, p=np.nan, why=found.why)
    return Difference(found.value, found.low, found.high, _p_value(found, values, left_out))


def _p_value(found: Interval, values: np.ndarray, left_out: np.ndarray) -> float:
    """Two-sided: the largest level whose interval does not reach 0."""
    # No variance: either there is no difference, or no level is too small for it.
    if found.low == found.high:
        return 1.0 if found.value == 0 else 0.0
    lowest, highest = 0.0, 1.0
    # The interval grows with its level, so that bisection finds where it reaches 0.
    for _ in range(40):
        level = (lowest + highest) / 2
        one = jackknifed(values, left_out, level=level)
        if one.low > 0 or one.high < 0:
            lowest = level
        else:
            highest = level
    return 1 - lowest
