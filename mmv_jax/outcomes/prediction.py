"""What calcification adds to the risk that is known without it. Axis: N women.

Risks are predicted for women whom the model has not seen (cross-fitting), with death competing
(Fine and Gray's model), and set beside the published scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.errors import UserError
from mmv_jax.outcomes.discrimination import (
    RISK_CUTOFFS,
    Calibration,
    Estimate,
    Reclassification,
    auc,
    calibration,
    concordance,
    reclassification,
)
from mmv_jax.outcomes.fine_gray import fine_gray

FOLDS = 5
# outcomes before a horizon, and women followed beyond it: with fewer, an interval tells nothing
FEWEST = 10
OF_COVARIATES, OF_BOTH = "covariates", "covariates and calcification"
SCORES = {"pce": "ASCVD (pooled cohort equations)", "prevent": "PREVENT"}
# published scores and their categories are of ten-year risk: scores are calibrated at no other
# time, categories are scaled
SCORE_YEARS = 10.0
Columns = Mapping[str, Float[np.ndarray, "N"]]


@dataclass(frozen=True)
class Worth:
    """How well one risk predicts; `auc` and `calibration` go by horizon in years."""

    name: str
    women: int
    concordance: Estimate
    auc: Mapping[float, Estimate]
    calibration: Mapping[float, Calibration]


@dataclass(frozen=True)
class Added:
    """The worth of each risk; and what calcification adds to the covariates: `gain` in `c_index`
    and `auc_5_years`, and moves between categories.
    """

    worth: Sequence[Worth] = ()
    gain: Mapping[str, Estimate] = field(default_factory=dict)
    reclassification: Sequence[Reclassification] = ()
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
    """Compares the risk from the covariates with that from covariates and calcification, and with
    the published scores.

    Args:
      calcification: the columns that the second model has more.
      scores: ten-year risks (0 to 1) by the names of `SCORES`; NaN where a woman has none.
    """
    possible = [h for h in horizons if _enough(time, event, h)]
    notes = [
        f"Follow-up is too short, or outcomes are too few, for {h:g}-year predictions."
        for h in horizons
        if h not in possible
    ]
    both = {**covariates, **calcification}
    try:
        risks = (
            {OF_COVARIATES: cross_fitted(time, event, covariates, possible)} if covariates else {}
        )
        risks[OF_BOTH] = cross_fitted(time, event, both, possible)
    except UserError:
        few = "Outcomes are too few to predict the risk of women whom the model has not seen."
        return Added(notes=(*notes, few))
    found = {
        name: _worth(name, time, event, score=score, of_auc=risk, of_calibration=risk)
        for name, (score, risk) in risks.items()
    }
    by_score, score_notes = _published(time, event, scores, possible)
    gain, moved = {}, []
    if covariates:
        with_it, without = found[OF_BOTH], found[OF_COVARIATES]
        gain = {"c_index": with_it.concordance - without.concordance} | {
            f"auc_{h:g}_years": with_it.auc[h] - without.auc[h] for h in possible
        }
        moved = [
            reclassification(
                time,
                event,
                risks[OF_COVARIATES][1][h],
                risks[OF_BOTH][1][h],
                years=h,
                cutoffs=[c * h / SCORE_YEARS for c in RISK_CUTOFFS],
            )
            for h in possible
        ]
    return Added((*found.values(), *by_score), gain, moved, (*notes, *score_notes))


def _enough(time: np.ndarray, event: np.ndarray, years: float) -> bool:
    """Whether outcomes before, and women followed beyond, are no few."""
    return bool(min(np.sum((event == 1) & (time <= years)), np.sum(time > years)) >= FEWEST)


def _published(
    time: np.ndarray, event: np.ndarray, scores: Columns, horizons: Sequence[float]
) -> tuple[list[Worth], list[str]]:
    """The worth of each published score among the women who have it; and notes."""
    found, notes = [], []
    for name, risk in scores.items():
        known = np.isfinite(risk)
        if np.sum(known & (event == 1)) < FEWEST:
            notes.append(
                f"Women with a {name} risk have too few outcomes to say how well it predicts."
            )
            continue
        t, e, r = time[known], event[known], risk[known]
        found.append(
            _worth(
                SCORES[name],
                t,
                e,
                score=r,
                of_auc={h: r for h in horizons if _enough(t, e, h)},
                of_calibration={h: r for h in horizons if h == SCORE_YEARS},
            )
        )
    return found, notes


def cross_fitted(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], x: Columns, horizons: Sequence[float]
) -> tuple[Float[np.ndarray, "N"], dict[float, Float[np.ndarray, "N"]]]:
    """The linear predictor, and the risk by each horizon, of every woman from a model of the other
    folds' women.
    """
    fold = _folds(event, x)
    score, risk = np.zeros(len(time)), {h: np.zeros(len(time)) for h in horizons}
    for k in range(FOLDS):
        seen, unseen = fold != k, fold == k
        model = fine_gray(
            time[seen], event[seen], {name: values[seen] for name, values in x.items()}
        )
        theirs = {name: values[unseen] for name, values in x.items()}
        score[unseen] = model.score(theirs)
        for h in horizons:
            risk[h][unseen] = model.risk(theirs, h)
    return score, risk


def _folds(event: np.ndarray, x: Columns) -> np.ndarray:
    """Deals outcomes, deaths and the others evenly, and within these each 0/1 column, so that no
    model lacks a rare one.
    """
    rng = np.random.default_rng(0)
    binary = [values for values in x.values() if np.isin(values, (0, 1)).all()]
    order = np.lexsort([rng.random(len(event)), *binary, event])
    fold = np.empty(len(event), int)
    fold[order] = np.arange(len(event)) % FOLDS
    return fold


def _worth(
    name: str,
    time: np.ndarray,
    event: np.ndarray,
    *,
    score: np.ndarray,
    of_auc: Mapping[float, np.ndarray],
    of_calibration: Mapping[float, np.ndarray],
) -> Worth:
    """Args: `of_auc` and `of_calibration` have the risks by the horizons at which each is asked."""
    return Worth(
        name=name,
        women=len(time),
        concordance=concordance(time, event, score),
        auc={h: auc(time, event, risk, h) for h, risk in of_auc.items()},
        calibration={h: calibration(time, event, risk, h) for h, risk in of_calibration.items()},
    )
