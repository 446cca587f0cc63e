"""Report page of a cohort analysis: the tables and figures of a cardiology paper, and notes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from mmv_jax.outcomes.analysis import Analysis
from mmv_jax.outcomes.cox import Effect
from mmv_jax.outcomes.describe import Group
from mmv_jax.outcomes.figures import (
    LEVEL_NAMES,
    calibration,
    decision_curves,
    hazard_ratios,
    incidence,
    ratio_words,
)
from mmv_jax.outcomes.prediction import SCORES
from mmv_jax.outcomes.score_tables import gains_table, moved_table, score_worth
from mmv_jax.outcomes.survival import CurveTest, RestrictedMean
from mmv_jax.report.page import Cell, Section, Table, write_page
from mmv_jax.report.plots import ForestPlot

TASK_NAMES = {
    "cox_unadjusted": "Cox, unadjusted",
    "cox_adjusted": "Cox, adjusted",
    "fine_gray": "Fine–Gray, adjusted",
    "cox_adjusted_imputed": "Cox, adjusted, imputed",
    "cox_area_spline": "Cox, adjusted, spline of the area",
    "cox_pce_adjusted": "Cox, adjusted for the ASCVD score",
    "cox_prevent_adjusted": "Cox, adjusted for PREVENT",
    "cox_prevent_ascvd_adjusted": "Cox, adjusted for PREVENT-ASCVD",
    "cox_prevent_heart_failure_adjusted": "Cox, adjusted for PREVENT-HF",
}
METHOD = (
    (
        "Severity is compared with zero calcification. Covariates that the settings name under"
        " splines enter as restricted cubic splines (age by default), knots at Harrell's quantiles;"
        " the columns of one are tested together. Cox models take ties as Efron did, and a"
        " competing death ends follow-up; Fine and Gray's models give subdistribution hazard ratios"
        " with their robust standard errors. Intervals of hazard ratios are Wald's. A published"
        " score enters a model as its logarithm."
    ),
    (
        "Risks are predicted by Fine and Gray's model for women whom it has not seen (five folds)."
        " The C-index counts a woman who died of another cause as one who never has the outcome;"
        " AUC, reclassification and calibration weigh women by the inverse probability of not being"
        " censored."
    ),
)


def write_outcomes(
    path: Path,
    analysis: Analysis,
    config: str,
    facts: Sequence[tuple[str, str]],
    more: Sequence[Section] = (),
) -> None:
    """Write the page to `path`.

    Args:
      config: printed at the end.
      facts: name and value of what was analysed.
      more: sections of other endpoints.
    """
    women, outcomes = (
        sum(g.women for g in analysis.groups),
        sum(g.outcomes for g in analysis.groups),
    )
    subtitle = (
        f"{analysis.name}: {women:,} women, {outcomes:,} outcomes,"
        f" {sum(g.deaths for g in analysis.groups):,} competing deaths"
    )
    # The sort is stable: what is open comes before what is folded.
    parts = sorted([*sections(analysis, facts), *more], key=lambda part: part.fold)
    write_page(
        path,
        "Calcification and outcomes",
        subtitle,
        verdict=verdict(analysis),
        sections=[*parts, settings_section(config)],
    )


def settings_section(config: str) -> Section:
    """Section with the config, at the end of a page."""
    return Section("Settings", pre=config, pre_title="config", fold=True)


def verdict(analysis: Analysis) -> list[str]:
    """Main findings in sentences."""
    adjusted = analysis.effects["cox_adjusted"]
    severe = [level for level in ("severe", "moderate", "mild") if level in adjusted][0]
    effect, known = adjusted[severe], ", ".join(analysis.adjust)
    change = (
        "a higher"
        if effect.ci95[0] > 1
        else "a lower"
        if effect.ci95[1] < 1
        else "no significantly different"
    )
    sentences = [
        f"Women with {severe} calcification had {change}"
        f" hazard{' from that' if change.startswith('no') else ' than that'} of women with none"
        + (f", adjusted for {known}" if known else "")
        + f": hazard ratio {ratio_words(effect)}."
    ]
    # The last test is the global one. The limit is Bonferroni-corrected for all of them.
    broken = [
        test.name
        for test in analysis.proportionality[:-1]
        if test.p < 0.05 / len(analysis.proportionality)
    ]
    if broken:
        sentences.append(
            f"The hazard ratio of {', '.join(broken)} changes with time: read it as an average over"
            " follow-up."
        )
    if analysis.notes:
        sentences.append(
            f"See “What to know” for {len(analysis.notes)} note(s): who and what was left"
            " out, and what in the file may be a mistake."
        )
    return sentences


def sections(analysis: Analysis, facts: Sequence[tuple[str, str]] = ()) -> list[Section]:
    """Sections of the page, the main results first; `facts` say what was analysed."""
    years, left = analysis.at_risk_years, analysis.at_risk
    complement = [curve.complement() for curve in analysis.survival]
    parts = [
        Section(
            "Incidence by severity",
            [
                "One minus Kaplan–Meier (deaths of other causes censored), then cumulative"
                " incidence with those deaths competing.",
                _curve_tests(analysis),
                _follow_up(analysis),
            ],
            tables=[_restricted_means(analysis)] if analysis.restricted_means else [],
            figures=[
                incidence(complement, years, left, "1 − Kaplan–Meier"),
                incidence(analysis.incidence, years, left, "cumulative incidence"),
            ],
        ),
        Section(
            "Hazard ratios",
            _area_bends(analysis),
            tables=[ratios(analysis.effects)],
            figures=[_forest(analysis.effects)],
        ),
        Section("The women", tables=[baseline(analysis.groups)]),
        *([Section("What was analysed", facts=facts)] if facts else []),
    ]
    if analysis.by_age:
        named = {f"age {band}": effects for band, effects in analysis.by_age.items()}
        parts.append(
            Section(
                "By age",
                ["Adjusted Cox models within each age.", _interaction(analysis)],
                figures=[hazard_ratios(named, "adjusted hazard ratio")],
                fold=True,
            )
        )
    if analysis.added.worth:
        horizons = list(analysis.added.worth[0].calibration)
        figures = [f for h in horizons for f in calibration(analysis.added.worth, h)]
        figures += [
            decision_curves(curve, SCORES[name])
            for name, gain in analysis.added.beyond.items()
            for curve in gain.decisions
        ]
        parts.append(
            Section(
                "What calcification adds to the known risk",
                tables=_worth_tables(analysis),
                figures=figures,
                fold=True,
            )
        )
    title = "Are the hazards proportional?"
    parts.append(Section(title, tables=[_proportionality(analysis)], fold=True))
    return [*parts, Section("What to know", [*analysis.notes, *METHOD], fold=True)]


def _curve_tests(analysis: Analysis) -> str:
    said = f"Do the curves differ? Log-rank test of the hazards: {_test(analysis.log_rank)}."
    if analysis.gray is None:
        return said
    return f"{said} Gray's test of the cumulative incidences: {_test(analysis.gray)}."


def _follow_up(analysis: Analysis) -> str:
    median, low, high = (
        f"{x:.1f}" if np.isfinite(x) else "not reached" for x in analysis.follow_up
    )
    return f"Median follow-up (reverse Kaplan–Meier): {median} years ({low}–{high})."


def _interaction(analysis: Analysis) -> str:
    if analysis.interaction is None:
        return "Whether the hazard ratios differ between ages could not be tested."
    return (
        "Do the hazard ratios differ between ages? Likelihood ratio test of severity × age:"
        f" {_test(analysis.interaction)}."
    )


def _area_bends(analysis: Analysis) -> list[str]:
    if analysis.area_bends is None:
        return []
    return [f"Does the effect of the area bend? Wald's test: {_test(analysis.area_bends)}."]


def _restricted_means(analysis: Analysis) -> Table:
    means = analysis.restricted_means
    reference = means.get("zero")
    lines = []
    for name, mean in means.items():
        lost = reference - mean if reference is not None and name != "zero" else None
        lines.append([Cell(name), _years(mean), _years(lost, signed=True) if lost else Cell("—")])
    years = next(iter(means.values())).years
    head = f"mean years without the outcome, of {years:g}"
    return Table(["", head, "years lost against zero"], lines)


def _years(mean: RestrictedMean, signed: bool = False) -> Cell:
    value, low, high = (
        f"{x:{'+' if signed else ''}.2f}".replace("-", "−") for x in (mean.value, *mean.ci95)
    )
    return Cell(value, f"{low} to {high}")


def _test(test: CurveTest) -> str:
    return f"χ² {test.chi2:.1f} on {test.df} degrees of freedom, {_p(test.p)}"


def baseline(groups: Sequence[Group]) -> Table:
    """Table 1: the women of each severity."""
    rows = [
        ("women", lambda g: f"{g.women:,}"),
        # name=name binds immediately; otherwise every line would show the last covariate.
        *((name, lambda g, name=name: _described(g, name)) for name in groups[0].covariates),
        (
            "area, mm²: median (quartiles)",
            lambda g: "{1:.1f} ({0:.1f}–{2:.1f})".format(*g.area_mm2),
        ),
        ("outcomes", lambda g: f"{g.outcomes:,}"),
        ("competing deaths", lambda g: f"{g.deaths:,}"),
        ("woman-years", lambda g: f"{g.woman_years:,.0f}"),
        ("outcomes per 1,000 woman-years", _rate),
    ]
    return Table(
        ["", *(g.name for g in groups)],
        [[Cell(name), *(Cell(words(g)) for g in groups)] for name, words in rows],
    )


def ratios(effects: Mapping[str, Mapping[str, Effect]]) -> Table:
    """Table 2: hazard ratios with a line per level and a column per model."""
    levels = list(effects["cox_unadjusted"])
    lines = [
        [
            Cell(LEVEL_NAMES[level]),
            *(
                Cell(ratio_words(found[level]), _p(found[level].p)) if level in found else Cell("—")
                for found in effects.values()
            ),
        ]
        for level in levels
    ]
    return Table(["", *(TASK_NAMES[task] for task in effects)], lines)


def _forest(effects: Mapping[str, Mapping[str, Effect]]) -> ForestPlot:
    return hazard_ratios(
        {TASK_NAMES[task]: found for task, found in effects.items()}, "hazard ratio"
    )


def _worth_tables(analysis: Analysis) -> list[Table]:
    added = analysis.added
    tables = [score_worth(added.worth)]
    gains = ({"the covariates": added.gain} if added.gain else {}) | {
        SCORES[name]: gain.differences for name, gain in added.beyond.items()
    }
    if gains:
        tables.append(gains_table(gains))
    moved = {"covariates": added.reclassification} if added.reclassification else {}
    moved |= {SCORES[name]: gain.moved for name, gain in added.beyond.items() if gain.moved}
    return [*tables, *([moved_table(moved)] if moved else [])]


def _proportionality(analysis: Analysis) -> Table:
    lines = [
        [
            Cell(t.name),
            Cell(f"{t.chi2:.2f}"),
            Cell(f"{t.df}"),
            Cell(_p(t.p), tone="bad" if t.p < 0.05 else ""),
        ]
        for t in analysis.proportionality
    ]
    return Table(["covariate", "χ²", "df", "p"], lines)


def _described(group: Group, name: str) -> str:
    described = group.covariates[name]
    return (
        f"{described.first:,.0f} ({100 * described.second:.1f} %)"
        if described.binary
        else f"{described.first:.1f} ± {described.second:.1f}"
    )


def _rate(group: Group) -> str:
    """Rate with the exact interval of a Poisson count; none for a group without follow-up."""
    if not group.woman_years:
        return "—"
    # Garwood's limits of a count d: half the χ² quantiles at 2 d and at 2 d + 2.
    low = stats.chi2.ppf(0.025, 2 * group.outcomes) / 2 if group.outcomes else 0.0
    high = stats.chi2.ppf(0.975, 2 * group.outcomes + 2) / 2
    per = 1000 / group.woman_years
    return f"{group.outcomes * per:.1f} ({low * per:.1f}–{high * per:.1f})"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
