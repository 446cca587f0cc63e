"""The whole analysis of a cohort: from calcified areas to hazard ratios, and what they add to a
woman's known risk. Axis: N women.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.outcomes.cohort import (
    SEVERITIES,
    THRESHOLDS_MM2,
    Cohort,
    check_covariates,
    complete_cases,
    severity,
)
from mmv_jax.outcomes.cox import Effect, Proportionality
from mmv_jax.outcomes.describe import Group, group_of
from mmv_jax.outcomes.discrimination import Estimate
from mmv_jax.outcomes.prediction import Added, added_worth
from mmv_jax.outcomes.ratios import (
    hazard_ratios,
    indicators,
    levels_with_outcomes,
    ratios_beside_scores,
    ratios_by_age,
)
from mmv_jax.outcomes.risk import women_scores
from mmv_jax.outcomes.survival import Curve, at_risk, cumulative_incidence, kaplan_meier, log_rank

AGE_NAMES = {"<50": "under_50", "50–59": "50_59", "60–69": "60_69", "≥70": "from_70"}
HORIZONS = (5.0, 10.0)
CURVE_POINTS = 400
# years between the numbers at risk, of which at most eight fit under a curve
AT_RISK_STEPS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
Columns = Mapping[str, Float[np.ndarray, "N"]]


@dataclass(frozen=True)
class Analysis:
    """What was found. `effects[task][level]` is a hazard ratio, level `mild`, `moderate`, `severe`
    or `per_mm2`; curves go by severity.
    """

    name: str
    adjust: tuple[str, ...]
    groups: Sequence[Group]
    survival: Sequence[Curve]
    incidence: Sequence[Curve]
    at_risk_years: Sequence[float]
    at_risk: Int[np.ndarray, "G W"]
    log_rank: tuple[float, int, float]
    effects: Mapping[str, Mapping[str, Effect]]
    by_age: Mapping[str, Mapping[str, Effect]]
    proportionality: Sequence[Proportionality]
    added: Added
    notes: Sequence[str]


def analyse(
    cohort: Cohort,
    *,
    adjust: Sequence[str] = ("age",),
    thresholds: Sequence[float | int] = THRESHOLDS_MM2,
    horizons: Sequence[float | int] = HORIZONS,
) -> Analysis:
    """Kaplan–Meier, Cox and Fine–Gray by severity and per mm², by age, and what calcification adds
    to the covariates' risk.

    Every model is of the women who have every covariate of `adjust`; who is left out is told in
    `notes`. About a minute for 116,135 women.

    Args:
      adjust: names among "age" and the cohort's covariates.
      thresholds: areas in mm² above which calcification is mild, moderate and severe.
      horizons: years at which risk is predicted.
    Raises:
      UserError: a covariate, or the cohort, from which no model can be made.
    """
    names = cohort.names_of(adjust)
    cohort, scores = _ready(cohort, names)
    group = severity(cohort.area_mm2, thresholds)
    levels, notes = levels_with_outcomes(cohort, group)
    covariates = {name: cohort.column(name) for name in names}
    effects, proportionality = hazard_ratios(cohort, group, levels, covariates)
    by_score, score_notes = ratios_beside_scores(cohort, group, levels, scores)
    by_age, age_notes = ratios_by_age(cohort, group, covariates)
    added = added_worth(
        time=cohort.time_years,
        event=cohort.event,
        covariates=covariates,
        calcification=indicators(group, levels),
        scores=scores,
        horizons=[float(h) for h in horizons],
    )
    present = [i for i in range(len(SEVERITIES)) if np.any(group == i)]
    return Analysis(
        name=cohort.name,
        adjust=tuple(adjust),
        groups=[group_of(cohort, group == i, SEVERITIES[i], names) for i in present],
        **_curves(cohort, {SEVERITIES[i]: group == i for i in present}),
        log_rank=log_rank(cohort.time_years, cohort.event == 1, group),
        effects=effects | by_score,
        by_age=by_age,
        proportionality=proportionality,
        added=added,
        notes=(*cohort.notes, *notes, *score_notes, *age_notes, *added.notes),
    )


def _curves(cohort: Cohort, groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The curves of each group, and the numbers at risk under them."""
    time, event = cohort.time_years, cohort.event
    step = next(step for step in AT_RISK_STEPS if time.max() < 8 * step)
    when = np.arange(0.0, max(time.max(), step) + 1e-9, step)
    survival = [kaplan_meier(time[of], event[of] == 1, name=name) for name, of in groups.items()]
    incidence = [
        cumulative_incidence(time[of], event[of], name=name) for name, of in groups.items()
    ]
    return {
        "survival": [curve.thinned(CURVE_POINTS) for curve in survival],
        "incidence": [curve.thinned(CURVE_POINTS) for curve in incidence],
        "at_risk_years": when.tolist(),
        "at_risk": np.stack([at_risk(time[of], when) for of in groups.values()]),
    }


def metrics(analysis: Analysis) -> dict:
    """The numbers in the form of `metrics.json`: task, level, metric.

    The hazard ratios' tasks are those of `effects`, and `cox_adjusted_age_50_59` and so on;
    `prediction` has the C-index and AUC of each risk, and `added_by_calcification` what they gain.
    """
    by_age = {
        f"cox_adjusted_age_{AGE_NAMES[band]}": effects for band, effects in analysis.by_age.items()
    }
    ratios = {
        task: {
            level: {"hazard_ratio": {"value": e.hazard_ratio, "ci95": list(e.ci95), "n": e.women}}
            for level, e in effects.items()
        }
        for task, effects in {**analysis.effects, **by_age}.items()
    }
    prediction = {
        risk.name: (
            {"c_index": _number(risk.concordance)}
            | {f"auc_{h:g}_years": _number(value) for h, value in risk.auc.items()}
        )
        for risk in analysis.added.worth
    }
    added = {"covariates": {name: _number(value) for name, value in analysis.added.gain.items()}}
    return (
        ratios
        | ({"prediction": prediction} if prediction else {})
        | ({"added_by_calcification": added} if analysis.added.gain else {})
    )


def _number(estimate: Estimate) -> dict:
    return {"value": estimate.value, "ci95": list(estimate.ci95), "n": estimate.n}


def _ready(cohort: Cohort, names: Sequence[str]) -> tuple[Cohort, Columns]:
    """The women of the models, and their published risks."""
    scores, notes = women_scores(cohort.age, cohort.covariates)
    kept = complete_cases(cohort, names).told(*notes)
    check_covariates(kept, names)
    return kept, {name: risk[np.isin(cohort.line, kept.line)] for name, risk in scores.items()}
