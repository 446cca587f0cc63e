"""Items of CLAIM and of Metrics Reloaded that an evaluation fulfils, by its content.

Sources: Tejani et al., Checklist for Artificial Intelligence in Medical Imaging, 2024 update
(Radiology: AI 6(4), e240300), 44 items, in our own words; Maier-Hein, Reinke et al., Metrics
Reloaded (Nature Methods 21, 195-212).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.measure import Result
from mmv_jax.evaluate.report.names import Names
from mmv_jax.report.about import NOT_STATED, Studies
from mmv_jax.report.page import Cell, Section, Table

YES, PARTLY, NO, AUTHOR = "yes", "partly", "no", "the author's"
BOUNDARY = ("nsd", "hd95", "masd", "asd")  # distances between surfaces
BY_AUTHOR = "of the paper, not of an evaluation"
TONES = {YES: "good", PARTLY: "", NO: "bad", AUTHOR: ""}


@dataclass(frozen=True)
class ChecklistItem:
    """An item: whether the evaluation fulfils it, and where, or why not."""

    item: str
    asks: str
    fulfilled: str
    where: str


@dataclass(frozen=True)
class Held:
    """The contents of an evaluation that an item may ask for.

    Attributes:
      robust: whether it looks at subgroups, confounders or parts of the training set.
      pictures: whether it shows predicted masks, or maps of features.
      tested_elsewhere: whether a task is tested on another population.
      overlap: whether measured patients of pretraining are counted, or why not.
      folds: of cross-validation; 0 where the store's test was measured.
      operating: whether a task has an operating point that val chose.
    """

    studies: Studies
    demographic: bool
    robust: bool
    pictures: bool
    tested_elsewhere: bool
    overlap: str
    folds: int = 0
    operating: bool = False


def claim(held: Held) -> list[ChecklistItem]:
    """The 44 items of CLAIM 2024."""
    # CLAIM numbers its items from 1, so the order of these rows must not change.
    rows = [*_of_methods(held), *_of_results(held)]
    return [ChecklistItem(f"{n}", *row) for n, row in enumerate(rows, start=1)]


def _of_methods(held: Held) -> list[tuple[str, str, str]]:
    """Items 1 to 27: title, design, data, reference standard, model and training."""
    # `in`, since the truth may be stated for phantoms and not for the other studies.
    truth = NO if NOT_STATED in held.studies.truth else YES
    data = NO if held.studies.data == NOT_STATED else YES
    by_author = (AUTHOR, BY_AUTHOR)
    of_a_fold = ", for each fold the next one" if held.folds else ""
    return [
        ("named as a study of AI, with the kind of method", YES, "title; How it was measured"),
        ("structured summary", *by_author),
        ("background, intended use and role", *by_author),
        ("aims and hypotheses", *by_author),
        ("prospective or retrospective", *by_author),
        ("goal of the study", PARTLY, "encoders compared by task; the aim is the author's"),
        ("sources of data", data, f"What was evaluated: {held.studies.data}"),
        ("inclusion and exclusion", YES, "Flow of studies; `where` of each task in Configuration"),
        ("preprocessing", YES, "the checkpoint's config; store and view in Configuration"),
        ("selection of subsets of the data", YES, "Flow of studies"),
        ("de-identification", YES, "keyed hashes and an allow-list of attributes at ingest"),
        ("how missing data were handled", YES, "studies without truth are left out and counted"),
        ("protocol of acquisition", *by_author),
        ("how the reference standard was obtained", truth, held.studies.truth),
        ("why that reference standard", *by_author),
        ("source of the annotations, and who made them", truth, held.studies.truth),
        ("annotation of the test set", truth, held.studies.truth),
        ("variability between and within readers", NO, "one truth a study"),
        ("how data were assigned to partitions", YES, _partitions(held.folds)),
        ("level at which partitions are disjoint", YES, "patients: two splits are refused"),
        ("intended sample size", NO, "not planned; intervals say what the size allows"),
        ("the model", YES, "the checkpoint's config"),
        ("software", YES, "What was evaluated"),
        ("initialisation of the parameters", YES, "the checkpoint and its digest"),
        ("training", YES, "How it was measured; Configuration"),
        ("how the final model was chosen", YES, "strengths and thresholds on val" + of_a_fold),
        ("ensembles", YES, "none"),
    ]


def _partitions(folds: int) -> str:
    said = "column `split` of the manifest"
    return (
        f"{folds} folds by patient, drawn by the seed, of train and val ({said})" if folds else said
    )


def _of_results(held: Held) -> list[tuple[str, str, str]]:
    """Items 28 to 44: evaluation, results and discussion."""
    by_author = (AUTHOR, BY_AUTHOR)
    return [
        ("metrics", YES, "Every pooling and metric"),
        ("significance and uncertainty", YES, "95 % intervals by patient; Holm's correction"),
        (
            "robustness or sensitivity analysis",
            YES if held.robust else NO,
            "Subgroups, Confounders, Few-shot curves" if held.robust else "none was asked for",
        ),
        (
            "explainability",
            PARTLY if held.pictures else NO,
            "maps of features" if held.pictures else "none",
        ),
        (
            "evaluation on internal data",
            YES,
            f"{held.folds} folds of train and val" if held.folds else "test split of the store",
        ),
        (
            "testing on external data",
            YES if held.tested_elsewhere else NO,
            "`test_where`" if held.tested_elsewhere else "no task has another test population",
        ),
        ("registration of a trial", *by_author),
        ("numbers included and excluded", YES, "Flow of studies; patients the ingest refused"),
        (
            "demographic and clinical characteristics by partition",
            PARTLY if held.demographic else NO,
            "age and sex" if held.demographic else "the store has neither age nor sex",
        ),
        ("performance, with its uncertainty", YES, "Tasks by encoders"),
        ("diagnostic accuracy, with its precision", *_accuracy(held)),
        (
            "failures",
            PARTLY if held.pictures else NO,
            "worst segmentations shown" if held.pictures else "none shown",
        ),
        ("limitations", PARTLY, f"notices; overlap with pretraining: {held.overlap}"),
        ("implications for practice", *by_author),
        ("full protocol", YES, "protocol.json and the config"),
        (
            "availability of software, model and data",
            PARTLY,
            "software and versions; the rest is the author's",
        ),
        ("funding", *by_author),
    ]


def _accuracy(held: Held) -> tuple[str, str]:
    if held.operating:
        return YES, "AUROC; sensitivity and specificity at a threshold that val chose"
    return PARTLY, "no operating point is chosen"


def metrics_reloaded(
    results: Sequence[Result], names: Names, more: Mapping[str, Collection[str]] | None = None
) -> list[ChecklistItem]:
    """The recommendations of Metrics Reloaded for each task's category, checked against its
    metrics.

    Args:
      more: by task, metrics that are measured beside those of its results, such as the sensitivity
        at an operating point.
    """
    by_task: dict[str, Result] = {}
    for result in results:
        by_task.setdefault(result.task.name, result)
    out = []
    for name, result in by_task.items():
        found = {*result.metrics, *(more or {}).get(name, ())}
        for asks, fulfilled, where in _asked_of(result.kind, found, result):
            out.append(ChecklistItem(names.task(name), asks, fulfilled, where))
    return out


def _asked_of(kind: Kind, found: set[str], result: Result) -> list[tuple[str, str, str]]:
    interval = (
        "uncertainty by patient",
        NO if np.isnan(result.headline.low) else YES,
        result.headline.why or "95 % interval of the headline",
    )
    if kind.locates:
        return [
            ("category", YES, "object detection"),
            ("localisation criterion", YES, "a peak inside the lesion's bounding box"),
            ("assignment", YES, "the strongest candidate in a lesion finds it"),
            ("multi-threshold", *_any(found, "froc")),
            interval,
        ]
    if kind.is_mask:
        there = int((~np.isnan(result.truth)).sum())
        return [
            ("category", YES, "semantic segmentation"),
            ("overlap", *_any(found, "dice", "iou")),
            ("boundary", *_any(found, *BOUNDARY)),
            (
                "studies without the structure handled by themselves",
                *_any(found, "false_positives", "false_positive_share", "fp_share"),
            ),
            ("one value a study, then the mean", YES, f"{there} studies have the structure"),
            interval,
        ]
    if kind.has_classes:
        return [
            ("category", YES, "image-level classification"),
            ("ranking (multi-threshold)", *_any(found, "auroc", "auprc")),
            ("counting at a chosen threshold", *_any(found, "sensitivity", "balanced_accuracy")),
            ("calibration", *_any(found, "brier", "calibration")),
            ("prevalence stated", YES, f"{int((result.truth == 1).sum())} of {len(result.truth)}"),
            interval,
        ]
    macro = [name for name in result.metrics if name.startswith("macro_")]
    if macro:  # several labels, or several classes, of an image
        return [
            ("category", YES, "image-level classification"),
            ("ranking (multi-threshold)", YES, ", ".join(macro)),
            ("counting at a chosen threshold", *_any(found, "accuracy", "balanced_accuracy")),
            ("each class by itself", NO, "the mean over classes is shown"),
            ("calibration", *_any(found, "brier", "calibration")),
            interval,
        ]
    return [
        ("category", NO, f"{kind.label_of(kind.headline)} judges what none of its categories has"),
        interval,
    ]


def _any(found: set[str], *wanted: str) -> tuple[str, str]:
    have = [name for name in wanted if name in found]
    return (YES, ", ".join(have)) if have else (NO, "not measured")


def checklist_sections(
    of_claim: Sequence[ChecklistItem], reloaded: Sequence[ChecklistItem]
) -> list[Section]:
    """Both checklists as tables."""
    counts = {word: sum(i.fulfilled == word for i in of_claim) for word in TONES}
    told = (
        f"Of CLAIM's {len(of_claim)} items this evaluation fulfils {counts[YES]}, {counts[PARTLY]}"
        f" in part, and {counts[NO]} not; {counts[AUTHOR]} are for the paper's author."
    )
    met = sum(i.fulfilled == YES for i in reloaded)
    return [
        Section("Checklist of CLAIM", [told], [_table(of_claim, "item")], fold=True),
        Section(
            "Checklist of Metrics Reloaded",
            [f"{met} of {len(reloaded)} points are met, over all tasks."],
            [_table(reloaded, "task")],
            fold=True,
        ),
    ]


def _table(items: Sequence[ChecklistItem], first: str) -> Table:
    lines = [
        [Cell(i.item), Cell(i.asks), Cell(i.fulfilled, tone=TONES[i.fulfilled]), Cell(i.where)]
        for i in items
    ]
    return Table([first, "asks for", "fulfilled", "where, or why not"], lines)


def as_protocol(
    of_claim: Sequence[ChecklistItem], reloaded: Sequence[ChecklistItem], flow: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of `protocol.json`."""
    return {
        "claim_2024": [asdict(i) for i in of_claim],
        "metrics_reloaded": [asdict(i) for i in reloaded],
        "flow": dict(flow),
    }
