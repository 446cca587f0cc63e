"""The whole analysis of a cohort: from calcified areas to hazard ratios, and what they add to a
woman's known risk. Axis: N women.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

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
from mmv_jax.outcomes.cox import Effect, Proportionality, cox
from mmv_jax.outcomes.discrimination import Estimate
from mmv_jax.outcomes.fine_gray import fine_gray
from mmv_jax.outcomes.prediction import Added, added_worth
from mmv_jax.outcomes.risk import women_scores
from mmv_jax.outcomes.survival import Curve, at_risk, cumulative_incidence, kaplan_meier, log_rank

AGE_BANDS = ((0, 50, "<50"), (50, 60, "50–59"), (60, 70, "60–69"), (70, 200, "≥70"))
AGE_NAMES = {"<50": "under_50", "50–59": "50_59", "60–69": "60_69", "≥70": "from_70"}
HORIZONS = (5.0, 10.0)
FEWEST_OUTCOMES = 10  # of a stratum: with fewer, an interval tells nothing
CURVE_POINTS = 400
# years between the numbers at risk, of which at most eight fit under a curve
AT_RISK_STEPS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
Columns = Mapping[str, Float[np.ndarray, "N"]]


@dataclass(frozen=True)
class Described:
    """A covariate of a group: mean and standard deviation of a number, or count and share of a 0/1
    column.
    """

    binary: bool
    first: float
    second: float


@dataclass(frozen=True)
class Group:
    """The women of one severity; the area is described by its quartiles."""

    name: str
    women: int
    outcomes: int
    deaths: int
    woman_years: float
    area_mm2: tuple[float, float, float]
    covariates: Mapping[str, Described]


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
    levels, notes = _levels(cohort, group)
    covariates = {name: cohort.column(name) for name in names}
    time, outcome = cohort.time_years, cohort.event == 1
    present = [i for i in range(len(SEVERITIES)) if np.any(group == i)]
    effects, proportionality = _effects(cohort, group, levels, covariates)
    by_score, score_notes = _scored(cohort, group, levels, scores)
    by_age, age_notes = _by_age(cohort, group, covariates)
    added = added_worth(
        time,
        cohort.event,
        covariates,
        _indicators(group, levels),
        scores,
        horizons=[float(h) for h in horizons],
    )
    step = next(step for step in AT_RISK_STEPS if time.max() < 8 * step)
    when = np.arange(0.0, max(time.max(), step) + 1e-9, step)
    return Analysis(
        name=cohort.name,
        adjust=tuple(adjust),
        groups=[_group(cohort, group == i, SEVERITIES[i], names) for i in present],
        survival=[
            kaplan_meier(time[group == i], outcome[group == i], name=SEVERITIES[i]).thinned(
                CURVE_POINTS
            )
            for i in present
        ],
        incidence=[
            cumulative_incidence(
                time[group == i], cohort.event[group == i], name=SEVERITIES[i]
            ).thinned(CURVE_POINTS)
            for i in present
        ],
        at_risk_years=when.tolist(),
        at_risk=np.stack([at_risk(time[group == i], when) for i in present]),
        log_rank=log_rank(time, outcome, group),
        effects=effects | by_score,
        by_age=by_age,
        proportionality=proportionality,
        added=added,
        notes=(*cohort.notes, *notes, *score_notes, *age_notes, *added.notes),
    )


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


def _levels(cohort: Cohort, group: np.ndarray) -> tuple[tuple[int, ...], list[str]]:
    """The severities that have a hazard ratio, and notes about those that have none."""
    outcomes = np.bincount(group[cohort.event == 1], minlength=len(SEVERITIES))
    women = np.bincount(group, minlength=len(SEVERITIES))
    if not outcomes[0]:
        raise UserError(
            f"{cohort.name}: no outcome among women with zero calcification, with whom the others"
            " are compared. Check thresholds and areas."
        )
    notes = [
        f"{SEVERITIES[i]}: {women[i]:,} women with no outcome, so no hazard ratio; they are left"
        " out of the models by severity."
        for i in range(1, len(SEVERITIES))
        if not outcomes[i]
    ]
    levels = tuple(i for i in range(1, len(SEVERITIES)) if outcomes[i])
    if not levels:
        raise UserError(
            f"{cohort.name}: no outcome among women with calcification. There is nothing to"
            " compare."
        )
    return levels, notes


def _indicators(group: np.ndarray, levels: Sequence[int]) -> dict[str, np.ndarray]:
    return {SEVERITIES[i]: (group == i).astype(float) for i in levels}


def _of(columns: Columns, keep: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[keep] for name, values in columns.items()}


def _effects(
    cohort: Cohort, group: np.ndarray, levels: Sequence[int], covariates: Columns
) -> tuple[dict[str, dict[str, Effect]], Sequence[Proportionality]]:
    """The hazard ratios by severity (of women whose severity has one) and per mm² (of all), and the
    test of the adjusted model.
    """
    keep = np.isin(group, (0, *levels))
    by_severity, area = _indicators(group[keep], levels), {"per_mm2": cohort.area_mm2}
    time, event, outcome = cohort.time_years[keep], cohort.event[keep], cohort.event[keep] == 1
    x, x_area = by_severity | _of(covariates, keep), {**area, **covariates}
    everyone = cohort.time_years, cohort.event == 1
    adjusted = cox(time, outcome, x)
    fits = {
        "cox_unadjusted": (
            cox(time, outcome, by_severity).effects(),
            cox(*everyone, area).effects(),
        ),
        "cox_adjusted": (adjusted.effects(), cox(*everyone, x_area).effects()),
        "fine_gray": (
            fine_gray(time, event, x).effects(),
            fine_gray(cohort.time_years, cohort.event, x_area).effects(),
        ),
    }
    effects = {
        task: _of_interest(by_severity, first) | _of_interest(area, second)
        for task, (first, second) in fits.items()
    }
    return effects, adjusted.proportionality


def _scored(
    cohort: Cohort, group: np.ndarray, levels: Sequence[int], scores: Columns
) -> tuple[dict[str, dict[str, Effect]], list[str]]:
    """The hazard ratios by severity adjusted for a published risk alone, of the women who have one;
    and notes.
    """
    effects, notes = {}, []
    for name, risk in scores.items():
        known = np.isfinite(risk) & np.isin(group, (0, *levels))
        if set(group[known & (cohort.event == 1)]) != {0, *levels}:
            notes.append(
                f"Among the women with a {name} risk, a severity has no outcome: there are no"
                " hazard ratios adjusted for it."
            )
            continue
        by_severity = _indicators(group[known], levels)
        fit = cox(
            cohort.time_years[known],
            cohort.event[known] == 1,
            {**by_severity, f"ln {name}": np.log(risk[known])},
        )
        effects[f"cox_{name}_adjusted"] = _of_interest(by_severity, fit.effects())
    return effects, notes


def _of_interest(names: Collection[str], effects: Mapping[str, Effect]) -> dict[str, Effect]:
    return {name: effects[name] for name in names}


def _by_age(
    cohort: Cohort, group: np.ndarray, covariates: Columns
) -> tuple[dict[str, dict[str, Effect]], list[str]]:
    """Adjusted hazard ratios within each age band that has outcomes enough."""
    found, notes = {}, []
    for low, high, name in AGE_BANDS:
        band = (cohort.age >= low) & (cohort.age < high)
        outcomes = np.bincount(group[band & (cohort.event == 1)], minlength=len(SEVERITIES))
        levels = [i for i in range(1, len(SEVERITIES)) if outcomes[i]]
        without = [SEVERITIES[i] for i in range(1, len(SEVERITIES)) if not outcomes[i]]
        if outcomes.sum() < FEWEST_OUTCOMES or not outcomes[0] or not levels:
            notes.append(
                f"Age {name}: {band.sum():,} women with {outcomes.sum():,} outcomes, too few for"
                " hazard ratios."
            )
            continue
        keep = band & np.isin(group, (0, *levels))
        try:
            effects = cox(
                cohort.time_years[keep],
                cohort.event[keep] == 1,
                {**_indicators(group[keep], levels), **_of(covariates, keep)},
            ).effects()
        except UserError:
            notes.append(
                f"Age {name}: the adjusted model of {band.sum():,} women with {outcomes.sum():,}"
                " outcomes cannot be fitted."
            )
            continue
        found[name] = {SEVERITIES[i]: effects[SEVERITIES[i]] for i in levels}
        if without:
            notes.append(
                f"Age {name}: no outcome among women with {' or '.join(without)} calcification, so"
                " no hazard ratio."
            )
    return found, notes


def _group(cohort: Cohort, mine: np.ndarray, name: str, covariates: Sequence[str]) -> Group:
    described = {
        column: _described(cohort.column(column), mine)
        for column in dict.fromkeys(("age", *covariates))
    }
    event = cohort.event[mine]
    low, middle, high = np.quantile(cohort.area_mm2[mine], (0.25, 0.5, 0.75)).tolist()
    years = float(cohort.time_years[mine].sum())
    return Group(
        name,
        int(mine.sum()),
        int(np.sum(event == 1)),
        int(np.sum(event == 2)),
        years,
        (low, middle, high),
        described,
    )


def _described(values: np.ndarray, mine: np.ndarray) -> Described:
    if np.isin(values, (0, 1)).all():
        return Described(True, float(values[mine].sum()), float(values[mine].mean()))
    return Described(
        False,
        float(values[mine].mean()),
        float(values[mine].std(ddof=1)) if mine.sum() > 1 else 0.0,
    )
