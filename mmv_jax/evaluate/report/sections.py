"""Sections of the report after the headline: curves, calibration, subgroups, confounders."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from mmv_jax.evaluate.fewshot import Point
from mmv_jax.evaluate.kinds.table import metric_label
from mmv_jax.evaluate.measure import Comparison, Result, is_judged
from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.subgroups import Confounded, GroupResult, verdict_of
from mmv_jax.metrics.intervals import Interval, bounds_text, value_text
from mmv_jax.metrics.scores import calibration_bins
from mmv_jax.report.figures import growth_curves, reliability, roc_curves
from mmv_jax.report.page import Cell, Section, Table
from mmv_jax.report.plots import PlotGrid

CALIBRATED_FROM = 50  # positive studies
CONFOUNDED = (
    "“The column alone” needs no image: the rate of the label in each group of the column. “Tie"
    " broken”: studies are weighted so that column and label are independent. “Within"
    " groups”: only pairs of studies of the same group. An encoder that leans on the column"
    " loses AUROC when the tie is broken. p-values are corrected over all tested lines (Holm);"
    " floors and stand-ins are not tested. A cell is a class within a group. So many “effective"
    " studies” without weights would be as informative (Kish). “Draws left out” lack a class."
)
CALIBRATION = ("calibration", "calibration_slope")  # metrics that say how well it is calibrated


def in_colours_of(order: Sequence[str], sections: Iterable[Section]) -> list[Section]:
    """The sections, with the colour that each series has in the figure of all results.

    Args:
      order: of the series there.
    """
    return [
        replace(
            section,
            figures=[
                replace(figure, series=order) if isinstance(figure, PlotGrid) else figure
                for figure in section.figures
            ],
        )
        for section in sections
    ]


def few_shot_sections(points: Sequence[Point], names: Names) -> list[Section]:
    """Few-shot curves of each encoder; empty if none were asked for."""
    if not points:
        return []
    curves: dict[str, dict[str, list[tuple[int, float, float, float]]]] = {}
    labels: dict[str, str] = {}
    for p in points:
        point = (p.patients, p.value.value, p.value.low, p.value.high)
        metric, _, structure = p.metric.partition("@")
        called = names.task(p.task) + (f", {structure}" if structure else "")
        labels[called] = metric_label(metric)
        own = curves.setdefault(called, {})
        own.setdefault(names.encoder(p.encoder), []).append(point)
    text = [
        "The probe fitted on a part of the patients: the mean over draws, with the interval of a"
        " single draw. The draws are the same for every encoder, floors included. The axis counts"
        " every patient whose labels were read: the share of train that is fitted on, and the same"
        " share of val, which chooses strengths and thresholds."
    ]
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
    """Reliability diagrams of the headline probes that have enough positive studies.

    With fewer, each fifth has only a few positives, and the curve is noise.
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
            "The measured studies in fifths by predicted probability. On the diagonal, predicted"
            " probability and observed frequency are equal."
        )
    if few:
        listed = ", ".join(f"{task} ({count})" for task, count in few.items())
        text.append(
            f"Not shown below {CALIBRATED_FROM} positive studies: {listed}. With so few, a curve"
            " is noise."
        )
    figures = [reliability(curves)] if curves else []
    return [Section("Calibration", text, figures=figures, fold=True)]


def is_calibrated(result: Result) -> bool:
    """Whether there are enough positive studies to judge calibration."""
    return _positives(result) >= CALIBRATED_FROM


def subgroup_sections(groups: Sequence[GroupResult], names: Names) -> list[Section]:
    """A table a task, with groups as rows and encoders as columns.

    Single poolings are included if the groups are of positive studies.
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
                    "studies",
                    *map(names.encoder, shown),
                ],
                lines,
            )
        )
    text = [
        "A coloured group differs from all other groups of its column, on shared draws of patients."
        " p-values are corrected over all groups of this page (Holm). Green: the encoder is"
        " better in this group; red: it is worse. Of two groups, the second is the reverse."
        " Floors, stand-ins and single poolings are not compared."
    ]
    return [Section("Subgroups", text, tables, fold=True)] if tables else []


def confounder_sections(confounded: Sequence[Confounded], names: Names) -> list[Section]:
    """What is left of an encoder once a column tells nothing of the label: confounders and
    mediators, each in a section of its own.
    """
    kinds = {
        "Confounders": [c for c in confounded if not c.mediator],
        "Mediators": [c for c in confounded if c.mediator],
    }
    texts = {
        "Confounders": [CONFOUNDED],
        "Mediators": [
            "A mediator is brought about by the finding itself, as a chest tube by a pneumothorax."
            " What is lost without it is read of consequences of the finding. That is no bias of"
            " the data, but the encoder may miss the finding before it has been treated. Columns"
            " as under “Confounders”."
        ],
    }
    return [
        Section(title, texts[title], [_confounder_table(own, names)], fold=True)
        for title, own in kinds.items()
        if own
    ]


def _confounder_table(confounded: Sequence[Confounded], names: Names) -> Table:
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
    return Table(columns, lines)


def _leaning(c: Confounded) -> str:
    if not is_judged(c.encoder):
        return "not tested"
    told = verdict_of(c.lost, c.p_holm)
    # `lost` is plain minus broken: an encoder that is better with the tie leans on the column.
    return {"better": "leans on it", "worse": "gains without it"}.get(told, told)


def variant_sections(comparisons: Sequence[Comparison], names: Names) -> list[Section]:
    """Comparisons of heads, fine-tuned and supervised models; empty if none were asked for."""
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
                Cell(metric_label(c.metric)),
                Cell(names.encoder(c.first)),
                Cell(names.encoder(c.second)),
                Cell(f"{d.value:+.3f}", bounds_text(d, "+.3f")),
                Cell(p),
                Cell(names.said(c.verdict)),
            ]
        )
    text = [
        "Heads on the frozen tokens are trained by gradient descent and stopped by val. Linear: one"
        " map a token. Multi-scale: convolutions over tokens of four depths. Global-local: the same"
        " after cross-attention between CLS and patch tokens. Fine-tuned: encoder and head, lower"
        " layers at a lower rate. From scratch: the same from random weights. Supervised: a"
        " convolutional network. Positive: the first is better."
    ]
    columns = ["task", "metric", "first", "second", "better by", "corrected p", "in words"]
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
    """A metric of a result; "–" where it has none, or too few positives to judge calibration."""
    if metric not in result.metrics:
        return Cell("–")
    if metric in CALIBRATION and not is_calibrated(result):
        return Cell("–", f"{_positives(result)} positive")
    return value_cell(result.metrics[metric])


def value_cell(value: Interval) -> Cell:
    """A value with its interval."""
    return (
        Cell(value_text(value), bounds_text(value))
        if not np.isnan(value.value)
        else Cell("not defined")
    )
