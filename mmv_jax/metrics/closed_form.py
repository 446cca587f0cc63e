"""Confidence intervals in closed form, with patients as clusters: AUROC and proportions.

With 5 to 22 positive patients, a percentile bootstrap of the AUROC covers 46 to 95 % of the time.
It gives [1, 1] where all predictions are right. Coverage of these intervals: docs/results.md.

Axes: N studies, P patients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import special, stats

# Of the AUROC's interval, chosen by simulation (docs/log.md, 29 November 2026).
EQUAL = 1.5  # patients of a class that the guess of equal spreads counts for
# Patients of a class, times 4 A (1 - A) at an AUROC A, whose measured variance counts half: one
# that is larger than the model's, and one that is smaller.
TRUSTED = np.array([[5.0], [40.0]])
HEAVY = 2.0  # how often what heavy tails add is counted, at candidates nearer to 0.5
LEAN = 0.4  # how unequally the tails are shared, at an AUROC of 1
FREEDOM = 2.5  # degrees of freedom, as a multiple of those of the measured parts


@dataclass(frozen=True)
class DeLong:
    """An AUROC and its variances.

    Attributes:
      variance: with all studies of a patient as one cluster.
      apart: as if each study were of another patient.
      spread: variance of the placements of the positive and of the negative studies. A placement
        is the share of the other class that a study is ranked correctly against.
      ties: share of the pairs of a positive and a negative study whose scores are equal.
      studies, patients: counts of the positive and of the negative class.
    """

    value: float
    variance: float
    apart: float
    spread: tuple[float, float]
    ties: float
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

    @property
    def inner(self) -> float:
        """The AUROC with one pair of patients more ranked right and one wrong: not 0 or 1."""
        pairs = self.patients[0] * self.patients[1]
        return (self.value * pairs + 1) / (pairs + 2)

    @property
    def share_of_positives(self) -> float:
        """The positive studies' share of the variance of scores, as far as ranks can tell.

        Each class says it by its placements: those of positive studies vary the more, and those of
        negative studies the less, the wider positive scores spread. The answers are weighted by
        patients, and drawn to 1/2, as `EQUAL` patients more.
        """
        (m, n), (i, j) = self.studies, self.patients
        of_pair = self.inner * (1 - self.inner)
        # A class is ranked against a sample of the other one, which adds variance to placements:
        # E[spread] = mixing @ (variance against all of the other class) + that of a pair / size.
        mixing = np.array([[1 - 1 / n, -1 / n], [-1 / m, 1 - 1 / m]])
        added = (of_pair - self.ties / 4) / np.array([n, m])
        spread = np.linalg.solve(mixing, np.array(self.spread) - added)
        positive, negative = _correlation(self.inner, spread)
        size = 2 * i * j / (i + j)
        share = (i * positive + j * (1 - negative)) / (i + j)
        return float((size * share + EQUAL / 2) / (size + EQUAL))


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
    high, low, ties = _placements(score[positive], score[~positive])
    of_high, of_low = patients[positive], patients[~positive]
    value, count = float(high.mean()), int(patients.max()) + 1
    i, j = len(np.unique(of_high)), len(np.unique(of_low))
    # Each patient's sum of deviations [P]. Patients with both classes add the covariance a · b.
    a = np.bincount(of_high, high - value, count) / len(high)
    b = np.bincount(of_low, low - value, count) / len(low)
    both = len(np.unique(patients))
    # Obuchowski's factors n / (n - 1), of patients instead of studies.
    variance = i / (i - 1) * float(a @ a) + j / (j - 1) * float(b @ b)
    variance += 2 * both / (both - 1) * float(a @ b)
    spread = (float(high.var(ddof=1)), float(low.var(ddof=1)))
    return DeLong(
        value,
        # A negative covariance may exceed the other two terms.
        variance=max(variance, 0.0),
        apart=spread[0] / len(high) + spread[1] / len(low),
        spread=spread,
        ties=ties,
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
    quantile. The standard error is that of normal scores (`placement_variance`). It needs the ratio
    of the two classes' spreads, which both classes tell (`share_of_positives`), and no variance of
    the data, so it holds at perfect separation too.

    It is widened by the design effect of several studies a patient. The more patients are ranked
    wrongly, the more it is drawn to DeLong's variance (with clusters), which assumes no shape. One
    that is larger than the model's is trusted sooner than one that is smaller: the latter may miss
    the rare patient who is ranked far too low.

    So may a good AUROC. Candidates nearer to 0.5 than the estimate have the variance of heavy
    tails, which is the same share of A (1 − A) at all AUROCs A (Student's t with 3 degrees of
    freedom: 0.30 to 0.33). Their tail holds less than half of what is left out, and the other tail
    holds more. The quantile is Student's, with `FREEDOM` times the degrees of freedom of the
    measured parts (Satterthwaite), since both classes tell one ratio.

    Args:
      patients: an index of each study's patient, 0 to P − 1; at least `FEWEST` of each class.

    Source: a score interval with a model's variance, Newcombe, Statistics in Medicine 25 (2006),
      part 2, whose model is exponential. The shapes, the ratio and the weights are this package's,
      by simulation (docs/results.md).
    """
    found = delong(truth, score, patients)
    return _score_bounds(found.value, _allowed(found, level))


def placement_variance(
    value: Float[np.ndarray, "*B"], share: float | Float[np.ndarray, "*B"]
) -> Float[np.ndarray, "*B"]:
    """Variance of a class's placements against all of the other class, if scores are normal.

    Args:
      value: the AUROC.
      share: this class's share of the sum of both classes' variances, 0 to 1.

    Example:
      >>> placement_variance(np.array([0.5]), np.array([0.5])).round(4)  # uniform: 1/12
      array([0.0833])

    Source: two scores of the class have the correlation `share` about one of the other class; Owen,
      Annals of Mathematical Statistics 27 (1956), for the bivariate normal probability.
    """
    slope = np.sqrt((1 - share) / (1 + share))
    return value - 2 * special.owens_t(special.ndtri(value), slope) - value**2


