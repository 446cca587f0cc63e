"""Statements beside the figures of a cohort: its flow of women, and what of STROBE is fulfilled."""

from collections.abc import Mapping
from typing import Any

from mmv_jax.outcomes.analysis import Analysis
from mmv_jax.outcomes.apart import DEFINITIONS, EndpointResult
from mmv_jax.outcomes.flow import flow_section
from mmv_jax.report.checklist import (
    BY_AUTHOR,
    NO,
    PARTLY,
    SIZE_NOT_PLANNED,
    STROBE,
    YES,
    Answer,
    ChecklistItem,
    answered,
    as_protocol,
    checklist_section,
    reloaded_section,
)
from mmv_jax.report.page import Section

NO_CATEGORY = "hazard ratios and risks over time are in none of its four categories"
IMPUTED = "cox_adjusted_imputed"


def state_cohort(
    analysis: Analysis,
    endpoint: str,
    *,
    endpoints: Mapping[str, EndpointResult] | None = None,
    definitions: Mapping[str, EndpointResult] | None = None,
) -> tuple[dict[str, Any], list[Section]]:
    """The contents of `protocol.json` of a cohort table, and the sections of flow and checklists.

    No image is read, so that CLAIM has no say: STROBE's items for cohort studies stand in its
    place.

    Args:
      endpoint: meaning of event 1; "" if nobody says it.
      endpoints, definitions: as of `apart.side_by_side`.
    """
    apart, defined = endpoints or {}, definitions or {}
    items, reloaded = strobe(analysis, endpoint), [outcomes_item()]
    flow = analysis.flow.as_json() | {
        name: {key: result.flow.as_json() for key, result in results.items()}
        for name, results in (("endpoints", apart), ("definitions", defined))
        if results
    }
    # The first endpoint is the main analysis, whose line stands already.
    others = {name: result.flow for name, result in list(apart.items())[1:]}
    others |= {DEFINITIONS[name].title: result.flow for name, result in defined.items()}
    return as_protocol(flow, strobe_2007=items, metrics_reloaded=reloaded), [
        flow_section(analysis.flow, others),
        checklist_section("STROBE", items),
        reloaded_section(reloaded),
    ]


def outcomes_item() -> ChecklistItem:
    """What Metrics Reloaded says of outcomes."""
    return ChecklistItem("outcomes", "category", NO, NO_CATEGORY)


def strobe(analysis: Analysis, endpoint: str) -> list[ChecklistItem]:
    """The items of STROBE for cohort studies."""
    return answered(STROBE, _of_methods(analysis, endpoint) | _of_results(analysis))


def _of_methods(analysis: Analysis, endpoint: str) -> dict[str, Answer]:
    """Items 1 to 12."""
    # A published score is compared for a named endpoint alone, and so is this item judged.
    unsaid = "covariates and severities; the setting `endpoint` does not say what the event is"
    by_age = (YES, "By age: severity × age is tested") if analysis.interaction else None
    return {
        "1": (PARTLY, "title; the summary is the author's"),
        **dict.fromkeys(("2", "3", "4", "5", "6"), BY_AUTHOR),
        "7": (YES, f"endpoint {endpoint}; covariates in Settings")
        if endpoint
        else (PARTLY, unsaid),
        "8": (PARTLY, "What was analysed; how each column came about is the author's"),
        "9": (PARTLY, "entry, index examination and competing deaths; the rest is the author's"),
        "10": SIZE_NOT_PLANNED,
        "11": (YES, "splines and thresholds in Settings"),
        "12a": (YES, "What to know; adjust in Settings"),
        "12b": by_age or (NO, "too few outcomes by age"),
        "12c": _missing(analysis),
        "12d": (YES, "censored; median follow-up by the reverse Kaplan–Meier estimate"),
        "12e": (YES, "Fine–Gray beside Cox; each severity by age"),
    }


def _missing(analysis: Analysis) -> Answer:
    # Only incomplete women are left out by column.
    if not any(left.by_column for left in analysis.flow.left):
        return YES, "no covariate is missing"
    if IMPUTED in analysis.effects:
        return YES, "complete cases; beside them multiple imputation"
    return PARTLY, "complete cases only"


def _of_results(analysis: Analysis) -> dict[str, Answer]:
    """Items 13 to 22."""
    more = bool(analysis.by_age or analysis.added.worth)
    # Restricted means need every severity to reach the horizon.
    absolute = "cumulative incidence"
    absolute += "; years lost against zero" if analysis.restricted_means else ""
    return {
        **dict.fromkeys(("13a", "13b", "13c"), (YES, "Flow of women")),
        "14a": (YES, "The women"),
        "14b": (YES, "Flow of women"),
        "14c": (YES, "Incidence by severity"),
        "15": (YES, "The women: by severity"),
        "16a": (YES, "Hazard ratios"),
        "16b": (YES, "thresholds in Settings"),
        "16c": (YES, absolute),
        "17": (YES, "By age; what is added to the known risk") if more else (NO, "none"),
        "18": (PARTLY, "the sentences above the results; the objectives are the author's"),
        "19": (PARTLY, "What to know"),
        **dict.fromkeys(("20", "21", "22"), BY_AUTHOR),
    }
