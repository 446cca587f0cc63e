"""Analysis of a cohort: hazard ratios of calcified area, and what it adds to a known risk.

Axes: N women, G severities, W times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.errors import UserError
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
from mmv_jax.outcomes.flow import CohortFlow
from mmv_jax.outcomes.gray import gray
from mmv_jax.outcomes.imputation import imputed_ratios
from mmv_jax.outcomes.prediction import Added, added_worth
from mmv_jax.outcomes.ratios import (
    AREA,
    Effects,
    Women,
    age_interaction,
    area_curve,
    hazard_ratios,
    levels_with_outcomes,
    ratios_beside_scores,
    ratios_by_age,
)
from mmv_jax.outcomes.risk import women_scores
from mmv_jax.outcomes.survival import (
    Curve,
    CurveTest,
    RestrictedMean,
    at_risk,
    cumulative_incidence,
    kaplan_meier,
    log_rank,
    median_follow_up,
    restricted_mean,
)

AGE_NAMES = {"<50": "under_50", "50–59": "50_59", "60–69": "60_69", "≥70": "from_70"}
HORIZONS = (5.0, 10.0)
SPLINES = ("age",)
CURVE_POINTS = 400
# Years between the numbers at risk; at most eight fit under a curve.
AT_RISK_STEPS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
Columns = Mapping[str, Float[np.ndarray, "N"]]


@dataclass(frozen=True)
class Analysis:
    """Results of an analysis.

    `effects[task][level]` is a hazard ratio with level `mild`, `moderate`, `severe` or `per_mm2`.
    Curves are listed by severity.

    Attributes:
      gray: Gray's test of the incidences under competing death; None with delayed entry.
      follow_up: median follow-up in years and its 95 % interval, by the reverse Kaplan–Meier
        estimate.
      restricted_means: by severity, at the longest horizon that every severity reaches.
      by_age: hazard ratios within each age band.
      interaction: test whether hazard ratios differ between the age bands; None with too few
        outcomes.
      area_bends: test whether the spline of the area bends, if requested.
      notes: women left out, and models that could not be fitted.
      flow: from the lines of the file to the women of the models.
    """

    name: str
    adjust: tuple[str, ...]
    splines: tuple[str, ...]
    groups: Sequence[Group]
    survival: Sequence[Curve]
    incidence: Sequence[Curve]
    at_risk_years: Sequence[float]
    at_risk: Int[np.ndarray, "G W"]
    log_rank: CurveTest
    gray: CurveTest | None
    follow_up: tuple[float, float, float]
    restricted_means: Mapping[str, RestrictedMean]
    effects: Mapping[str, Mapping[str, Effect]]
    by_age: Mapping[str, Mapping[str, Effect]]
    interaction: CurveTest | None
    area_bends: CurveTest | None
    proportionality: Sequence[Proportionality]
    added: Added
    notes: Sequence[str]
    flow: CohortFlow


def analyse(
    cohort: Cohort,
    *,
    adjust: Sequence[str] = ("age",),
    thresholds: Sequence[float | int] = THRESHOLDS_MM2,
    horizons: Sequence[float | int] = HORIZONS,
    splines: Sequence[str] = SPLINES,
    endpoint: str = "",
) -> Analysis:
    """Kaplan–Meier, Cox and Fine–Gray by severity and per mm², by age, and the added prediction.

    Every model uses the women who have all covariates of `adjust`, except the task
    `cox_adjusted_imputed`. `notes` say who was left out and what could not be fitted. It takes a
    minute or two for 116,135 women.

    Args:
      adjust: names among "age" and the cohort's covariates.
      thresholds: areas in mm² above which calcification is mild, moderate and severe.
      horizons: years at which risk is predicted.
      splines: covariates of `adjust` that enter as restricted cubic splines; "area" adds the hazard
        ratio of the area as a curve.
      endpoint: meaning of event 1 (`SCORES_OF`); a published score is compared only for its own
        endpoint.
    Raises:
      UserError: no model can be made from a covariate or the cohort.
    """
    names = cohort.names_of(adjust)
    _check_splines(cohort, names, splines)
    # The imputation needs the women whom the complete cases leave out.
    whole = cohort
    cohort, scores = ready(cohort, names, endpoint)
    group = severity(cohort.area_mm2, thresholds)
    levels, notes = levels_with_outcomes(cohort, group)
    women = Women(cohort=cohort, group=group, levels=levels, names=names, splines=tuple(splines))
    effects, proportionality, fit_notes = hazard_ratios(women)
    by_score, score_notes = ratios_beside_scores(women, scores)
    by_age, age_notes = ratios_by_age(women)
    interaction, interaction_notes = age_interaction(women)
    imputed, imputed_notes = _imputed(whole, women, thresholds)
    curve, area_bends, area_notes = _area(women)
    added = _added(women, scores, [float(h) for h in horizons])
    present = {SEVERITIES[i]: group == i for i in range(len(SEVERITIES)) if np.any(group == i)}
    found_notes = (*notes, *fit_notes, *score_notes, *age_notes, *interaction_notes)
    return Analysis(
        name=cohort.name,
        adjust=tuple(adjust),
        splines=tuple(splines),
        groups=[group_of(cohort, mine, name, names) for name, mine in present.items()],
        **_curves(cohort, present, horizons),
        log_rank=log_rank(cohort.time_years, cohort.event == 1, group, entry=cohort.entry_years),
        gray=None if late(cohort) else gray(cohort.time_years, cohort.event, group),
        follow_up=median_follow_up(cohort.time_years, cohort.event, entry=cohort.entry_years),
        effects=effects | imputed | by_score | curve,
        by_age=by_age,
        interaction=interaction,
        area_bends=area_bends,
        proportionality=proportionality,
        added=added,
        notes=(*cohort.notes, *found_notes, *imputed_notes, *area_notes, *added.notes),
        flow=CohortFlow.of(cohort, group, levels),
    )


def _check_splines(cohort: Cohort, names: Sequence[str], splines: Sequence[str]) -> None:
    # SPLINES: the default, age, must not be an error if the model does not adjust for age.
    wrong = [name for name in splines if name not in (*names, AREA, *SPLINES)]
    if wrong:
        raise UserError(
            f"splines names {', '.join(wrong)}, which adjust does not name, or whose cells are"
            f" text. Choose from: {', '.join((*names, AREA))}."
        )
    two = [name for name in splines if name in names and len(np.unique(cohort.column(name))) == 2]
    if two:
        raise UserError(
            f"splines names {', '.join(two)}, which has two values: a spline needs a number. Take"
            " it out of splines."
        )


def late(cohort: Cohort) -> bool:
    return cohort.entry_years is not None


def ready(cohort: Cohort, names: Sequence[str], endpoint: str) -> tuple[Cohort, Columns]:
    """Women of the models, and their published risks."""
    scores, notes = women_scores(cohort.age, cohort.covariates, endpoint)
    kept = complete_cases(cohort, names).told(*notes)
    check_covariates(kept, names)
    if scores and not endpoint:
        kept = kept.told(
            "The setting endpoint does not say what event 1 is: the ASCVD score was made for"
            " infarction, coronary death and stroke, PREVENT for these and heart failure."
        )
    # The scores cover all women; the line of the file selects those who are kept.
    return kept, {name: risk[np.isin(cohort.line, kept.line)] for name, risk in scores.items()}


def _imputed(
    whole: Cohort, women: Women, thresholds: Sequence[float | int]
) -> tuple[Effects, list[str]]:
    """Adjusted hazard ratios of all women with imputed covariates, and notes.

    Both are empty if no covariate is missing.
    """
    if len(whole) == len(women.cohort):
        return {}, []
    # The same severities as in complete cases, so that both models compare the same groups.
    everyone = Women(
        cohort=whole,
        group=severity(whole.area_mm2, thresholds),
        levels=women.levels,
        names=women.names,
        splines=women.splines,
    )
    effects, notes = imputed_ratios(everyone)
    return ({"cox_adjusted_imputed": effects} if effects else {}), notes


def _area(women: Women) -> tuple[Effects, CurveTest | None, list[str]]:
    """Hazard ratios, test and notes of the spline of the area, if requested."""
    if AREA not in women.splines:
        return {}, None, []
    try:
        curve, bends = area_curve(women)
    except UserError as error:
        return {}, None, [f"There is no curve of the area. {error}"]
    return {"cox_area_spline": curve}, bends, []


def _added(women: Women, scores: Columns, horizons: Sequence[float]) -> Added:
    """Worth of each risk; only a note with delayed entry."""
    if late(women.cohort):
        return Added(
            notes=(
                "Gray's test and all predictions (C-index, AUC, reclassification, calibration) are"
                " left out: with delayed entry they have no sound estimator here.",
            )
        )
    return added_worth(
        time=women.cohort.time_years,
        event=women.cohort.event,
        covariates=women.covariates(),
        calcification=women.severities(),
        scores=scores,
        horizons=horizons,
    )


def _curves(
    cohort: Cohort, groups: Mapping[str, np.ndarray], horizons: Sequence[float | int]
) -> dict[str, Any]:
    """Curves of each group, numbers at risk, and restricted means."""
    time, event, late = cohort.time_years, cohort.event, cohort.entry_years
    step = next(step for step in AT_RISK_STEPS if time.max() < 8 * step)
    # arange excludes its end; a follow-up of whole steps must show its last number.
    when = np.arange(0.0, max(time.max(), step) + 1e-9, step)
    survival, incidence, left, means = [], [], [], {}
    # Restricted means are compared by subtraction, so every severity must reach the horizon.
    followed = min(float(time[of].max()) for of in groups.values())
    years = [float(h) for h in horizons if h <= followed]
    for name, of in groups.items():
        t, e, entry = time[of], event[of], None if late is None else late[of]
        survival.append(kaplan_meier(t, e == 1, entry=entry, name=name).thinned(CURVE_POINTS))
        curve = cumulative_incidence(t, e, entry=entry, name=name)
        incidence.append(curve.thinned(CURVE_POINTS))
        left.append(at_risk(t, when, entry=entry))
        if years:
            means[name] = restricted_mean(t, e == 1, max(years), entry=entry)
    return {
        "survival": survival,
        "incidence": incidence,
        "at_risk_years": when.tolist(),
        "at_risk": np.stack(left),
        "restricted_means": means,
    }


def metrics(analysis: Analysis) -> dict:
    """Numbers of an analysis in the form of `metrics.json`: task, level, metric.

    - Tasks of hazard ratios are those of `effects`, plus `cox_adjusted_age_50_59` and so on.
    - `prediction` has the C-index and AUC of each risk; `accuracy` its IPA and calibration slope.
    - `added_by_calcification` has what calcification adds to the covariates and to each score.
    - `restricted_mean` has the years without the outcome that a severity loses compared with zero.
    - `follow_up` has the median.
    """
    by_age = {
        f"cox_adjusted_age_{AGE_NAMES[band]}": effects for band, effects in analysis.by_age.items()
    }
    found = ratios_as_json({**analysis.effects, **by_age})
    found |= _restricted(analysis)
    women = sum(group.women for group in analysis.groups)
    value, *bounds = analysis.follow_up
    # JSON has no infinity, which means a median or a bound that is not reached.
    if np.isfinite(analysis.follow_up).all():
        found["follow_up"] = {"all": {"median_years": _interval(value, bounds, women)}}
    return found | scores_as_json(analysis.added)


def ratios_as_json(effects: Mapping[str, Mapping[str, Effect]]) -> dict:
    """Hazard ratios by task and level."""
    return {
        task: {
            level: {"hazard_ratio": _interval(e.hazard_ratio, e.ci95, e.women)}
            for level, e in found.items()
        }
        for task, found in effects.items()
    }


def scores_as_json(added: Added) -> dict:
    """`prediction`, `accuracy` and `added_by_calcification`, each where there is something."""
    prediction = {
        risk.name: (
            {"c_index": _number(risk.concordance)}
            | {f"auc_{h:g}_years": _number(value) for h, value in risk.auc.items()}
        )
        for risk in added.worth
    }
    accuracy = {
        risk.name: (
            {f"ipa_{h:g}_years": _number(value) for h, value in risk.accuracy.items()}
            | ({"calibration_slope": _interval(*risk.slope, risk.women)} if risk.slope else {})
        )
        for risk in added.worth
        if risk.accuracy
    }
    gains = {"covariates": added.gain} if added.gain else {}
    gains |= {name: gain.differences for name, gain in added.beyond.items()}
    over = {
        name: {measure: _number(value) for measure, value in gain.items()}
        for name, gain in gains.items()
    }
    tasks = {"prediction": prediction, "accuracy": accuracy, "added_by_calcification": over}
    return {task: found for task, found in tasks.items() if found}


def _restricted(analysis: Analysis) -> dict:
    means = analysis.restricted_means
    women = {group.name: group.women for group in analysis.groups}
    lost = {
        name: means["zero"] - mean
        for name, mean in means.items()
        if name != "zero" and "zero" in means
    }
    levels = {
        name: {
            f"years_lost_of_{mean.years:g}": _interval(
                mean.value, mean.ci95, women["zero"] + women[name]
            )
        }
        for name, mean in lost.items()
    }
    return {"restricted_mean": levels} if levels else {}


def _interval(value: float, ci95: Sequence[float], n: int) -> Mapping:
    return {"value": value, "ci95": list(ci95), "n": n}


def _number(estimate: Estimate) -> Mapping:
    return _interval(estimate.value, estimate.ci95, estimate.n)