def _allowed(found: DeLong, level: float) -> Callable[[np.ndarray], np.ndarray]:
    """The squared distance from the estimate up to which candidate values [B] are held."""
    (m, n), (i, j) = found.studies, found.patients
    share = found.share_of_positives

    def parts(value: np.ndarray) -> np.ndarray:
        """[3, B]: variance that positive studies add, that negative ones add, and single pairs."""
        high = (n - 1) * placement_variance(value, share)
        low = (m - 1) * placement_variance(value, 1 - share)
        return np.stack([high, low, value * (1 - value)]) / (m * n)

    inner, guess = parts(np.array(found.inner)), float(parts(np.array(0.5)).sum())
    measured = found.variance / inner.sum()
    # Of few wrongly ranked patients the measured variance is far off, and the more so the better
    # their AUROC is by chance.
    wrong = 8 * i * j / (i + j) * found.inner * (1 - found.inner)
    trust = wrong / (wrong + TRUSTED)
    freedom = FREEDOM * inner.sum() ** 2 / (inner[0] ** 2 / (i - 1) + inner[1] ** 2 / (j - 1))

    def allowed(value: np.ndarray) -> np.ndarray:
        side = np.sign(found.value - value)
        normal = parts(value).sum(axis=0)
        heavy = 4 * value * (1 - value) * guess
        nearer = side * (value - 0.5) > 0
        model = found.design_effect * (normal + HEAVY * nearer * (heavy - normal))
        # The larger of the two leans to a measured variance above the model's.
        variance = (trust * measured * normal + (1 - trust) * model).max(axis=0)
        tail = (1 - level) / 2 * (1 - LEAN * side * (2 * value - 1))
        return special.stdtrit(freedom, tail) ** 2 * variance

    return allowed


def _correlation(value: float, variance: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    """The shares at which `placement_variance` of an AUROC is `variance`, cut to 0 to 1."""
    low, high = np.zeros(len(variance)), np.ones(len(variance))
    # 30 halvings reach 1e-9: the share is known to two digits at best.
    for _ in range(30):
        middle = (low + high) / 2
        below = placement_variance(np.full(len(middle), value), middle) < variance
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def proportion_interval(
    values: Float[np.ndarray, " N"], patients: Int[np.ndarray, " N"], level: float = 0.95
) -> tuple[float, float]:
    """Lower and upper bound of the share of studies with the value 1 (the others have 0).

    It is Wilson's interval with the number of studies divided by the design effect. The design
    effect is at least 1 and at most that of patients whose studies all have the same value. It
    takes that maximum where all values are the same.

    Source: Wilson, JASA 22 (1927); for clusters, Korn and Graubard, Survey Methodology 24 (1998);
      for clusters of unequal sizes, the jackknife over patients, and Kish's number of them.
    """
    sizes = np.bincount(np.unique(patients, return_inverse=True)[1])
    n, count = len(values), len(sizes)
    share = float(values.mean())
    # At a share of 0 or 1 no design effect can be measured: take the largest possible one.
    apart, most = share * (1 - share) / n, float(sizes @ sizes) / n
    design = most
    if apart > 0 and count > 1:
        design = float(np.clip(_jackknife(values, patients, sizes) / apart, 1.0, most))
    # Without clusters only the share is estimated, and the quantile is Wilson's normal one. A
    # patient of many studies hides how the others vary: of unequal patients fewer count.
    tail, freedom = (1 + level) / 2, max(n / most - 1, 1)
    width = float(stats.norm.ppf(tail) if n == count else stats.t.ppf(tail, freedom))
    return _score_bounds(share, lambda value: width**2 * design * value * (1 - value) / n)


def _jackknife(values: np.ndarray, patients: np.ndarray, sizes: np.ndarray) -> float:
    """The variance of the mean, from the mean without each patient; at least two patients."""
    index, n, count = np.unique(patients, return_inverse=True)[1], len(values), len(sizes)
    # The mean without a patient is away from that of all by Σ (x - mean) / (n - size).
    away = np.bincount(index, values - values.mean()) / (n - sizes)
    return (count - 1) / count * float(away @ away)


def exact_proportion(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper bound of a proportion of n independent trials: it covers at `level` or more.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def _placements(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Share of the other class that each study is ranked correctly against; ties count half.

    The third is the share of tied pairs.
    """
    up, down = np.sort(high), np.sort(low)
    before, behind = np.searchsorted(down, high, "left"), np.searchsorted(down, high, "right")
    above = np.searchsorted(up, low, "left") + np.searchsorted(up, low, "right")
    ties = float((behind - before).mean()) / len(low)
    return (before + behind) / 2 / len(low), 1 - above / 2 / len(high), ties


def _score_bounds(
    estimate: float, allowed: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """The values closest to 0 and to 1 whose squared distance from the estimate is `allowed`."""
    ends = np.array([0.0, 1.0])

    def held(value: np.ndarray) -> np.ndarray:
        return (estimate - value) ** 2 <= allowed(value)

    # The variance is 0 at both ends, so an end is a bound only where the estimate is there. The
    # estimate is always held, since its distance is 0: bisection starts there.
    inside, outside = np.where(held(ends), ends, estimate), ends
    # 50 halvings reach 1e-15, about the precision of a float64.
    for _ in range(50):
        middle = (inside + outside) / 2
        kept = held(middle)
        inside, outside = np.where(kept, middle, inside), np.where(kept, outside, middle)
    return float(inside[0]), float(inside[1])
