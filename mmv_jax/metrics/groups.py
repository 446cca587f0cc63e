"""Metrics within groups of studies, and metrics weighted so that group and truth are independent.

Each function returns a metric for `intervals.interval` and `intervals.contrast`: `(truth,
predicted, weights [R, N]) -> [R]`. Axes: R resamples, N studies, G groups.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Num

from mmv_jax.metrics.behind import OF_CLASSES, Parts, rests_on
from mmv_jax.metrics.weighted import METRICS, Weighted, weighted_auroc

MOST_RARE = 0.05  # share of studies in groups that may be left out
SMALLEST_CELL = 5  # patients of a class in a group; with fewer, `tie_broken` is refused
# Patients of the smallest cell, times 4 A (1 - A) at an AUROC A: with fewer that are ranked wrongly
# the draws spread too little. By simulation (docs/log.md, 29 November 2026).
WRONGLY_RANKED = 2.5


def among(metric: str | Weighted, inside: Bool[np.ndarray, " N"]) -> Weighted:
    """A metric (a key of `METRICS`) over the studies `inside` alone."""
    function = METRICS[metric] if isinstance(metric, str) else metric

    def parts(truth: Num[np.ndarray, "N *C"]) -> list[Bool[np.ndarray, " N"]]:
        if hasattr(function, "parts"):
            return [inside & part for part in function.parts(truth)]
        return [inside & (truth == label) for label in (0, 1)] if metric in OF_CLASSES else [inside]

    @rests_on(parts, of_group=True)
    def own(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return function(truth[inside], predicted[inside], weights[:, inside])

    return own


@dataclass(frozen=True)
class Support:
    """The sample sizes behind a test of `tie_broken`.

    `Interval.undefined` has the share of resamples that the test leaves out.

    Attributes:
      smallest: patients of the rarest pair of class and group.
      effective: number of unweighted studies that would be as informative as the weighted ones.
    """

    smallest: int
    effective: float

    @property
    def refused(self) -> str:
        """The reason why the test should not be made; empty if it may be."""
        if self.smallest >= SMALLEST_CELL:
            return ""
        return f"the smallest cell has {self.smallest} patients, fewer than {SMALLEST_CELL}"

    def untold(self, broken: float) -> str:
        """Why an AUROC with the tie broken has no interval and no test; empty if it has."""
        if 4 * self.smallest * broken * (1 - broken) >= WRONGLY_RANKED:
            return ""
        return f"too few of the {self.smallest} patients in the smallest cell are ranked wrongly"


def rare_groups(
    truth: Num[np.ndarray, " N"], groups: np.ndarray, patients: np.ndarray
) -> list[str]:
    """Groups with too few patients of a class for `tie_broken`, to be left out of it.

    None where they are more than `MOST_RARE` of the studies: the rest would be another population.

    Args:
      groups: names.

    >>> rare_groups(np.arange(41) % 2, np.array(["a"] * 40 + ["b"]), np.arange(41))
    ['b']
    """
    rare = [
        str(g)
        for g in np.unique(groups)
        if min(len(np.unique(patients[(truth == label) & (groups == g)])) for label in (0, 1))
        < SMALLEST_CELL
    ]
    return rare if np.isin(groups, rare).sum() <= MOST_RARE * len(groups) else []


def support(truth: Num[np.ndarray, " N"], groups: np.ndarray, patients: np.ndarray) -> Support:
    """The smallest cell and the effective sample size of `tie_broken` on these studies.

    Source: Kish, Survey Sampling (1965), for the effective sample size.
    """
    cells = [(truth == label) & (groups == g) for label in (0, 1) for g in np.unique(groups)]
    smallest = min(len(np.unique(patients[cell])) for cell in cells)
    expected = [
        (truth == label).sum() * (groups == g).sum() / len(truth)
        for label in (0, 1)
        for g in np.unique(groups)
    ]
    # Kish: (Σ w)² / Σ w², where Σ w = n. A study weighs e / cell, so its cell adds e² / cell.
    squares = sum(e**2 / max(cell.sum(), 1) for e, cell in zip(expected, cells))
    # An empty cell is divided by 1 above; `smallest` is then 0 and the test is refused.
    return Support(smallest, float(len(truth) ** 2 / squares))


def tie_broken(metric: str, groups: np.ndarray) -> Weighted:
    """A metric with weighted studies, so that truth (0 or 1) and group are independent.

    NaN where a group lacks a class. A study of class y and group g weighs n(y) n(g) / (n n(y, g)),
    from the counts of each resample. On average this equals resampling the test set until group and
    truth are independent, without the noise of a second resampling.

    Source: Kamiran and Calders, Knowledge and Information Systems 33 (2012), section 5.2.
    """
    inside = _one_hot(groups)

    @rests_on(_cells_of(groups), of_group=True)
    def weighted(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        out = np.zeros_like(weights)
        missing = np.zeros(len(weights), bool)
        for label in (0, 1):
            chosen = (truth == label).astype(np.float64)
            of_label = weights @ chosen
            for group in inside.T:
                both = weights @ (chosen * group)
                expected = of_label * (weights @ group) / weights.sum(axis=1)
                # No weight can replace an empty cell that should have studies.
                missing |= (both == 0) & (expected > 0)
                out += (
                    weights
                    * (chosen * group)[None]
                    * np.divide(expected, both, out=np.zeros_like(both), where=both > 0)[:, None]
                )
        return np.where(missing, np.nan, METRICS[metric](truth, predicted, out))

    return weighted


def auroc_within(groups: np.ndarray) -> Weighted:
    """The AUROC over pairs of studies within one group, pooled over groups.

    It says whether a positive study scores higher than a negative one of the same group.
    """
    inside = _one_hot(groups) > 0

    @rests_on(_cells_of(groups), of_group=True)
    def weighted(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        right, pairs = np.zeros((2, len(weights)))
        for group in inside.T:
            w, y = weights[:, group], truth[group].astype(np.float64)
            # Pairs of a positive and a negative study: 0 where the AUROC of the group is NaN.
            own = (w @ y) * (w @ (1 - y))
            right += own * np.nan_to_num(weighted_auroc(y, predicted[group], w))
            pairs += own
        return np.divide(right, pairs, out=np.full_like(right, np.nan), where=pairs > 0)

    return weighted


def _cells_of(groups: np.ndarray) -> Parts:
    """Each class within each group, the rarest of which decides how certain a metric is."""
    names = np.unique(groups)
    return lambda truth: [(truth == label) & (groups == g) for label in (0, 1) for g in names]


def _one_hot(groups: np.ndarray) -> np.ndarray:
    """A 0-1 matrix [N, G] of each study's group."""
    return (groups[:, None] == np.unique(groups)[None]).astype(np.float64)
