"""Agreement of measurement and truth: pixels, areas, severity.

Axes: N views or women, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

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
    return {
        name: interval("proportion", x[where], x[where], areas.women[where])
        for name, (x, where) in parts.items()
        if where.any()
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
