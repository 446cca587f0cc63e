"""Statements beside the results of mammograms: flow, and which items of CLAIM, Metrics Reloaded and
STROBE the evaluation fulfils.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmv_jax.bac.flow import MammogramFlow, flow_section
from mmv_jax.outcomes.analysis import Analysis
from mmv_jax.outcomes.flow import flow_section as women_section
from mmv_jax.outcomes.stated import outcomes_item, strobe
from mmv_jax.report.about import NOT_STATED, Studies
from mmv_jax.report.checklist import (
    CLAIM,
    NO,
    OF_ANY_EVALUATION,
    PARTLY,
    YES,
    Answer,
    ChecklistItem,
    answered,
    as_protocol,
    checklist_section,
    reloaded_section,
)
from mmv_jax.report.page import Section

INTERVALS = "95 % intervals by woman; shares exact"


@dataclass(frozen=True)
class Evaluated:
    """The contents of an evaluation of mammograms that an item may ask for.

    Attributes:
      metrics: names that are measured, by task; empty without a truth.
      analysis: of a cohort, if there is one.
      drawn: whether outlines are shown.
    """

    studies: Studies
    flow: MammogramFlow
    metrics: Mapping[str, Mapping[str, Any]]
    analysis: Analysis | None
    drawn: bool


def state_mammograms(found: Evaluated) -> tuple[dict[str, Any], list[Section]]:
    """The contents of `protocol.json`, and the sections of flow and checklists."""
    flow, items = found.flow.as_json(), claim(found)
    reloaded, sections = metrics_reloaded(found), [flow_section(found.flow)]
    of_cohort: dict[str, list[ChecklistItem]] = {}
    if found.analysis:
        women = found.analysis.flow
        # Every line of a cohort is of a woman with mammograms: others are refused as mistakes.
        not_in_it = found.flow.women.read - women.lines
        flow["cohort"] = {"measured_and_not_in_the_file": not_in_it, **women.as_json()}
        of_cohort = {"strobe_2007": strobe(found.analysis, "")}
        reloaded.append(outcomes_item())
        sections.append(women_section(women, {}))
    protocol = as_protocol(flow, claim_2024=items, metrics_reloaded=reloaded, **of_cohort)
    sections.append(checklist_section("CLAIM", items))
    sections += [checklist_section("STROBE", own) for own in of_cohort.values()]
    return protocol, [*sections, reloaded_section(reloaded)]


def claim(found: Evaluated) -> list[ChecklistItem]:
    """The 44 items of CLAIM 2024."""
    return answered(CLAIM, OF_ANY_EVALUATION | _of_methods(found) | _of_results(found))


def _of_methods(found: Evaluated) -> dict[str, Answer]:
    """Of items 1 to 27, those that depend on what was evaluated."""
    # A truth that nobody states may be anything, also where areas agree with it.
    studies = found.studies
    known = bool(found.metrics) and NOT_STATED not in studies.truth
    truth = (YES if known else NO, studies.truth if found.metrics else "no truth was given")
    unseen = "patients: two splits are refused; whom the model was fitted to is not compared"
    return {
        "1": (PARTLY, "title; What was evaluated"),
        "6": (PARTLY, "agreement with the truth, or outcomes; the aim is the author's"),
        "7": (NO if studies.data == NOT_STATED else YES, f"What was evaluated: {studies.data}"),
        "8": (YES, "Flow of mammograms; `splits` in Settings"),
        "9": (YES, "the checkpoint's config; rules of measuring in Settings"),
        "10": (YES, "Flow of mammograms"),
        "11": (YES, "no name, date or path is written; women are numbered"),
        "12": (YES, "counted by reason; an unknown spacing makes an area unknown, not zero"),
        **dict.fromkeys(("14", "16", "17"), truth),
        "18": (NO, "one truth a mammogram"),
        "19": (YES, "column `split` of the manifest"),
        "20": (PARTLY, unseen),
        "25": (YES, "the checkpoint's config"),
        "26": (PARTLY, "rules of measuring in Settings; on whom they were chosen is the author's"),
        "27": (YES, "none; an image and its mirror image are averaged"),
    }


def _of_results(found: Evaluated) -> dict[str, Answer]:
    """Of items 28 to 44, those that depend on what was evaluated."""
    # Without a truth an evaluation is of outcomes alone.
    compared, analysis = bool(found.metrics), found.analysis
    # Errors by vendor, thickness and the like are tasks of their own.
    grouped = any(task.startswith("bac_views_by_") for task in found.metrics)
    groups = "Other rules of measuring" + ("; errors by condition" if grouped else "")
    shown = (PARTLY, "outlines of views drawn evenly") if found.drawn else (NO, "none")
    where = "above" if compared else "Hazard ratios"
    return {
        "28": (YES, where),
        "29": (YES, INTERVALS if compared else "95 % intervals"),
        "30": (YES, groups) if compared else (NO, "no truth to compare other rules with"),
        "31": shown,
        "32": (YES, "women of the manifest"),
        "33": (NO, "one manifest; another population is another evaluation"),
        "35": (YES, "Flow of mammograms"),
        "36": (PARTLY, "The women, by severity") if analysis else (NO, "no cohort was given"),
        "37": (YES, where) if compared else (NO, "no truth was given"),
        "38": _accuracy(found),
        "39": (PARTLY, "views drawn evenly; the worst are not sought") if found.drawn else shown,
        "40": (PARTLY, "notices; Remarks on the images"),
    }


def _accuracy(found: Evaluated) -> Answer:
    women = _of(found, "bac_women")
    shares = [name for name in ("sensitivity", "zero_specificity") if name in women]
    if len(shares) == 2:
        return YES, "sensitivity and specificity of any calcification, with exact intervals"
    if not shares:
        return NO, "no truth was given"
    return PARTLY, f"{shares[0]} alone: women of the other kind are missing"


def metrics_reloaded(found: Evaluated) -> list[ChecklistItem]:
    """The points of Metrics Reloaded: of calcified pixels, of severity and of areas."""
    if not found.metrics:
        return [ChecklistItem("area", "category", NO, "nothing is compared with a truth")]
    views, women = _of(found, "bac_views"), _of(found, "bac_women")
    # A view without calcification has no Dice.
    calcified = views["dice"]["n"] if "dice" in views else 0
    free = (YES, "specificity by woman") if "zero_specificity" in women else None
    severities = found.flow.women.by_true_severity
    of_pixels: dict[str, Answer] = {
        "category": (YES, "semantic segmentation"),
        "overlap": (YES, "Dice") if calcified else (NO, "no view is calcified"),
        "boundary": (NO, "not measured: the answer is an area"),
        "centreline of thin structures": (NO, "not measured"),
        "studies without the structure handled by themselves": free or (NO, "there are none"),
        "one value a study, then the mean": (YES, f"{calcified} views are calcified"),
        "uncertainty by patient": (YES, INTERVALS),
    }
    of_severity: dict[str, Answer] = {
        "category": (YES, "image-level classification, by woman"),
        "counting at a chosen threshold": (YES, "accuracy, sensitivity and specificity"),
        "ordered classes": (YES, "weighted kappa")
        if "severity_kappa" in women
        else (NO, "one severity for all"),
        "ranking (multi-threshold)": (NO, "not measured"),
        "calibration": (NO, "an area is no probability"),
        "prevalence stated": (YES, ", ".join(f"{name} {n}" for name, n in severities.items())),
        "uncertainty by patient": (YES, INTERVALS),
    }
    of_area = {"category": (NO, "an area in mm² is in none of its four categories")}
    tasks = {"calcified pixels": of_pixels, "severity": of_severity, "area": of_area}
    return [
        ChecklistItem(task, asks, *answer)
        for task, points in tasks.items()
        for asks, answer in points.items()
    ]


def _of(found: Evaluated, task: str) -> Mapping[str, Any]:
    return found.metrics.get(task, {}).get("trained", {})
