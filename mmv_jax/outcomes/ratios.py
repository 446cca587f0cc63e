"""Hazard ratios of a cohort, by severity and per mm²: of all women, beside scores, by age. Axis: N
women.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from mmv_jax.errors import UserError
from mmv_jax.outcomes.cohort import SEVERITIES, Cohort
from mmv_jax.outcomes.cox import Effect, Proportionality, cox
from mmv_jax.outcomes.fine_gray import fine_gray

AGE_BANDS = ((0, 50, "<50"), (50, 60, "50–59"), (60, 70, "60–69"), (70, 200, "≥70"))
FEWEST_OUTCOMES = 10  # of a stratum: with fewer, an interval tells nothing
Columns = Mapping[str, Float[np.ndarray, "N"]]


def levels_with_outcomes(cohort: Cohort, group: np.ndarray) -> tuple[tuple[int, ...], list[str]]:
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


def indicators(group: np.ndarray, levels: Sequence[int]) -> dict[str, np.ndarray]:
    return {SEVERITIES[i]: (group == i).astype(float) for i in levels}


def _rows(columns: Columns, keep: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[keep] for name, values in columns.items()}


def hazard_ratios(
    cohort: Cohort, group: np.ndarray, levels: Sequence[int], covariates: Columns
) -> tuple[dict[str, dict[str, Effect]], Sequence[Proportionality]]:
    """The hazard ratios by severity (of women whose severity has one) and per mm² (of all), and the
    test of the adjusted model.
    """
    keep = np.isin(group, (0, *levels))
    by_severity, area = indicators(group[keep], levels), {"per_mm2": cohort.area_mm2}
    time, event, outcome = cohort.time_years[keep], cohort.event[keep], cohort.event[keep] == 1
    x, x_area = by_severity | _rows(covariates, keep), {**area, **covariates}
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


def ratios_beside_scores(
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
        by_severity = indicators(group[known], levels)
        fit = cox(
            cohort.time_years[known],
            cohort.event[known] == 1,
            {**by_severity, f"ln {name}": np.log(risk[known])},
        )
        effects[f"cox_{name}_adjusted"] = _of_interest(by_severity, fit.effects())
    return effects, notes


def _of_interest(names: Collection[str], effects: Mapping[str, Effect]) -> dict[str, Effect]:
    return {name: effects[name] for name in names}


def ratios_by_age(
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
                {**indicators(group[keep], levels), **_rows(covariates, keep)},
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
