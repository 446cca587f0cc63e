"""Items of CLAIM and of Metrics Reloaded that an evaluation fulfils, by its content.

Source of the latter: Maier-Hein, Reinke et al., Metrics Reloaded (Nature Methods 21, 195-212).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.measure import Result
from mmv_jax.evaluate.report.names import Names
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
)

BOUNDARY = ("nsd", "hd95", "masd", "asd")  # distances between surfaces


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
    return answered(CLAIM, OF_ANY_EVALUATION | _of_methods(held) | _of_results(held))


def _of_methods(held: Held) -> dict[str, Answer]:
    """Of items 1 to 27 (title to training), those that depend on what was evaluated."""
    # `in`, since the truth may be stated for phantoms and not for the other studies.
    truth = NO if NOT_STATED in held.studies.truth else YES
    data = NO if held.studies.data == NOT_STATED else YES
    of_a_fold = ", for each fold the next one" if held.folds else ""
    return {
        "1": (YES, "title; How it was measured"),
        "6": (PARTLY, "encoders compared by task; the aim is the author's"),
        "7": (data, f"What was evaluated: {held.studies.data}"),
        "8": (YES, "Flow of studies; `where` of each task in Configuration"),
        "9": (YES, "the checkpoint's config; store and view in Configuration"),
        "10": (YES, "Flow of studies"),
        "11": (YES, "keyed hashes and an allow-list of attributes at ingest"),
        "12": (YES, "studies without truth are left out and counted"),
        **dict.fromkeys(("14", "16", "17"), (truth, held.studies.truth)),
        "18": (NO, "one truth a study"),
        "19": (YES, _partitions(held.folds)),
        "20": (YES, "patients: two splits are refused"),
        "25": (YES, "How it was measured; Configuration"),
        "26": (YES, "strengths and thresholds on val" + of_a_fold),
        "27": (YES, "none"),
    }


def _partitions(folds: int) -> str:
    said = "column `split` of the manifest"
    return (
        f"{folds} folds by patient, drawn by the seed, of train and val ({said})" if folds else said
    )


def _of_results(held: Held) -> dict[str, Answer]:
    """Of items 28 to 44 (evaluation to discussion), those that depend on what was evaluated."""
    robust = (YES, "Subgroups, Confounders, Few-shot curves") if held.robust else None
    folds = f"{held.folds} folds of train and val"
    elsewhere = (YES, "`test_where`") if held.tested_elsewhere else None
    people = (PARTLY, "age and sex") if held.demographic else None
    return {
        "28": (YES, "Every pooling and metric"),
        "29": (YES, "95 % intervals by patient; Holm's correction"),
        "30": robust or (NO, "none was asked for"),
        "31": (PARTLY, "maps of features") if held.pictures else (NO, "none"),
        "32": (YES, folds if held.folds else "test split of the store"),
        "33": elsewhere or (NO, "no task has another test population"),
        "35": (YES, "Flow of studies; patients the ingest refused"),
        "36": people or (NO, "the store has neither age nor sex"),
        "37": (YES, "Tasks by encoders"),
        "38": _accuracy(held),
        "39": (PARTLY, "worst segmentations shown") if held.pictures else (NO, "none shown"),
        "40": (PARTLY, f"notices; overlap with pretraining: {held.overlap}"),
    }


def _accuracy(held: Held) -> Answer:
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


def _any(found: set[str], *wanted: str) -> Answer:
    have = [name for name in wanted if name in found]
    return (YES, ", ".join(have)) if have else (NO, "not measured")
