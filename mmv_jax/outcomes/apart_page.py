"""Endpoints side by side, and the paper's definitions, as parts of a page and of metrics.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmv_jax.outcomes.analysis import ratios_as_json, scores_as_json
from mmv_jax.outcomes.apart import DEFINITIONS, EndpointResult
from mmv_jax.outcomes.figures import LEVEL_NAMES, hazard_ratios, ratio_words
from mmv_jax.outcomes.page import TASK_NAMES
from mmv_jax.outcomes.score_tables import score_gains, score_worth
from mmv_jax.report.page import Cell, Section, Table

NAMES = {
    "mace": "infarction, stroke, heart failure or death",
    "mace_without_death": "infarction, stroke or heart failure",
    "infarction": "infarction",
    "stroke": "stroke",
    "heart_failure": "heart failure",
    "death": "death of any cause",
    "ascvd": "infarction, stroke or coronary death",
    "cvd": "infarction, stroke, coronary death or heart failure",
}
LEVELS = ("mild", "moderate", "severe", "per_mm2")
MODELS = {
    **TASK_NAMES,
    "fine_gray_pce_adjusted": "Fine–Gray, adjusted for the ASCVD score",
    "fine_gray_prevent_adjusted": "Fine–Gray, adjusted for PREVENT",
}


def apart_sections(
    endpoints: Mapping[str, EndpointResult],
    definitions: Mapping[str, EndpointResult],
    notes: Sequence[str],
) -> list[Section]:
    """The endpoints' hazard ratios, scores each against its own endpoint, the definitions."""
    forest = {NAMES[name]: result.effects["cox_adjusted"] for name, result in endpoints.items()}
    sections = [
        Section(
            "Endpoints apart",
            [
                "Each endpoint has its own competing risk: death, where it is no part of the"
                " endpoint, ends follow-up in Cox's models and competes in Fine and Gray's."
            ],
            tables=[_ratios({NAMES[name]: result for name, result in endpoints.items()})],
            figures=[hazard_ratios(forest, "adjusted hazard ratio")],
        )
    ]
    scored = {name: result for name, result in endpoints.items() if result.added.worth}
    if scored:
        tables = []
        for name, result in scored.items():
            tables += [score_worth(result.added.worth, NAMES[name])]
            if result.added.beyond:
                tables += score_gains(result.added.beyond, NAMES[name])
        sections.append(
            Section(
                "Each score against its own endpoint",
                [
                    "A published score is judged on the endpoint that it was made for and on no"
                    " other. What calcification adds is that of a model of the score and severity"
                    " over one of the score alone, for women whom neither has seen."
                ],
                tables=tables,
                fold=True,
            )
        )
    if definitions:
        sections.append(
            Section(
                "By the paper's definitions",
                [
                    "The two versions of the paper differ in women, outcome and adjustment, so"
                    " their ratios are not of one quantity. These are this cohort's, by each.",
                    "To count a woman without an outcome only after five years of follow-up looks"
                    " into her future: compare with the line of all women.",
                ],
                tables=[
                    _ratios({DEFINITIONS[name].title: found for name, found in definitions.items()})
                ],
            )
        )
    if notes:
        sections.append(Section("What to know of the endpoints", list(notes), fold=True))
    return sections


def apart_metrics(
    endpoints: Mapping[str, EndpointResult], definitions: Mapping[str, EndpointResult]
) -> dict:
    """Tasks `<endpoint>/<task>` and `<definition>/<task>`, in the form of `metrics.json`."""
    found: dict[str, Any] = {}
    for name, result in {**endpoints, **definitions}.items():
        own = ratios_as_json(result.effects) | scores_as_json(result.added)
        found |= {f"{name}/{task}": values for task, values in own.items()}
    return found


def apart_lines(endpoints: Mapping[str, EndpointResult]) -> list[str]:
    """The adjusted hazard ratios of each endpoint, for the terminal."""
    lines = [f"{'endpoint, Cox adjusted':<36}{'level':<12}hazard ratio"]
    for name, result in endpoints.items():
        lines += [
            f"{name:<36}{level:<12}{e.hazard_ratio:.3f} [{e.ci95[0]:.3f}, {e.ci95[1]:.3f}]"
            for level, e in result.effects["cox_adjusted"].items()
        ]
    return lines


def _ratios(results: Mapping[str, EndpointResult]) -> Table:
    """A line a model of each result; the first line of each says how many women it is of."""
    lines = []
    for title, result in results.items():
        flow = result.flow
        counts = f"{flow.women:,} women, {flow.outcomes:,} outcomes"
        counts += f", {flow.deaths:,} competing deaths" if flow.deaths else ""
        lines.append([Cell(title, counts), *(Cell("") for _ in LEVELS)])
        for task, effects in result.effects.items():
            if task in MODELS and set(effects) & set(LEVELS):
                words = [
                    Cell(*ratio_words(effects[level]).split(" ", 1))
                    if level in effects
                    else Cell("—")
                    for level in LEVELS
                ]
                lines.append([Cell(MODELS[task]), *words])
    return Table(["", *(LEVEL_NAMES[level] for level in LEVELS)], lines)
