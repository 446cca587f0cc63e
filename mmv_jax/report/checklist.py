"""Checklists of reporting: their items in our own words, an evaluation's answers, as tables.

Sources: CLAIM, Tejani et al., Checklist for Artificial Intelligence in Medical Imaging, 2024 update
(Radiology: AI 6(4), e240300); STROBE, von Elm et al., the items for cohort studies (PLoS Medicine
4(10), e296, 2007).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmv_jax.report.page import Cell, Section, Table

YES, PARTLY, NO, AUTHOR = "yes", "partly", "no", "the author's"
BY_AUTHOR = (AUTHOR, "of the paper, not of an evaluation")
TONES = {YES: "good", PARTLY: "", NO: "bad", AUTHOR: ""}
Answer = tuple[str, str]  # whether an item is fulfilled, and where, or why not

# The order is that of the checklist: tables and protocol.json follow it.
CLAIM = {
    "1": "named as a study of AI, with the kind of method",
    "2": "structured summary",
    "3": "background, intended use and role",
    "4": "aims and hypotheses",
    "5": "prospective or retrospective",
    "6": "goal of the study",
    "7": "sources of data",
    "8": "inclusion and exclusion",
    "9": "preprocessing",
    "10": "selection of subsets of the data",
    "11": "de-identification",
    "12": "how missing data were handled",
    "13": "protocol of acquisition",
    "14": "how the reference standard was obtained",
    "15": "why that reference standard",
    "16": "source of the annotations, and who made them",
    "17": "annotation of the test set",
    "18": "variability between and within readers",
    "19": "how data were assigned to partitions",
    "20": "level at which partitions are disjoint",
    "21": "intended sample size",
    "22": "the model",
    "23": "software",
    "24": "initialisation of the parameters",
    "25": "training",
    "26": "how the final model was chosen",
    "27": "ensembles",
    "28": "metrics",
    "29": "significance and uncertainty",
    "30": "robustness or sensitivity analysis",
    "31": "explainability",
    "32": "evaluation on internal data",
    "33": "testing on external data",
    "34": "registration of a trial",
    "35": "numbers included and excluded",
    "36": "demographic and clinical characteristics by partition",
    "37": "performance, with its uncertainty",
    "38": "diagnostic accuracy, with its precision",
    "39": "failures",
    "40": "limitations",
    "41": "implications for practice",
    "42": "full protocol",
    "43": "availability of software, model and data",
    "44": "funding",
}
SIZE_NOT_PLANNED: Answer = (NO, "not planned; intervals say what the size allows")
# Answers to CLAIM that no evaluation of a checkpoint changes.
OF_ANY_EVALUATION: dict[str, Answer] = {
    **dict.fromkeys(("2", "3", "4", "5", "13", "15", "34", "41", "44"), BY_AUTHOR),
    "21": SIZE_NOT_PLANNED,
    "22": (YES, "the checkpoint's config"),
    "23": (YES, "What was evaluated"),
    "24": (YES, "the checkpoint and its digest"),
    "42": (YES, "protocol.json and the config"),
    "43": (PARTLY, "software and versions; the rest is the author's"),
}
# Items of several parts have a letter each, as in the statement.
STROBE = {
    "1": "design named in the title; summary",
    "2": "background and rationale",
    "3": "objectives and hypotheses",
    "4": "study design",
    "5": "setting, places and dates",
    "6": "eligibility, selection and follow-up of participants",
    "7": "outcomes, exposures, confounders and effect modifiers defined",
    "8": "source and measurement of each variable",
    "9": "potential sources of bias",
    "10": "how the study size was arrived at",
    "11": "how quantitative variables were handled and grouped",
    "12a": "statistical methods, with control for confounding",
    "12b": "methods for subgroups and interactions",
    "12c": "how missing data were addressed",
    "12d": "how loss to follow-up was addressed",
    "12e": "sensitivity analyses",
    "13a": "numbers at each stage",
    "13b": "reasons for leaving at each stage",
    "13c": "flow diagram",
    "14a": "characteristics of participants",
    "14b": "missing data of each variable",
    "14c": "follow-up time",
    "15": "outcome events",
    "16a": "unadjusted and adjusted estimates, with their precision",
    "16b": "boundaries of categories",
    "16c": "absolute risk over a meaningful time",
    "17": "other analyses",
    "18": "key results by the objectives",
    "19": "limitations",
    "20": "cautious interpretation",
    "21": "generalisability",
    "22": "funding",
}


@dataclass(frozen=True)
class ChecklistItem:
    """An item: whether the evaluation fulfils it, and where, or why not."""

    item: str
    asks: str
    fulfilled: str
    where: str


def answered(checklist: Mapping[str, str], answers: Mapping[str, Answer]) -> list[ChecklistItem]:
    """All items of a checklist with their answers.

    Args:
      checklist: `CLAIM` or `STROBE`.
    Raises:
      ValueError: an item has no answer, or an answer is of no item.
    """
    # An item that is forgotten would look like one that does not exist.
    if set(answers) != set(checklist):
        raise ValueError(f"answers to {sorted(set(answers) ^ set(checklist))} do not fit the items")
    return [ChecklistItem(item, asks, *answers[item]) for item, asks in checklist.items()]


def checklist_section(name: str, items: Sequence[ChecklistItem]) -> Section:
    """A checklist as a table, with how many of its items are fulfilled."""
    counts = {word: sum(i.fulfilled == word for i in items) for word in TONES}
    told = (
        f"Of {name}'s {len(items)} items this evaluation fulfils {counts[YES]}, {counts[PARTLY]}"
        f" in part, and {counts[NO]} not; {counts[AUTHOR]} are for the paper's author."
    )
    return Section(f"Checklist of {name}", [told], [_table(items, "item")], fold=True)


def reloaded_section(items: Sequence[ChecklistItem]) -> Section:
    """The points of Metrics Reloaded as a table; `item` of each is a task."""
    # Its points have no answer of an author: each is of a metric.
    met = sum(i.fulfilled == YES for i in items)
    return Section(
        "Checklist of Metrics Reloaded",
        [f"{met} of {len(items)} points are met, over all tasks."],
        [_table(items, "task")],
        fold=True,
    )


def as_protocol(flow: Mapping[str, Any], **checklists: Sequence[ChecklistItem]) -> dict[str, Any]:
    """The contents of `protocol.json`: checklists by their names, and the flow."""
    named = {name: [asdict(i) for i in items] for name, items in checklists.items()}
    return {**named, "flow": dict(flow)}


def _table(items: Sequence[ChecklistItem], first: str) -> Table:
    lines = [
        [Cell(i.item), Cell(i.asks), Cell(i.fulfilled, tone=TONES[i.fulfilled]), Cell(i.where)]
        for i in items
    ]
    return Table([first, "asks for", "fulfilled", "where, or why not"], lines)
