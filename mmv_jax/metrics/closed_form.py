"""Confidence intervals in closed form, with patients as clusters: AUROC and proportions.

With 5 to 22 positive patients, a percentile bootstrap of the AUROC covers 56 to 95 % of the time.
It gives [1, 1] where all predictions are right. These intervals cover 93 to 98 % there
(docs/results.md).

Axes: N studies, P patients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import stats

TRUSTED = 10  # patients of a class at which its measured variance has half of the weight


@dataclass(frozen=True)
class DeLong:
    """An AUROC and its variances.

    Attributes:
      variance: with all studies of a patient as one cluster.
      of_class: the parts of it that the positive and the negative studies add.
      apart: as if each study were of another patient.
      studies, patients: counts of the positive and of the negative class.
    """

    value: float
    variance: float
    of_class: tuple[float, float]
    apart: float
    studies: tuple[int, int]
    patients: tuple[int, int]

    @property
    def design_effect(self) -> float:
        """Variance with clusters divided by the variance without them, at least 1.

        At most the mean number of studies a patient, in the class where that is larger. This is
        also the value where a variance is 0.
        """
        most = max(s / p for s, p in zip(self.studies, self.patients))
        if self.apart <= 0 or self.variance <= 0:
            return most
        return float(np.clip(self.variance / self.apart, 1.0, most))


def delong(
    truth: Num[np.ndarray, " N"], score: Num[np.ndarray, " N"], patients: Int[np.ndarray, " N"]
) -> DeLong:
    """The AUROC with its variance; both classes need at least two patients.

    Args:
      patients: an index of each study's patient, 0 to P − 1.

    Source: Obuchowski, Biometrics 53 (1997); for one study a patient, DeLong et al., Biometrics 44
      (1988).
    """
    positive = np.asarray(truth) == 1
    high, low = _placements(score[positive], score[~positive])
    of_high, of_low = patients[positive], patients[~positive]
    value, count = float(high.mean()), int(patients.max()) + 1
    i, j = len(np.unique(of_high)), len(np.unique(of_low))
    # Each patient's sum of deviations [P]. Patients with both classes add the covariance a · b.
    a = np.bincount(of_high, high - value, count) / len(high)
    b = np.bincount(of_low, low - value, count) / len(low)
    both = len(np.unique(patients))
    # Obuchowski's factors n / (n - 1), of patients instead of studies.
    of_class = i / (i - 1) * float(a @ a), j / (j - 1) * float(b @ b)
    variance = sum(of_class) + 2 * both / (both - 1) * float(a @ b)
    apart = sum(float(x.var(ddof=1)) / len(x) for x in (high, low))
    return DeLong(
        value,
        # A negative covariance may exceed the other two terms.
        variance=max(variance, 0.0),
        of_class=of_class,
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
    """Lower and upper bound of the AUROC, from the standard error at each candidate value.

    A candidate lies in the interval if the estimate is within its standard error times the
    quantile. The standard error is Newcombe's (his method 5). It needs no variance of the data, so
    it holds at perfect separation too. It is the sum of what positive and negative studies add.

    Each part is scaled towards its measured one (DeLong's, with clusters), the more so the more
    patients the class has. Else it is widened by the design effect of several studies a patient.
    The quantile is Student's, with the degrees of freedom of the measured parts (Satterthwaite).

    Source: Newcombe, Statistics in Medicine 25 (2006), part 2, method 5; `delong`.
    """
    found = delong(truth, score, patients)
    (m, n), design = found.studies, found.design_effect

    def model(value: float) -> np.ndarray:
        """[3]: of the positive studies, of the negative ones, of single pairs."""
        # Newcombe takes the mean of Hanley and McNeil's two terms for both classes.
        spread = (value / (2 - value) + 2 * value**2 / (1 + value)) / 2 - value**2
        return np.array([spread * (n - 1), spread * (m - 1), value * (1 - value)]) / (m * n)

    # One pair of patients right and one wrong are added, so that no ratio is 0 / 0 at the ends.
    i, j = found.patients
    inner = model((found.value * i * j + 1) / (i * j + 2))[:2]
    # From 0 to 1: the share of what is measured, which is half at TRUSTED patients.
    trust = np.array(found.patients) / (np.array(found.patients) + TRUSTED)
    parts = np.array(found.of_class)
    # A patient with studies of both classes adds a covariance, which both parts share here.
    shared = np.clip(found.variance / parts.sum(), 0.5, 2.0) if parts.sum() > 0 else 1.0
    measured = np.where(parts > 0, parts * shared / inner, design)
    scale = trust * measured + (1 - trust) * design
    weight = scale * inner
    # A part that is trusted little has little noise, and so more degrees of freedom.
    noise = weight**2 * trust**2 / (np.array(found.patients) - 1)
    width = float(stats.t.ppf((1 + level) / 2, weight.sum() ** 2 / noise.sum()))
    factors = np.array([*scale, design])
    return _score_bounds(found.value, lambda value: width**2 * float(factors @ model(value)))


def proportion_interval(
    values: Float[np.ndarray, " N"], patients: Int[np.ndarray, " N"], level: float = 0.95
) -> tuple[float, float]:
    """Lower and upper bound of the share of studies with the value 1 (the others have 0).

    It is Wilson's interval with the number of studies divided by the design effect. The design
    effect is at least 1 and at most the number of studies a patient. It takes that maximum where
    all values are the same.

    Source: Wilson, JASA 22 (1927); for clusters, Korn and Graubard, Survey Methodology 24 (1998).
    """
    n, count = len(values), len(np.unique(patients))
    share = float(values.mean())
    # At a share of 0 or 1 no design effect can be measured: take the largest possible one.
    apart = share * (1 - share) / n
    design = n / count
    if apart > 0 and count > 1:
        # The variance between patients' totals, linearised at the share.
        off = np.bincount(patients, values - share) / n
        design = float(np.clip(count / (count - 1) * (off @ off) / apart, 1.0, design))
    # Without clusters only the share is estimated, and the quantile is Wilson's normal one.
    tail = (1 + level) / 2
    width = float(stats.norm.ppf(tail) if n == count else stats.t.ppf(tail, max(count - 1, 1)))
    return _score_bounds(share, lambda value: width**2 * design * value * (1 - value) / n)


def exact_proportion(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper bound of a proportion of n independent trials: it covers at `level` or more.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def _placements(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the other class that each study is ranked correctly against; ties count half."""
    up, down = np.sort(high), np.sort(low)
    below = np.searchsorted(down, high, "left") + np.searchsorted(down, high, "right")
    above = np.searchsorted(up, low, "left") + np.searchsorted(up, low, "right")
    return below / 2 / len(low), 1 - above / 2 / len(high)


def _score_bounds(estimate: float, allowed: Callable[[float], float]) -> tuple[float, float]:
    """The values closest to 0 and to 1 whose squared distance from the estimate is `allowed`."""
    bounds = []
    for end in (0.0, 1.0):
        # The estimate is always allowed, since its distance is 0: bisection starts there.
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
