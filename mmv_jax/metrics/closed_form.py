"""Intervals in closed form, patients as clusters: AUROC and proportions. Axes: N studies, P
patients.

With 5 to 22 positive patients a percentile bootstrap of the AUROC covers 56 to 95 % of the time,
and gives [1, 1] where all are right. These cover 95 to 99 % there (docs/results.md).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import stats

TRUSTED = 40  # patients of the rarer class at which DeLong's variance has half of the weight


@dataclass(frozen=True)
class DeLong:
    """An AUROC and its variances.

    Attributes:
      variance: with all studies of a patient as one cluster.
      apart: as if each study were of a patient of its own.
      studies, patients: of the positive and of the negative class.
    """

    value: float
    variance: float
    apart: float
    studies: tuple[int, int]
    patients: tuple[int, int]

    @property
    def design_effect(self) -> float:
        """How much less the studies say than as many patients would: between 1 and the most studies
        of a class for each of its patients, which it is where the variance is not known.
        """
        most = max(s / p for s, p in zip(self.studies, self.patients))
        if self.apart <= 0 or self.variance <= 0:
            return most
        return float(np.clip(self.variance / self.apart, 1.0, most))


def delong(
    truth: Num[np.ndarray, " N"], score: Num[np.ndarray, " N"], patients: Int[np.ndarray, " N"]
) -> DeLong:
    """The AUROC with its variance; both classes need two patients.

    Args:
      patients: an index of each study's patient, 0 to P − 1.

    Source: Obuchowski, Biometrics 53 (1997); of one study a patient, DeLong et al., Biometrics 44
      (1988).
    """
    positive = np.asarray(truth) == 1
    high, low = _placements(score[positive], score[~positive])
    of_high, of_low = patients[positive], patients[~positive]
    value, count = float(high.mean()), int(patients.max()) + 1
    i, j = len(np.unique(of_high)), len(np.unique(of_low))
    # Each patient's sum of deviations [P]. One with both classes adds the covariance a · b.
    a = np.bincount(of_high, high - value, count) / len(high)
    b = np.bincount(of_low, low - value, count) / len(low)
    both = len(np.unique(patients))
    # Obuchowski's factors n / (n - 1), of patients instead of studies.
    variance = i / (i - 1) * (a @ a) + j / (j - 1) * (b @ b) + 2 * both / (both - 1) * (a @ b)
    apart = sum(float(x.var(ddof=1)) / len(x) for x in (high, low))
    return DeLong(
        value,
        # A negative covariance may exceed the other two terms.
        variance=max(float(variance), 0.0),
        apart=apart,
        studies=(len(high), len(low)),
        patients=(i, j),
    )


def auroc_interval(
    truth: Num[np.ndarray, " N"],
    score: Num[np.ndarray, " N"],
    patients: Int[np.ndarray, " N"],
    level: float = 0.95,
) -> tuple[float, float]:
    """Lower and upper bound of the AUROC: all values from which the estimate is not further than
    their own standard error allows.

    The standard error at a value is Newcombe's (his method 5), which needs no variance in the data
    and so holds at perfect separation. It is widened by the design effect of several studies a
    patient. The more patients the rarer class has, the more it is scaled to DeLong's variance,
    which assumes no shape of the scores but needs many patients to be known.

    Source: Newcombe, Statistics in Medicine 25 (2006), part 2, method 5; `delong`.
    """
    found = delong(truth, score, patients)
    (m, n), (i, j) = found.studies, found.patients
    # Hanley and McNeil's variance, with m - 1 and n - 1 both replaced by their mean.
    more = (m + n) / 2 - 1

    def model(value: float) -> float:
        bend = (1 - value) / (2 - value) + value / (1 + value)
        return value * (1 - value) * (1 + more * bend) / (m * n)

    # One pair of patients right and one wrong are added, so that the ratio is finite at the ends.
    inner = (found.value * i * j + 1) / (i * j + 2)
    measured = found.variance / model(inner) if found.variance > 0 else found.design_effect
    # From 0 to 1: the share of DeLong's variance, which is half at TRUSTED patients.
    trust = min(i, j) / (min(i, j) + TRUSTED)
    scale = trust * measured + (1 - trust) * found.design_effect
    # A design effect is itself estimated: where there is one, Student's quantile stands.
    tail, alone = (1 + level) / 2, (m, n) == (i, j)
    width = float(stats.norm.ppf(tail) if alone else stats.t.ppf(tail, i + j - 2))
    return _score_bounds(found.value, lambda value: width**2 * scale * model(value))


def proportion_interval(
    values: Float[np.ndarray, " N"], patients: Int[np.ndarray, " N"], level: float = 0.95
) -> tuple[float, float]:
    """Lower and upper bound of the share of studies whose value is 1 (the others' is 0).

    Wilson's interval of the effective number of studies: that number over the design effect, which
    is between 1 and the studies for each patient, and the latter where all values are the same.

    Source: Wilson, JASA 22 (1927); for clusters, Korn and Graubard, Survey Methodology 24 (1998).
    """
    n, count = len(values), len(np.unique(patients))
    share = float(values.mean())
    # At a share of 0 or 1 no design effect can be measured: the largest possible one stands.
    apart = share * (1 - share) / n
    design = n / count
    if apart > 0 and count > 1:
        # The variance between patients' totals, linearised at the share.
        off = np.bincount(patients, values - share) / n
        design = float(np.clip(count / (count - 1) * (off @ off) / apart, 1.0, design))
    # Without clusters nothing is estimated but the share, and the normal quantile is Wilson's own.
    tail = (1 + level) / 2
    width = float(stats.norm.ppf(tail) if n == count else stats.t.ppf(tail, max(count - 1, 1)))
    return _score_bounds(share, lambda value: width**2 * design * value * (1 - value) / n)


def _placements(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of the other class on whose right side each study is, ties half."""
    up, down = np.sort(high), np.sort(low)
    below = np.searchsorted(down, high, "left") + np.searchsorted(down, high, "right")
    above = np.searchsorted(up, low, "left") + np.searchsorted(up, low, "right")
    return below / 2 / len(low), 1 - above / 2 / len(high)


def _score_bounds(estimate: float, allowed: Callable[[float], float]) -> tuple[float, float]:
    """The values next to 0 and to 1 whose squared distance from the estimate is allowed there."""
    bounds = []
    for end in (0.0, 1.0):
        # The estimate is always allowed, its distance being 0, so bisection starts from there.
        inside, outside = estimate, end
        # The variance is 0 at both ends, so an end is a bound only where the estimate is there.
        if (estimate - end) ** 2 <= allowed(end):
            inside = end
        # 50 halvings reach 1e-15, about the precision of a float64.
        for _ in range(50):
            middle = (inside + outside) / 2
            if (estimate - middle) ** 2 <= allowed(middle):
                inside = middle
            else:
                outside = middle
        bounds.append(inside)
    return bounds[0], bounds[1]
