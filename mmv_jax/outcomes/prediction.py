"""Prediction: what calcification adds to the risk that is known without it. Axis: N women.

Fine and Gray's model predicts risks of women whom it has not seen (cross-fitting), with competing
death. They are compared with published scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.errors import UserError
from mmv_jax.outcomes.accuracy import calibration_slope, index_of_accuracy
from mmv_jax.outcomes.cross_fitting import cross_fitted, deal_folds
from mmv_jax.outcomes.discrimination import (
    Calibration,
    Estimate,
    Reclassification,
    auc,
    calibration,
    concordance,
)
from mmv_jax.outcomes.gain import SCORE_YEARS, Gain, compared, gain_over_score

# Outcomes before a horizon, and women followed beyond it: with fewer, an interval says nothing.
FEWEST = 10
OF_COVARIATES, OF_BOTH = "covariates", "covariates and calcification"
SCORES = {
    "pce": "ASCVD (pooled cohort equations)",
    "prevent": "PREVENT",
    "prevent_ascvd": "PREVENT-ASCVD",
    "prevent_heart_failure": "PREVENT-HF",
}
Columns = Mapping[str, Float[np.ndarray, "N"]]


@dataclass(frozen=True)
class Worth:
    """How well one risk predicts.

    Attributes:
      auc, calibration, accuracy: by horizon in years; accuracy is the IPA.
      slope: calibration slope and its interval, at the longest horizon; None without one.
    """

    name: str
    women: int
    concordance: Estimate
    auc: Mapping[float, Estimate]
    calibration: Mapping[float, Calibration]
    accuracy: Mapping[float, Estimate]
    slope: tuple[float, tuple[float, float]] | None


@dataclass(frozen=True)
class Added:
    """Worth of each risk, and what calcification adds.

    Attributes:
      gain: over the covariates: `c_index`, `auc_5_years` and so on.
      reclassification: over the covariates, moves between categories.
      beyond: gain over each published score.
    """

    worth: Sequence[Worth] = ()
    gain: Mapping[str, Estimate] = field(default_factory=dict)
    reclassification: Sequence[Reclassification] = ()
    beyond: Mapping[str, Gain] = field(default_factory=dict)
    notes: Sequence[str] = ()


def added_worth(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    covariates: Columns,
    calcification: Columns,
    scores: Columns,
    *,
    horizons: Sequence[float],
) -> Added:
    """Worth of risks from covariates, with and without calcification, and of published scores.

    Args:
      calcification: the additional columns of the second model.
      scores: ten-year risks (0 to 1) by the names of `SCORES`; NaN if a woman has none.
      horizons: years.
    """
    possible = [h for h in horizons if enough(time, event, h)]
    notes = [
        f"Follow-up is too short, or outcomes are too few, for {h:g}-year predictions."
        for h in horizons
        if h not in possible
    ]
    both = {**covariates, **calcification}
    if not judged(time, event):
        few = "Outcomes are too few to judge a prediction, or none came while others were followed."
        return Added(notes=(*notes, few))
    try:
        # Without covariates there is no first model, and nothing is compared.
        models = {OF_COVARIATES: covariates} if covariates else {}
        folds = deal_folds(both)
        risks = {
            name: cross_fitted(time, event, x, possible, folds=folds)
            for name, x in (models | {OF_BOTH: both}).items()
        }
    except UserError:
        few = "Outcomes are too few to predict the risk of women whom the model has not seen."
        return Added(notes=(*notes, few))
    found = {
        name: _worth(name, time, event, score=score, of_auc=risk, of_calibration=risk)
        for name, (score, risk) in risks.items()
    }
    published = worth_of_scores(time, event, scores, calcification=calcification, horizons=possible)
    gained = compared(time, event, risks[OF_COVARIATES], risks[OF_BOTH]) if covariates else None
    return Added(
        worth=(*found.values(), *published.worth),
        gain=gained.differences if gained else {},
        reclassification=gained.moved if gained else (),
        beyond=published.beyond,
        notes=(*notes, *published.notes),
    )


def worth_of_scores(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    scores: Columns,
    *,
    calcification: Columns,
    horizons: Sequence[float],
) -> Added:
    """How well each published score predicts, and what calcification adds to it."""
    worth, worth_notes = _published(time, event, scores, horizons)
    beyond, beyond_notes = _beyond(
        time, event, scores, calcification=calcification, horizons=horizons
    )
    return Added(worth=worth, beyond=beyond, notes=(*worth_notes, *beyond_notes))


def _beyond(
    time: np.ndarray,
    event: np.ndarray,
    scores: Columns,
    *,
    calcification: Columns,
    horizons: Sequence[float],
) -> tuple[dict[str, Gain], list[str]]:
    """Gain of calcification over each score, for the women who have it; notes."""
    found, notes = {}, []
    for name, risk in scores.items():
        known = np.isfinite(risk)
        t, e = time[known], event[known]
        if not judged(t, e):
            continue  # already in the notes on the score's worth
        try:
            found[name] = gain_over_score(
                t,
                e,
                risk[known],
                calcification={level: x[known] for level, x in calcification.items()},
                horizons=[h for h in horizons if enough(t, e, h)],
            )
        except UserError as error:
            notes.append(f"What calcification adds to the {name} risk is not known. {error}")
    return found, notes


def judged(time: np.ndarray, event: np.ndarray) -> bool:
    """Whether outcomes are enough to judge a risk, and one came while others were followed."""
    if np.sum(event == 1) < FEWEST:
        return False
    first = np.min(time[event == 1])
    # Without a pair of women that can be compared no concordance exists.
    return bool(np.any((time > first) | ((event == 0) & (time == first)) | (event == 2)))


def enough(time: np.ndarray, event: np.ndarray, years: float) -> bool:
    """Whether enough outcomes happened before `years` and enough women were followed longer."""
    return bool(min(np.sum((event == 1) & (time <= years)), np.sum(time > years)) >= FEWEST)


def _published(
    time: np.ndarray, event: np.ndarray, scores: Columns, horizons: Sequence[float]
) -> tuple[list[Worth], list[str]]:
    """Worth of each published score among the women who have it; notes."""
    found, notes = [], []
    for name, risk in scores.items():
        known = np.isfinite(risk)
        if not judged(time[known], event[known]):
            notes.append(
                f"Women with a {name} risk have too few outcomes to judge how well it predicts."
            )
            continue
        t, e, r = time[known], event[known], risk[known]
        found.append(
            _worth(
                SCORES[name],
                t,
                e,
                score=r,
                # A ten-year risk ranks women at any horizon (AUC), but is calibrated only at ten
                # years.
                of_auc={h: r for h in horizons if enough(t, e, h)},
                of_calibration={h: r for h in horizons if h == SCORE_YEARS},
            )
        )
    return found, notes


def _worth(
    name: str,
    time: np.ndarray,
    event: np.ndarray,
    *,
    score: np.ndarray,
    of_auc: Mapping[float, np.ndarray],
    of_calibration: Mapping[float, np.ndarray],
) -> Worth:
    """Worth of one risk.

    Args:
      score: ranks the women for the C-index.
      of_auc, of_calibration: risks by the horizons (years) at which each is evaluated.
    """
    slope = None
    if of_calibration:
        try:
            # The longest horizon has the most outcomes.
            slope = calibration_slope(time, event, of_calibration[max(of_calibration)])
        except UserError:  # one risk for all has no slope
            slope = None
    return Worth(
        name=name,
        women=len(time),
        concordance=concordance(time, event, score),
        auc={h: auc(time, event, risk, h) for h, risk in of_auc.items()},
        calibration={h: calibration(time, event, risk, h) for h, risk in of_calibration.items()},
        accuracy={h: index_of_accuracy(time, event, risk, h) for h, risk in of_calibration.items()},
        slope=slope,
    )
