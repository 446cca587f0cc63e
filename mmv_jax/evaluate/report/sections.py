"""Sections of the report beside the headline: few-shot curves, calibration, subgroups,
confounders.
"""

from collections.abc import Sequence

import numpy as np

from mmv_jax.evaluate.fewshot import Point
from mmv_jax.evaluate.kinds.table import metric_label
from mmv_jax.evaluate.measure import Comparison, Result, is_judged
from mmv_jax.evaluate.subgroups import Confounded, GroupResult, words
from mmv_jax.metrics.intervals import Interval, bounds_text
from mmv_jax.metrics.scores import calibration_bins
from mmv_jax.report.figures import Bar, growth_curves, reliability
from mmv_jax.report.page import Cell, Section, Table


def few_shot_sections(points: Sequence[Point]) -> list[Section]:
    """How much of the training set each encoder needs; nothing where it was not asked."""
    if not points:
        return []
    curves: dict[str, dict[str, list[tuple[int, Bar]]]] = {}
    for p in points:
        bar = Bar(
            group=p.task, series=p.encoder, value=p.value.value, low=p.value.low, high=p.value.high
        )
        curves.setdefault(p.task, {}).setdefault(p.encoder, []).append((p.patients, bar))
    text = [
        "The probe with a part of the training patients: the mean over draws, with the interval of"
        " a single draw. The draws are the same for every encoder; strengths are chosen on all of"
        " val, which is not fitted on."
    ]
    labels = {p.task: metric_label(p.metric) for p in points}
    return [Section("Few-shot curves", text, figures=[growth_curves(curves, labels)])]


def calibration_sections(results: Sequence[Result]) -> list[Section]:
    """Reliability diagrams of the headline probes."""
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for r in results:
        if r.kind.has_classes and "/" not in r.encoder:
            curves.setdefault(r.task.name, {})[r.encoder] = calibration_bins(
                r.truth, r.predicted, bins=5
            )[:2]
    text = [
        "Fifths of the test studies by the probability that the probe gave; on the line, what was"
        " said is what was seen."
    ]
    return [Section("Calibration", text, figures=[reliability(curves)])] if curves else []


def subgroup_sections(groups: Sequence[GroupResult]) -> list[Section]:
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
            name = f"{column}: {group}" + (
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
            Table([f"{task} ({metric_label(own[0].metric)})", "test studies", *shown], lines)
        )
    text = [
        "A group in colour differs from all other groups of its column on shared draws of patients,"
        " its p-value corrected over all groups of this page (Holm): green where the encoder is"
        " better there, red where it is worse. Of two groups, the second is the other way round."
        " Floors, stand-ins and single poolings are not compared."
    ]
    return [Section("Subgroups", text, tables)] if tables else []


def confounder_sections(confounded: Sequence[Confounded]) -> list[Section]:
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
                Cell(f"{c.task} by {c.column}"),
                Cell(c.encoder),
                *values,
                lost,
                Cell(str(c.support.smallest)),
                Cell(f"{c.support.effective:.0f} of {c.plain.n}"),
                Cell(f"{c.lost.undefined:.0%}"),
                Cell(leaning, tone="bad" if leaning == "leans on it" else ""),
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
    return [Section("Confounders", text, [Table(columns, lines)])] if lines else []


def _leaning(c: Confounded) -> str:
    if not is_judged(c.encoder):
        return "not tested"
    told = words(c.lost, c.p_holm)
    return {"better": "leans on it", "worse": "gains without it"}.get(told, told)


def variant_sections(comparisons: Sequence[Comparison]) -> list[Section]:
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
                Cell(c.task),
                Cell(c.first),
                Cell(c.second),
                Cell(f"{d.value:+.3f}", bounds_text(d, "+.3f")),
                Cell(p),
                Cell(c.words),
            ]
        )
    text = [
        "“encoder+head”: a head on the frozen tokens, trained by gradient descent and stopped"
        " by val: “linear” one map a token, “multi-scale” tokens of four depths through"
        " convolutions, “global-local” the same after CLS and patch tokens have asked each"
        " other. “encoder+finetuned”: encoder and head, lower layers slower; “scratch-vit”:"
        " ours so from random weights; “supervised-…”: a convolutional network. Positive: the"
        " first is better."
    ]
    columns = ["task", "first", "second", "better by", "corrected p", "in words"]
    return [Section("Heads and fine-tuning", text, [Table(columns, lines)])] if lines else []


def _group_cell(found: GroupResult) -> Cell:
    cell = value_cell(found.value)
    tone = (
        {"better": "good", "worse": "bad"}.get(words(found.than_rest, found.p_holm), "")
        if found.than_rest is not None
        else ""
    )
    return Cell(cell.text, cell.ci, tone)


def value_cell(value: Interval) -> Cell:
    """A value and its interval."""
    return (
        Cell(f"{value.value:.3f}", bounds_text(value))
        if not np.isnan(value.value)
        else Cell("not defined")
    )
