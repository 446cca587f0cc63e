"""Endpoints set side by side, and the definitions of the paper's two versions. Axis: N women."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.outcomes.analysis import Analysis, Columns, late, ready
from mmv_jax.outcomes.cohort import Cohort, Left, severity
from mmv_jax.outcomes.cox import Effect
from mmv_jax.outcomes.flow import CohortFlow
from mmv_jax.outcomes.prediction import Added, enough, worth_of_scores
from mmv_jax.outcomes.ratios import (
    Women,
    hazard_ratios,
    levels_with_outcomes,
    of_interest,
    ratios_beside_scores,
)
from mmv_jax.outcomes.risk import women_scores


@dataclass(frozen=True)
class Definition:
    """What a version of the paper analysed, as its abstract says.

    Attributes:
      endpoint: a key of `endpoints.ENDPOINTS`. score: the published risk that it adjusts for.
      least_years: women without an outcome count only if they were followed so long; 0: all do.
    """

    title: str
    endpoint: str
    score: str
    least_years: float = 0.0


# The abstract of the journal's version does not say whether death is one of its outcomes, so both
# readings are shown. Its Fine and Gray models need a reading in which death competes.
DEFINITIONS = {
    "preprint": Definition(
        "Preprint (arXiv 2503.14550): infarction, stroke, heart failure or death; women with an"
        " outcome or five years of follow-up",
        endpoint="mace",
        score="pce",
        least_years=5.0,
    ),
    "preprint_all_women": Definition("The same, of all women", endpoint="mace", score="pce"),
    "journal_with_death": Definition(
        "Journal (Eur Heart J 2026, ehag128), death among the outcomes",
        endpoint="mace",
        score="prevent",
    ),
    "journal_death_competing": Definition(
        "Journal (Eur Heart J 2026, ehag128), death competing",
        endpoint="mace_without_death",
        score="prevent",
    ),
}


@dataclass(frozen=True)
class EndpointResult:
    """What was found of one endpoint, or by one definition; `effects[task][level]` as of
    `Analysis`.
    """

    flow: CohortFlow
    effects: Mapping[str, Mapping[str, Effect]]
    added: Added = Added()
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, analysis: Analysis) -> "EndpointResult":
        """The main endpoint, which was analysed as a whole. Its notes stand elsewhere."""
        return cls(
            flow=analysis.flow,
            effects=analysis.effects,
            added=replace(
                analysis.added,
                # The last of `worth` are the scores; before them stand this cohort's own models.
                worth=[w for w in analysis.added.worth if not w.name.startswith("covariates")],
            ),
        )


def endpoint_result(
    name: str,
    cohort: Cohort,
    *,
    adjust: Sequence[str],
    thresholds: Sequence[float | int],
    horizons: Sequence[float | int],
    splines: Sequence[str],
) -> EndpointResult:
    """The hazard ratios of an endpoint, and what calcification adds to the scores that were made
    for it.

    Raises:
      UserError: its models by severity cannot be fitted.
    """
    women, scores, notes = _women(cohort, name, adjust, thresholds=thresholds, splines=splines)
    effects, _, fit_notes = hazard_ratios(women)
    beside, score_notes = ratios_beside_scores(women, scores)
    time, event, added = women.cohort.time_years, women.cohort.event, Added()
    if scores and not late(women.cohort):
        years = [float(h) for h in horizons if enough(time, event, float(h))]
        added = worth_of_scores(
            time, event, scores, calcification=women.severities(), horizons=years
        )
    return EndpointResult(
        flow=CohortFlow.of(women.cohort, women.group, women.levels),
        effects=effects | beside,
        added=added,
        notes=(*women.cohort.notes, *notes, *fit_notes, *score_notes, *added.notes),
    )


def by_definition(
    definition: Definition,
    cohort: Cohort,
    *,
    adjust: Sequence[str],
    thresholds: Sequence[float | int],
    splines: Sequence[str],
) -> EndpointResult:
    """The hazard ratios of severity by a definition: unadjusted, adjusted for `adjust`, and for the
    definition's score alone; where death competes, Fine and Gray's as well.

    Raises:
      UserError: the models by severity cannot be fitted.
    """
    followed = (cohort.event == 1) | (cohort.time_years >= definition.least_years)
    # Who is followed too briefly has had no outcome: see `followed`.
    brief = Left(
        f"followed for less than {definition.least_years:g} years", int((~followed).sum()), 0
    )
    chosen = cohort.where(followed).without(brief) if definition.least_years else cohort
    women, _, notes = _women(chosen, "", adjust, thresholds=thresholds, splines=splines)
    effects, _, fit_notes = hazard_ratios(women)
    if not np.any(women.cohort.event == 2):
        effects.pop("fine_gray", None)  # it is Cox's model where nothing competes
    # A score adjusts for the known risk here. How well it predicts is asked of its own endpoint.
    scores = women_scores(women.cohort.age, women.cohort.covariates)[0]
    risk = scores.get(definition.score)
    if risk is None:
        notes = [*notes, f"No column for every input of the {definition.score} risk."]
    else:
        beside, more = ratios_beside_scores(women, {definition.score: risk})
        effects |= beside
        notes = [*notes, *more]
        if np.any(women.cohort.event == 2):
            effects |= _fine_gray_beside(women, definition.score, risk)
    return EndpointResult(
        flow=CohortFlow.of(women.cohort, women.group, women.levels),
        effects=effects,
        notes=(*notes, *fit_notes),
    )


def side_by_side(
    cohorts: Mapping[str, Cohort],
    main: Analysis,
    *,
    adjust: Sequence[str],
    thresholds: Sequence[float | int],
    horizons: Sequence[float | int],
    splines: Sequence[str],
) -> tuple[dict[str, EndpointResult], dict[str, EndpointResult], list[str]]:
    """(results by endpoint, by definition, notes). One that cannot be fitted costs its own line.

    Args:
      main: the analysis of the first of `cohorts`.
    """
    endpoints, definitions, notes = {}, {}, list[str]()
    rules: dict[str, Any] = {"adjust": adjust, "thresholds": thresholds, "splines": splines}
    for n, (name, cohort) in enumerate(cohorts.items()):
        try:
            endpoints[name] = (
                endpoint_result(name, cohort, horizons=horizons, **rules)
                if n
                else EndpointResult.of(main)
            )
        except UserError as error:
            notes.append(f"{name}: not analysed. {error}")
    for name, definition in DEFINITIONS.items():
        if definition.endpoint in cohorts:
            try:
                definitions[name] = by_definition(definition, cohorts[definition.endpoint], **rules)
            except UserError as error:
                notes.append(f"Definition {name}: not analysed. {error}")
    # What is true of the file is told once, with the main analysis.
    said = set(main.notes)
    for name, result in {**endpoints, **definitions}.items():
        # A note of `read_endpoints` begins with the endpoint's name.
        notes += [
            note if note.startswith(f"{name}: ") else f"{name}: {note}"
            for note in result.notes
            if note not in said
        ]
    return endpoints, definitions, notes


def _women(
    cohort: Cohort,
    endpoint: str,
    adjust: Sequence[str],
    *,
    thresholds: Sequence[float | int],
    splines: Sequence[str],
) -> tuple[Women, Columns, list[str]]:
    names = cohort.names_of(adjust)
    kept, scores = ready(cohort, names, endpoint)
    group = severity(kept.area_mm2, thresholds)
    levels, notes = levels_with_outcomes(kept, group)
    women = Women(cohort=kept, group=group, levels=levels, names=names, splines=tuple(splines))
    return women, scores, notes


def _fine_gray_beside(women: Women, name: str, risk: np.ndarray) -> dict[str, dict[str, Effect]]:
    """Of severity, adjusted for the logarithm of a published risk; {} where it has no maximum."""
    known = np.isfinite(risk) & np.isin(women.group, (0, *women.levels))
    theirs = women.where(known)
    by_severity = theirs.severities()
    try:
        fit = theirs.fine_gray({**by_severity, f"ln {name}": np.log(risk[known])})
    except UserError:
        return {}  # Cox's model of the same women has told why
    return {f"fine_gray_{name}_adjusted": of_interest(by_severity, fit.effects())}
