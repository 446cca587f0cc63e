"""Gain in prediction: what calcification adds to a published score. Axis: N women."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.outcomes.accuracy import (
    DecisionCurve,
    decision_curve,
    index_of_accuracy,
    log_hazard,
    net_benefit,
)
from mmv_jax.outcomes.cross_fitting import cross_fitted, deal_folds
from mmv_jax.outcomes.discrimination import (
    RISK_CUTOFFS,
    Estimate,
    Reclassification,
    auc,
    concordance,
    reclassification,
    uno_concordance,
)

SCORE_YEARS = 10.0  # published scores and their categories are ten-year risks
TREATED_FROM = 0.075  # ten-year risk at which the guidelines discuss a statin
THRESHOLDS = np.concatenate([np.linspace(0.005, 0.1, 20), np.linspace(0.11, 0.3, 20)])
Columns = Mapping[str, Float[np.ndarray, "N"]]


@dataclass(frozen=True)
class Gain:
    """Gain of a risk with calcification over one without it, for the same women.

    Attributes:
      women: number of women compared.
      differences: `c_index`, and by horizon `uno_c_10_years`, `auc_10_years`, `ipa_10_years` and
        `net_benefit_10_years` (at the guidelines' threshold).
      moved: between the guidelines' categories.
      decisions: the decision curves.
    """

    women: int
    differences: Mapping[str, Estimate]
    moved: Sequence[Reclassification]
    decisions: Sequence[DecisionCurve]


def gain_over_score(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    score: Float[np.ndarray, "N"],
    *,
    calcification: Columns,
    horizons: Sequence[float],
) -> Gain:
    """Gain of Fine and Gray's model of score and calcification over that of the score alone.

    Both predict women whom they have not seen. The score enters as its log hazard, so both models
    are recalibrated. The gain therefore does not include the score's miscalibration in another
    population.
    """
    alone = {"score": log_hazard(score)}
    both = alone | dict(calcification)
    folds = deal_folds(both)
    risks = [cross_fitted(time, event, x, horizons, folds=folds) for x in (alone, both)]
    return compared(time, event, risks[0], risks[1])


def compared(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    without: tuple[np.ndarray, Mapping[float, np.ndarray]],
    with_it: tuple[np.ndarray, Mapping[float, np.ndarray]],
) -> Gain:
    """Gain between two risks of the same women.

    Args:
      without, with_it: linear predictor and risks by horizon (years) of each model.
    """
    c_new, c_old = (concordance(time, event, fit[0]) for fit in (with_it, without))
    differences = {"c_index": c_new - c_old}
    moved, decisions = [], []
    for h, old in without[1].items():
        # Cutoffs for ten years are scaled to h as if risk rose evenly with time.
        new, threshold = with_it[1][h], TREATED_FROM * h / SCORE_YEARS
        for name, measure in (
            ("auc", auc),
            ("uno_c", uno_concordance),
            ("ipa", index_of_accuracy),
        ):
            gained = measure(time, event, new, h) - measure(time, event, old, h)
            differences[f"{name}_{h:g}_years"] = gained
        benefit = [net_benefit(time, event, r, h, threshold=threshold) for r in (new, old)]
        differences[f"net_benefit_{h:g}_years"] = benefit[0] - benefit[1]
        cutoffs = [c * h / SCORE_YEARS for c in RISK_CUTOFFS]
        moved.append(reclassification(time, event, old, new, years=h, cutoffs=cutoffs))
        thresholds = THRESHOLDS * h / SCORE_YEARS
        decisions.append(decision_curve(time, event, [old, new], years=h, thresholds=thresholds))
    return Gain(len(time), differences, moved, decisions)
