"""Bounds of a bootstrap, one way for each kind of metric. Axes: R resamples, N studies, P patients.

Which way covers was found by simulation (`simulate.py`): means are studentised, average precision
is bias-corrected and accelerated, R² is jackknifed on a scale where it is nearly symmetric.
"""

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy import stats

EXTRA = 0.5  # of a patient, who is added on either side of a mean


def studentised_bounds(
    values: Float[np.ndarray, " N"],
    index: Int[np.ndarray, " N"],
    counts: Integer[np.ndarray, "R P"],
    more: Integer[np.ndarray, "R Q"],
    level: float,
) -> tuple[float, float]:
    """Of a mean over studies, patients as clusters: each resample's distance in its own standard
    errors (bootstrap-t), which follows a skewed sample where quantiles do not.

    A few test patients seldom include the rare one who is far worse than the others, and then no
    resample does. So each bound is also computed with the farthest patient on its side counted half
    once more (`EXTRA`), and the wider one is taken.

    Args:
      index: the patient of each study, 0 to P − 1.
      counts: how often each resample draws each patient.
      more: the same of one patient more, Q = P + 1.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 12. The patient
      more is this package's, by simulation (docs/results.md).
    """
    low, high = _studentised(values, index, counts, level)
    own = np.bincount(index, values) / np.bincount(index)
    low = min(low, _studentised(values, index, more, level, extra=float(own.min()))[0])
    high = max(high, _studentised(values, index, more, level, extra=float(own.max()))[1])
    # A mean lies among its values; a resample without any spread may be infinitely far.
    bounds = np.clip([low, high], values.min(), values.max())
    return float(bounds[0]), float(bounds[1])


def _studentised(
    values: np.ndarray,
    index: np.ndarray,
    counts: np.ndarray,
    level: float,
    extra: float | None = None,
) -> tuple[float, float]:
    """The bounds of one sample; `extra` is the mean of the last patient, who is not in `index`."""
    size = np.bincount(index).astype(np.float64)
    # In studies: half as many as a patient has.
    added = 0.0 if extra is None else EXTRA * float(size.mean())
    studies = len(values) + added
    mean = (float(values.sum()) + added * (extra or 0.0)) / studies
    # Totals of patients about the mean: squares of far numbers would lose their digits.
    total = np.bincount(index, values - mean)
    if extra is not None:
        size, total = np.append(size, added), np.append(total, added * (extra - mean))
    error = float(np.sqrt(total @ total)) / studies
    if error == 0:
        return mean, mean
    parts = np.stack([size, total, total**2, total * size, size**2], axis=1)
    drawn, off, squares, products, sizes = (counts @ parts).T
    shift = off / drawn
    # Σ w (total - shift · size)², the linearised variance of each resample's own mean.
    variance = np.maximum(squares - 2 * shift * products + shift**2 * sizes, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = shift * drawn / np.sqrt(variance)
    # A resample of one value alone says nothing of its error where it has no distance either.
    low, high = np.quantile(np.nan_to_num(distance, nan=0.0), [(1 - level) / 2, (1 + level) / 2])
    return mean - float(high) * error, mean - float(low) * error


def accelerated_bounds(
    value: float,
    drawn: Float[np.ndarray, " R"],
    left_out: Float[np.ndarray, " P"],
    level: float,
) -> tuple[float, float]:
    """Quantiles of the draws, moved for bias and skewness (BCa).

    Args:
      left_out: the metric without each patient; empty where they are so many that the skewness does
        not matter.

    Source: Efron, JASA 82 (1987).
    """
    below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    bias = stats.norm.ppf(np.clip(below, 1e-3, 1 - 1e-3))
    away = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = float((away @ away) ** 1.5)
    skew = float((away**3).sum()) / (6 * spread) if spread > 0 else 0.0
    reach = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    # The formula breaks down where the denominator is not positive; 0.1 keeps its order.
    levels = stats.norm.cdf(bias + reach / np.maximum(1 - skew * reach, 0.1))
    low, high = np.quantile(drawn, levels)
    return float(low), float(high)


def explained_bounds(
    value: float, left_out: Float[np.ndarray, " P"], level: float
) -> tuple[float, float]:
    """Of a share of variance that is explained: a jackknife of the logarithm of what is not
    explained, with Student's quantile.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 11.
    """
    if value >= 1:
        return value, value
    scale = np.log(np.maximum(1 - left_out, 1e-300))
    count = len(left_out)
    error = float(np.sqrt((count - 1) / count * ((scale - scale.mean()) ** 2).sum()))
    reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    return 1 - (1 - value) * float(np.exp(reach)), 1 - (1 - value) * float(np.exp(-reach))
