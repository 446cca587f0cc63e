"""Hazard ratios of a cohort, by severity and per mm²: of all women, adjusted for scores, by age.

Axis: N women.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from mmv_jax.errors import UserError
from mmv_jax.outcomes.cohort import SEVERITIES, Cohort
from mmv_jax.outcomes.cox import Cox, Effect, Proportionality, cox, effect
from mmv_jax.outcomes.fine_gray import FineGray, fine_gray
from mmv_jax.outcomes.spline import knots_for, restricted_cubic
from mmv_jax.outcomes.survival import CurveTest

AGE_BANDS = ((0, 50, "<50"), (50, 60, "50–59"), (60, 70, "60–69"), (70, 200, "≥70"))
FEWEST_OUTCOMES = 10  # outcomes of a stratum; with fewer, an interval says nothing
AREA = "area"  # name that requests a spline of the area
AREAS_MM2 = (1.0, 5.0, 10.0, 25.0, 50.0)  # areas at which a spline of the area is evaluated
AREA_QUANTILES = (0.35, 0.65, 0.95)  # quantiles of the areas above 0; the first knot is 0
Columns = Mapping[str, Float[np.ndarray, "N"]]
Effects = dict[str, dict[str, Effect]]


@dataclass(frozen=True)
class Women:
    """Women of a model: a cohort, their severities, and how covariates enter.

    Attributes:
      group: for each woman, an index in `SEVERITIES`.
      levels: the severities that have a hazard ratio.
      names: the covariates.
      splines: covariates that enter as a restricted cubic spline.
    """

    cohort: Cohort
    group: Int[np.ndarray, "N"]
    levels: tuple[int, ...]
    names: tuple[str, ...]
    splines: tuple[str, ...]

    def where(self, keep: np.ndarray) -> "Women":
        """Women for whom the boolean array `keep` is true."""
        return replace(self, cohort=self.cohort.where(keep), group=self.group[keep])

    def compared(self) -> "Women":
        """Women of the reference severity and of those that have a hazard ratio."""
        return self.where(np.isin(self.group, (0, *self.levels)))

    def severities(self) -> dict[str, np.ndarray]:
        """One 0/1 column for each severity of `levels`."""
        return {SEVERITIES[i]: (self.group == i).astype(float) for i in self.levels}

    def covariates(self) -> dict[str, np.ndarray]:
        """Columns of the covariates; knots lie at quantiles of these women."""
        columns: dict[str, np.ndarray] = {}
        for name in self.names:
            values = self.cohort.column(name)
            knots = knots_for(values, int(self.outcome.sum())) if name in self.splines else ()
            columns |= restricted_cubic(name, values, np.asarray(knots, float))
        return columns

    @property
    def outcome(self) -> np.ndarray:
        """Mask of the women with event 1."""
        return self.cohort.event == 1

    def cox(self, x: Columns) -> Cox:
        return cox(self.cohort.time_years, self.outcome, x, entry=self.cohort.entry_years)

    def fine_gray(self, x: Columns) -> FineGray:
        late = self.cohort.entry_years
        return fine_gray(self.cohort.time_years, self.cohort.event, x, entry=late)


def levels_with_outcomes(cohort: Cohort, group: np.ndarray) -> tuple[tuple[int, ...], list[str]]:
    """Severities that have a hazard ratio, and notes about the others.

    Raises:
      UserError: no outcome among women with zero calcification, or among all others.
    """
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


def hazard_ratios(women: Women) -> tuple[Effects, Sequence[Proportionality], list[str]]:
    """Hazard ratios by severity and per mm², the proportionality tests, and notes.

    The ratios by severity are of women whose severity has one, those per mm² of all. The tests are
    those of the adjusted model. Notes name models that cannot be fitted.

    Raises:
      UserError: the adjusted Cox model by severity cannot be fitted.
    """
    compared, area = women.compared(), {"per_mm2": women.cohort.area_mm2}
    by_severity = compared.severities()
    x, x_area = by_severity | compared.covariates(), area | women.covariates()
    # Not caught, unlike the models below: a report needs this model.
    adjusted = compared.cox(x)
    effects = {
        "cox_unadjusted": of_interest(by_severity, compared.cox(by_severity).effects()),
        "cox_adjusted": of_interest(by_severity, adjusted.effects()),
        "fine_gray": {},
    }
    # Functions, not fits: a model that fails costs only its own line.
    others: list[tuple[str, Collection[str], Callable]] = [
        ("cox_unadjusted", area, lambda: women.cox(area)),
        ("cox_adjusted", area, lambda: women.cox(x_area)),
        ("fine_gray", by_severity, lambda: compared.fine_gray(x)),
        ("fine_gray", area, lambda: women.fine_gray(x_area)),
    ]
    notes = []
    for task, names, fit in others:
        try:
            effects[task] |= of_interest(names, fit().effects())
        except UserError as error:
            notes.append(f"{task}, {', '.join(names)}: no hazard ratio. {error}")
    return (
        {task: found for task, found in effects.items() if found},
        adjusted.proportionality,
        notes,
    )


def ratios_beside_scores(women: Women, scores: Columns) -> tuple[Effects, list[str]]:
    """Hazard ratios by severity adjusted only for a published risk; notes.

    They are of the women who have this risk.
    """
    effects: Effects = {}
    notes = []
    for name, risk in scores.items():
        compared = np.isin(women.group, (0, *women.levels))
        known = women.where(np.isfinite(risk) & compared)
        # A severity without an outcome has no finite hazard ratio.
        if set(known.group[known.outcome]) != {0, *women.levels}:
            notes.append(
                f"Among the women with a {name} risk, a severity has no outcome: there are no"
                " hazard ratios adjusted for it."
            )
            continue
        by_severity = known.severities()
        # The logarithm of a small risk is close to the log hazard, in which the model is linear.
        log_risk = np.log(risk[np.isfinite(risk) & compared])
        try:
            fit = known.cox({**by_severity, f"ln {name}": log_risk})
        except UserError as error:
            notes.append(f"No hazard ratios adjusted for the {name} risk. {error}")
            continue
        effects[f"cox_{name}_adjusted"] = of_interest(by_severity, fit.effects())
    return effects, notes


def of_interest(names: Collection[str], effects: Mapping[str, Effect]) -> dict[str, Effect]:
    """Effects of the given names."""
    return {name: effects[name] for name in names}


def ratios_by_age(women: Women) -> tuple[Effects, list[str]]:
    """Adjusted hazard ratios within each age band with enough outcomes; notes."""
    found: Effects = {}
    notes = []
    for low, high, name in AGE_BANDS:
        band = women.where((women.cohort.age >= low) & (women.cohort.age < high))
        outcomes = np.bincount(band.group[band.outcome], minlength=len(SEVERITIES))
        levels = tuple(i for i in range(1, len(SEVERITIES)) if outcomes[i])
        without = [SEVERITIES[i] for i in range(1, len(SEVERITIES)) if not outcomes[i]]
        told = f"Age {name}: {len(band.group):,} women with {outcomes.sum():,} outcomes"
        if outcomes.sum() < FEWEST_OUTCOMES or not outcomes[0] or not levels:
            notes.append(f"{told}, too few for hazard ratios.")
            continue
        compared = replace(band, levels=levels).compared()
        by_severity = compared.severities()
        try:
            fit = compared.cox(by_severity | compared.covariates())
        except UserError as error:
            notes.append(f"{told}: no hazard ratios. {error}")
            continue
        found[name] = of_interest(by_severity, fit.effects())
        if without:
            notes.append(
                f"Age {name}: no outcome among women with {' or '.join(without)} calcification, so"
                " no hazard ratio."
            )
    return found, notes


def age_interaction(women: Women) -> tuple[CurveTest | None, list[str]]:
    """Likelihood ratio test whether hazard ratios of severity differ between age bands; notes.

    Both models leave out women of a band and severity without an outcome.
    """
    compared = women.compared()
    band = np.digitize(compared.cohort.age, [low for low, _, _ in AGE_BANDS[1:]])
    cells = np.zeros((len(AGE_BANDS), len(SEVERITIES)), int)
    # np.add.at, because cells[...] += 1 would count a repeated pair only once.
    np.add.at(cells, (band[compared.outcome], compared.group[compared.outcome]), 1)
    # A ratio needs outcomes on both sides.
    usable = (cells > 0) & (cells[:, :1] > 0) & (cells[:, 1:].sum(axis=1, keepdims=True) > 0)
    keep = usable[band, compared.group]
    kept, band = compared.where(keep), band[keep]
    bands, x = np.unique(band), kept.covariates()
    # Bands need their own terms, or the products would also absorb the effect of age alone.
    if "age" not in women.names:
        x |= {f"age {AGE_BANDS[b][2]}": (band == b).astype(float) for b in bands[1:]}
    levels = kept.severities()
    # [1:]: the first usable band of a severity is the reference of its products.
    pairs = [(b, i) for i in women.levels for b in np.flatnonzero(usable[:, i])[1:]]
    products = {
        f"{SEVERITIES[i]} × {AGE_BANDS[b][2]}": levels[SEVERITIES[i]] * (band == b)
        for b, i in pairs
    }
    few = "The hazard ratios of the age bands are not compared: "
    if not products:
        return None, [f"{few}fewer than two bands have enough outcomes."]
    try:
        base = kept.cox(levels | x)
        full = kept.cox(levels | x | products)
    except UserError as error:
        return None, [f"{few}{error}"]
    chi2, df = 2 * (full.log_likelihood - base.log_likelihood), len(products)
    left = int(np.sum(~keep))
    notes = (
        [
            f"{left:,} women are in an age band and severity without an outcome: the test of"
            " whether hazard ratios differ by age leaves them out."
        ]
        if left
        else []
    )
    # Nested likelihoods may differ by a rounding error below 0.
    return CurveTest(max(chi2, 0.0), df, float(stats.chi2.sf(max(chi2, 0.0), df))), notes


def area_curve(women: Women) -> tuple[dict[str, Effect], CurveTest]:
    """Adjusted hazard ratio of areas against none, from a spline; and Wald's test of its bend."""
    area = women.cohort.area_mm2
    # Most areas are 0, so quantiles of all women would put several knots there.
    knots = np.unique([0.0, *np.quantile(area[area > 0], AREA_QUANTILES)])
    columns = restricted_cubic(AREA, area, knots)
    fit = women.cox(columns | women.covariates())
    size = len(columns)
    ratios, covariance = fit.log_ratios[:size], fit.covariance[:size, :size]
    found = {}
    for at in AREAS_MM2:
        if at <= area.max():
            # At 0 mm² every column of this spline is 0: the row is the contrast with no area.
            row = np.array([c[0] for c in restricted_cubic(AREA, np.array([at]), knots).values()])
            error = float(np.sqrt(row @ covariance @ row))
            name = f"at_{at:g}_mm2"
            found[name] = effect(
                name, float(row @ ratios), error, women=fit.women, outcomes=fit.outcomes
            )
    # A straight line has only the first column, so the test uses the others.
    chi2 = float(ratios[1:] @ np.linalg.solve(covariance[1:, 1:], ratios[1:]))
    return found, CurveTest(chi2, size - 1, float(stats.chi2.sf(chi2, size - 1)))
