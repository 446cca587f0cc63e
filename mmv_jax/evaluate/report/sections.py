"""Sections of the report beside the headline: curves, calibration, subgroups, confounders."""

from collections.abc import Sequence

import numpy as np

from mmv_jax.evaluate.fewshot import Point
from mmv_jax.evaluate.kinds.table import metric_label
from mmv_jax.evaluate.measure import Comparison, Result, is_judged
from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.subgroups import Confounded, GroupResult, verdict_of
from mmv_jax.metrics.intervals import Interval, bounds_text
from mmv_jax.metrics.scores import calibration_bins
from mmv_jax.report.figures import growth_curves, reliability, roc_curves
from mmv_jax.report.page import Cell, Section, Table

CALIBRATED_FROM = 50  # positive test studies
CALIBRATION = ("calibration", "calibration_slope")  # metrics that say how well it is calibrated


def few_shot_sections(points: Sequence[Point], names: Names) -> list[Section]:
    """How much of the training set each encoder needs; nothing where it was not asked."""
    if not points:
        return []
    curves: dict[str, dict[str, list[tuple[int, float, float, float]]]] = {}
    for p in points:
        point = (p.patients, p.value.value, p.value.low, p.value.high)
        own = curves.setdefault(names.task(p.task), {})
        own.setdefault(names.encoder(p.encoder), []).append(point)
    text = [
        "The probe with a part of the training patients: the mean over draws, with the interval of"
        " a single draw. The draws are the same for every encoder; strengths are chosen on all of"
        " val, which is not fitted on."
    ]
    labels = {names.task(p.task): metric_label(p.metric) for p in points}
    figure = growth_curves(curves, labels)
    return [Section("Few-shot curves", text, figures=[figure], fold=True)]


def curve_sections(results: Sequence[Result], names: Names) -> list[Section]:
    """ROC curves of the headline probes."""
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for r in results:
        if r.kind.has_classes and "/" not in r.encoder:
            own = curves.setdefault(f"{names.task(r.task.name)}, {_positives(r)} positive", {})
            own[names.encoder(r.encoder)] = (r.truth, r.predicted)
    return [Section("ROC curves", figures=[roc_curves(curves)], fold=True)] if curves else []


def _positives(result: Result) -> int:
    return int((result.truth == 1).sum())


def calibration_sections(results: Sequence[Result], names: Names) -> list[Section]:
    """Reliability diagrams of the headline probes, where there are enough positives: of fewer, each
    fifth holds a handful, and the line is noise.
    """
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    few: dict[str, int] = {}
    for r in (r for r in results if r.kind.has_classes and "/" not in r.encoder):
        task = names.task(r.task.name)
        if not is_calibrated(r):
            few[task] = _positives(r)
            continue
        # [:2]: mean prediction and observed share of each fifth, without the counts.
        bins = calibration_bins(r.truth, r.predicted, bins=5)[:2]
        curves.setdefault(task, {})[names.encoder(r.encoder)] = bins
    if not curves and not few:
        return []
    text = []
    if curves:
        text.append(
            "Fifths of the test studies by the probability that the probe gave; on the line, what"
            " was said is what was seen."
        )
    if few:
        listed = ", ".join(f"{task} ({count})" for task, count in few.items())
        text.append(
            f"Not shown below {CALIBRATED_FROM} positive test studies: {listed}. Of so few, a curve"
            " is noise."
        )
    figures = [reliability(curves)] if curves else []
    return [Section("Calibration", text, figures=figures, fold=True)]


def is_calibrated(result: Result) -> bool:
    """Whether there are enough positive test studies to speak of calibration."""
    return _positives(result) >= CALIBRATED_FROM


def subgroup_sections(groups: Sequence[GroupResult], names: Names) -> list[Section]:
    """A table a task: groups in lines, whole encoders in columns, and single poolings where the
    groups are of positives.
    """
    tables = []
    for task in dict.fromkeys(g.task for g in groups):
        own = [g for g in groups if g.task == task]
        shown = list(
            dict.fromkeys(g.encoder for g in own if "/" not in g.encoder or g.grouping.positives)
        )
        found = {(g.grouping.column, g.grouping.positives, g.group, g.encoder): g for g in own}
        lines = []
        for column, positives, group in dict.fromkeys(key[:3] for key in found):
            first = next(g for key, g in found.items() if key[:3] == (column, positives, group))
            name = f"{names.column(column)}: {group}" + (
                " (positives, against all negatives)" if positives else ""
            )
            count = f"{first.value.n}" + (
                "" if first.positives is None else f", {first.positives} positive"
            )
            cells = [
                (
                    _group_cell(found[key])
                    if (key := (column, positives, group, encoder)) in found
                    else Cell("–")
                )
                for encoder in shown
            ]
            lines.append([Cell(name), Cell(count), *cells])
        tables.append(
            Table(
                [
                    f"{names.task(task)}: {metric_label(own[0].metric)}",
                    "test studies",
                    *map(names.encoder, shown),
                ],
                lines,
            )
        )
    text = [
        "A group in colour differs from all other groups of its column on shared draws of patients,"
        " its p-value corrected over all groups of this page (Holm): green where the encoder is"
        " better there, red where it is worse. Of two groups, the second is the other way round."
        " Floors, stand-ins and single poolings are not compared."
    ]
    return [Section("Subgroups", text, tables, fold=True)] if tables else []


