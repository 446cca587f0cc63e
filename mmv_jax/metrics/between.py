"""The difference of a metric between two groups of studies.

All of a group of five may be right. Then all draws of a bootstrap agree, and any distance from the
other group looks certain. So a difference of two proportions or AUROCs is put together from the
intervals of both groups, which have a width there.

Axes: N studies, R resamples.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Num

from mmv_jax.metrics.groups import among
from mmv_jax.metrics.intervals import Difference, Interval, contrast, interval
from mmv_jax.metrics.resamples import RESAMPLES, blocks_of, draw_patients
from mmv_jax.metrics.weighted import Weighted

CLOSED = ("auroc", "proportion")  # metrics whose interval is in closed form at every level
SMALLEST_P = 1e-12
DRAWS = 500  # of patients, for a correlation: known to 0.05
Groups = tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]


def between_groups(
    metric: str | Weighted,
    groups: Groups,
    *,
    truth: Num[np.ndarray, "N *C"],
    predicted: Num[np.ndarray, "N *D"],
    patients: np.ndarray,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Difference:
    """The metric in the first group minus that in the second, with its interval and p-value.

    Of "auroc" and "proportion" the interval is put together from those of both groups, and p is the
    smallest at which it leaves out 0. Other metrics are bootstrapped, with Student's quantile of
    the smaller group.

    Args:
      groups: which studies are in the first and in the second. Patients may be in both.
      resamples: of a bootstrap.
    Returns:
      NaN bounds and p where a group has no interval.

    Example:
      >>> right = np.array([1.0] * 5 + [1.0, 1.0, 1.0, 0.0] * 5)  # 5 of 5, and 15 of 20
      >>> first = np.arange(25) < 5
      >>> data = dict(truth=right, predicted=right, patients=np.arange(25))
      >>> found = between_groups("proportion", (first, ~first), **data)
      >>> round(found.value, 2), found.low < 0, found.p > 0.2
      (0.25, True, True)

    Source: Zou and Donner, Statistics in Medicine 27 (2008), for the interval of a difference from
      those of its parts. With Wilson's of proportions it is method 10 of Newcombe, Statistics in
      Medicine 17 (1998).
    """
    first, second = (among(metric, own) for own in groups)
    if metric not in CLOSED:
        return contrast(
            first,
            second,
            truth=truth,
            predicted=predicted,
            patients=patients,
            resamples=resamples,
            level=level,
        )

    def at(level: float) -> tuple[Interval, Interval]:
        one, other = (
            interval(metric, truth[own], predicted[own], patients[own], level=level)
            for own in groups
        )
        return one, other

    a, b = at(level)
    if why := a.why or b.why:
        return Difference(a.value - b.value, np.nan, np.nan, p=np.nan, why=why)
    together = 0.0
    if np.isin(patients[groups[0]], patients[groups[1]]).any():
        together = _correlation((first, second), truth, predicted, patients)
    low, high = _bounds(a, b, together)
    return Difference(a.value - b.value, low, high, p=_p_value(at, together))


def _bounds(a: Interval, b: Interval, together: float) -> tuple[float, float]:
    """Zou and Donner's, of two estimates with a correlation."""
    value = a.value - b.value

    def reach(x: float, y: float) -> float:
        # The correlation is an estimate, so rounding may make a square of 0 negative.
        return float(np.sqrt(max(x**2 + y**2 - 2 * together * x * y, 0.0)))

    low = value - reach(a.value - a.low, b.high - b.value)
    return low, value + reach(a.high - a.value, b.value - b.low)


def _p_value(at: Callable[[float], tuple[Interval, Interval]], together: float) -> float:
    """Two-sided: 1 minus the largest level whose interval leaves out 0."""
    # Halvings of the exponent: p-values of many comparisons are read by their size.
    smallest, largest = np.log10(SMALLEST_P), 0.0
    for _ in range(20):
        middle = (smallest + largest) / 2
        low, high = _bounds(*at(1 - 10**middle), together)
        if low > 0 or high < 0:
            largest = middle
        else:
            smallest = middle
    return float(10**largest)


def _correlation(
    metrics: Sequence[Weighted], truth: np.ndarray, predicted: np.ndarray, patients: np.ndarray
) -> float:
    """Of the metrics of both groups, over draws of patients; 0 where one of them does not vary."""
    counts, index = draw_patients(tuple(np.asarray(patients).tolist()), DRAWS, 0)
    drawn = [
        [metric(truth, predicted, weights) for metric in metrics]
        for weights in (
            counts[rows][:, index].astype(np.float64) for rows in blocks_of(DRAWS, len(index))
        )
    ]
    both: Float[np.ndarray, "two R"] = np.concatenate(drawn, axis=1)
    a, b = both[:, np.isfinite(both).all(axis=0)]
    spread = a.std() * b.std() if len(a) else 0.0
    return float(np.mean((a - a.mean()) * (b - b.mean())) / spread) if spread > 0 else 0.0
