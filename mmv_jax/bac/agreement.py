"""Agreement of measurement and truth: pixels, areas, severity.

Axes: N views or women, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from mmv_jax.metrics.closed_form import exact_proportion
from mmv_jax.metrics.intervals import Interval, interval
from mmv_jax.outcomes.cohort import SEVERITIES, severity

LIMITS = 1.96  # standard deviations on both sides of the mean difference


@dataclass(frozen=True)
class Compared:
    """True and measured areas of N views or women, in mm².

    Attributes:
      women: [N], the woman of each.
    """

    women: np.ndarray
    truth: Float[np.ndarray, " N"]
    found: Float[np.ndarray, " N"]

    @property
    def limits(self) -> tuple[float, float, float]:
        """Mean difference (found minus true), and lower and upper limit of agreement, in mm².

        Source: Bland and Altman, Lancet 327:307 (1986).
        """
        difference = self.found - self.truth
        # For a single woman the sample deviation (ddof = 1) is undefined.
        spread = LIMITS * float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
        return (
            float(difference.mean()),
            float(difference.mean()) - spread,
            float(difference.mean()) + spread,
        )


def overlap(truth: Bool[np.ndarray, "Y X"], found: Bool[np.ndarray, "Y X"]) -> tuple[int, int, int]:
    """Numbers of pixels in both masks, in the truth, and in the found mask."""
    return int((truth & found).sum()), int(truth.sum()), int(found.sum())


def dice_scores(pixels: Int[np.ndarray, "N 3"], women: np.ndarray) -> dict[str, Interval]:
    """Dice of `overlap`s: `dice` (mean over calcified views) and `dice_pooled` (all pixels).

    A view without calcification has no Dice; the specificity covers such views. Without any
    calcified view the result is empty.
    """
    both, truth, found = pixels.T.astype(np.float64)
    calcified = truth > 0
    if not calcified.any():
        return {}
    each = 2 * both[calcified] / (truth + found)[calcified]

    def pooled(t: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
        # `weights` counts how often a resample drew each view; `both` has the same order of views.
        return 2 * (weights @ both) / np.maximum(weights @ (t + p), 1e-12)

    return {
        "dice": interval("mean", each, each, women[calcified]),
        "dice_pooled": interval(pooled, truth, found, women),
    }


def area_scores(areas: Compared) -> dict[str, Interval]:
    """R² about the identity, and mean absolute error in mm².

    R² is not about a fitted line, since a constant factor is an error too. Equal areas, such as
    that of a single woman, have no variance and no R².
    """
    names = ("r2", "mae") if np.ptp(areas.truth) > 0 else ("mae",)
    return {f"area_{name}": interval(name, areas.truth, areas.found, areas.women) for name in names}


def severity_scores(areas: Compared, thresholds: Sequence[float]) -> dict[str, Interval]:
    """Accuracy of the severity of women, and specificity and sensitivity of any calcification."""
    true, found = severity(areas.truth, thresholds), severity(areas.found, thresholds)
    right = (true == found).astype(np.float64)
    free, zero = (found == 0).astype(np.float64), true == 0
    parts = {
        # Pairs: 1 or 0 for each woman, and which women count. Accuracy counts all of them.
        "severity_accuracy": (right, right >= 0),
        "zero_specificity": (free, zero),
        "sensitivity": (1 - free, ~zero),
    }
    scores = {name: _share(x[where]) for name, (x, where) in parts.items() if where.any()}
    # With one severity for all there is nothing that could agree beyond chance.
    if len(np.unique([true, found])) > 1:
        scores["severity_kappa"] = interval(weighted_kappa, true, found, areas.women)
    return scores


def _share(right: Float[np.ndarray, " N"]) -> Interval:
    """A share of women, each counted once, with its exact interval."""
    n = len(right)
    return Interval(float(right.mean()), *exact_proportion(int(right.sum()), n), n=n)


def weighted_kappa(
    truth: Int[np.ndarray, " N"], found: Int[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """Cohen's kappa of severities under each line of weights: a disagreement counts by the square
    of the steps between; NaN where all women have one severity.

    Source: Cohen, Psychol Bull 70 (1968).
    """
    steps = np.arange(len(SEVERITIES))
    cost = np.subtract.outer(steps, steps) ** 2
    # [R, 4] each: how much weight a severity has in the truth, and in what was found.
    of_truth, of_found = (
        weights @ (values[:, None] == steps).astype(np.float64) for values in (truth, found)
    )
    observed = weights @ cost[truth, found].astype(np.float64)
    expected = np.einsum("ri,ij,rj->r", of_truth, cost, of_found) / weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)


def limits_of_agreement(areas: Compared) -> dict[str, Interval]:
    """`area_bias`, and the limits between which 95 % of differences (found minus true) lie, each
    with its exact interval for normal differences. Of fewer than three women there are none.

    Source: Bland and Altman, Stat Methods Med Res 8 (1999); the intervals, Carkeet, Optom Vis Sci
      92 (2015).
    """
    difference = areas.found - areas.truth
    n = len(difference)
    if n < 3:
        return {}
    mean, error = float(difference.mean()), float(difference.std(ddof=1)) / np.sqrt(n)
    found = {"area_bias": stats.t.ppf((0.025, 0.975), n - 1)}
    for name, sign in (("area_limit_low", -1), ("area_limit_high", 1)):
        # (limit - mean) / error is noncentral t: a normal quantile over a root of χ².
        found[name] = stats.nct.ppf((0.025, 0.975), n - 1, sign * LIMITS * np.sqrt(n))
    values = dict(zip(found, (mean, *areas.limits[1:])))
    return {
        name: Interval(values[name], float(mean + low * error), float(mean + high * error), n=n)
        for name, (low, high) in found.items()
    }


def between_views(pairs: Float[np.ndarray, "N 2"]) -> dict[str, Interval]:
    """How far the areas of one breast's CC and MLO view differ: `between_views_sd`, and
    `repeatability`, which 95 % of such differences do not pass. In mm², with intervals by χ².

    Two views project one artery differently, so the truth's own pairs are the floor.

    Source: Bland and Altman, BMJ 313:744 (1996).
    """
    n = len(pairs)
    if n < 3:
        return {}
    half = ((pairs[:, 0] - pairs[:, 1]) ** 2 / 2).sum()
    # Σ d² / 2 over the variance of a view is χ² with a degree of freedom a breast.
    sd, low, high = (float(np.sqrt(half / q)) for q in (n, *stats.chi2.ppf((0.975, 0.025), n)))
    factor = LIMITS * float(np.sqrt(2))
    return {
        "between_views_sd": Interval(sd, low, high, n=n),
        "repeatability": Interval(factor * sd, factor * low, factor * high, n=n),
    }


def severity_table(areas: Compared, thresholds: Sequence[float]) -> Int[np.ndarray, "4 4"]:
    """Number of women by true (row) and found (column) severity."""
    table = np.zeros((len(SEVERITIES),) * 2, np.int64)
    # Plain indexing would count a pair of severities once, however many women have it.
    np.add.at(table, (severity(areas.truth, thresholds), severity(areas.found, thresholds)), 1)
    return table


def as_json(scores: dict[str, Interval]) -> dict[str, dict]:
    """Scores in the form of `metrics.json`; an undefined bound is null, with the reason."""
    return {
        # JSON has no NaN; null represents it.
        name: {
            "value": None if np.isnan(s.value) else s.value,
            "ci95": [None if np.isnan(bound) else bound for bound in (s.low, s.high)],
            "n": s.n,
            **({"why": s.why} if s.why else {}),
        }
        for name, s in scores.items()
    }