def confounder_sections(confounded: Sequence[Confounded], names: Names) -> list[Section]:
    """What is left of an encoder once a column tells nothing of the label."""
    lines = []
    for c in confounded:
        lost = (
            Cell(c.lost.why or "not defined")
            if np.isnan(c.lost.value)
            else Cell(f"{c.lost.value:+.3f}", bounds_text(c.lost, "+.3f"))
        )
        leaning = _leaning(c)
        values = [value_cell(v) for v in (c.alone, c.plain, c.broken, c.within)]
        lines.append(
            [
                Cell(f"{names.task(c.task)} by {names.column(c.column).lower()}"),
                Cell(names.encoder(c.encoder)),
                *values,
                lost,
                Cell(str(c.support.smallest)),
                Cell(f"{c.support.effective:.0f} of {c.plain.n}"),
                Cell(f"{c.lost.undefined:.0%}"),
                Cell(names.said(leaning), tone="bad" if leaning == "leans on it" else ""),
            ]
        )
    text = [
        "“The column alone” needs no image: the rate of the label in each group of the column. “Tie"
        " broken”: test studies weighted until the column tells nothing of the label. “Within"
        " groups”: pairs of studies of the same group alone. An encoder that leans on the column"
        " loses AUROC when the tie is broken; p-values are corrected over all lines that are tested"
        " (Holm), which floors and stand-ins are not. A cell is a class within a group. “Effective"
        " studies” would tell as much unweighted (Kish). “Draws left out” lack a class in a group."
    ]
    columns = [
        "task and column",
        "encoder",
        "the column alone",
        "as it is",
        "tie broken",
        "within groups",
        "lost",
        "patients in the smallest cell",
        "effective studies",
        "draws left out",
        "in words",
    ]
    table = Table(columns, lines)
    return [Section("Confounders", text, [table], fold=True)] if lines else []


def _leaning(c: Confounded) -> str:
    if not is_judged(c.encoder):
        return "not tested"
    told = verdict_of(c.lost, c.p_holm)
    # `lost` is plain minus broken: better with the tie intact means that it leans on the column.
    return {"better": "leans on it", "worse": "gains without it"}.get(told, told)


def variant_sections(comparisons: Sequence[Comparison], names: Names) -> list[Section]:
    """Heads, fine-tuning and supervised models beside each other; nothing where none was asked."""
    lines = []
    for c in comparisons:
        d, p = (
            c.better_by,
            (
                "not defined"
                if np.isnan(c.p_holm)
                else f"{c.p_holm:.3f}"
                if c.p_holm >= 0.001
                else "< 0.001"
            ),
        )
        lines.append(
            [
                Cell(names.task(c.task)),
                Cell(names.encoder(c.first)),
                Cell(names.encoder(c.second)),
                Cell(f"{d.value:+.3f}", bounds_text(d, "+.3f")),
                Cell(p),
                Cell(names.said(c.verdict)),
            ]
        )
    text = [
        "A head on the frozen tokens is trained by gradient descent and stopped by val: the linear"
        " one is one map a token, the multi-scale one takes tokens of four depths through"
        " convolutions, the global-local one the same after CLS and patch tokens have asked each"
        " other. Fine-tuned: encoder and head, lower layers slower; from scratch: ours so from"
        " random weights; supervised: a convolutional network. Positive: the first is better."
    ]
    columns = ["task", "first", "second", "better by", "corrected p", "in words"]
    table = Table(columns, lines)
    return [Section("Heads and fine-tuning", text, [table], fold=True)] if lines else []


def _group_cell(found: GroupResult) -> Cell:
    cell = value_cell(found.value)
    tone = (
        {"better": "good", "worse": "bad"}.get(verdict_of(found.than_rest, found.p_holm), "")
        if found.than_rest is not None
        else ""
    )
    return Cell(cell.text, cell.ci, tone)


def metric_cell(result: Result, metric: str) -> Cell:
    """A metric of a result, "–" where it has none, or too few positives to speak of calibration."""
    if metric not in result.metrics:
        return Cell("–")
    if metric in CALIBRATION and not is_calibrated(result):
        return Cell("–", f"{_positives(result)} positive")
    return value_cell(result.metrics[metric])


def value_cell(value: Interval) -> Cell:
    """A value and its interval."""
    return (
        Cell(f"{value.value:.3f}", bounds_text(value))
        if not np.isnan(value.value)
        else Cell("not defined")
    )
