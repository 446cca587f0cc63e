"""Results in words: the table of all tasks, and the sections of the report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.evaluate.fewshot import Point
from mmv_jax.evaluate.kinds.table import metric_label
from mmv_jax.evaluate.measure import FLOORS, Comparison, Result
from mmv_jax.evaluate.report.sections import (
    calibration_sections,
    confounder_sections,
    few_shot_sections,
    subgroup_sections,
    value_cell,
    variant_sections,
)
from mmv_jax.evaluate.subgroups import Confounded, GroupResult
from mmv_jax.metrics.intervals import Interval, bounds_text
from mmv_jax.provenance import named
from mmv_jax.report.figures import Bar, forest, roc_curves
from mmv_jax.report.page import Cell, Section, Strip, Table, write_page

METHOD = (
    (
        "The encoder is frozen. Classification is a logistic probe, regression a ridge probe,"
        " segmentation a linear map from each patch token to the voxels of its patch. Probes are"
        " fitted on train; their strength (and the threshold of masks) is chosen on val; then they"
        " are fitted on train and val together and measured once on test. The headline features are"
        " CLS and the mean of the patch tokens, one after the other. What is fitted by gradient"
        " descent (heads, fine-tuning, supervised networks) learns on train alone, since val says"
        " when to stop: a probe beside it has more labels."
    ),
    (
        "Floors: “random” is the same encoder with fresh weights, “pixels” the first 100 principal"
        " components of the study at low resolution (segmentation: of the patch's voxels), each"
        " with the same probe. The 95 % interval of an AUROC is a score interval with a design"
        " effect for several studies of a patient; all others are bootstrap intervals over 2,000"
        " draws of patients. Below 5 patients of a class none is given. Differences are judged on"
        " the same draws, and their p-values are corrected for the number of comparisons (Holm)."
    ),
    (
        "Dice and HD95 are means over the test studies that have the structure, on the grid that"
        " the encoder sees; HD95 weights surfaces by area."
    ),
)


def encoders_of(results: Sequence[Result]) -> list[str]:
    """The encoders by their headline pooling, the trained one first."""
    return sorted(
        dict.fromkeys(r.encoder for r in results if "/" not in r.encoder),
        key=lambda name: ["trained", *FLOORS, name].index(name),
    )


def rivals_of(comparisons: Sequence[Comparison]) -> list[str]:
    """What the trained encoder is compared with, in order."""
    return list(dict.fromkeys(c.second for c in comparisons))


def table_of(results: Sequence[Result], comparisons: Sequence[Comparison]) -> str:
    """The headline of every task as lines of text, won or lost against each floor."""
    found = {(r.task.name, r.encoder): r for r in results}
    shown = encoders_of(results)
    heads = "; ".join(f"against {name}" for name in rivals_of(comparisons))
    lines = [f"{'task':<24} {'metric':<7}" + "".join(f"{name:<24}" for name in shown) + heads]
    for task in dict.fromkeys(r.task.name for r in results):
        metric = found[task, shown[0]].kind.headline
        cells = [found[task, name].headline if (task, name) in found else None for name in shown]
        words = "; ".join(c.words for c in comparisons if c.task == task)
        lines.append(
            f"{task:<24} {metric_label(metric):<7}"
            + "".join(f"{_number(c):<24}" for c in cells)
            + words
        )
    return "\n".join(lines)


def verdict(comparisons: Sequence[Comparison], n_tasks: int) -> list[str]:
    """How many tasks were won and lost, in sentences."""
    sentences = []
    for rival in rivals_of(comparisons):
        own = [c for c in comparisons if c.second == rival]
        won, lost = (
            [c.task for c in own if c.words.startswith(word)] for word in ("better", "worse")
        )
        rest = len(own) - len(won) - len(lost)
        text = f"Against {rival}: better in {len(won)} of {n_tasks} tasks" + (
            f" ({', '.join(won)})" if won else ""
        )
        text += (
            f", worse in {len(lost)}"
            + (f" ({', '.join(lost)})" if lost else "")
            + f", no difference told in {rest}."
        )
        sentences.append(text)
    return sentences


@dataclass(frozen=True)
class Findings:
    """What a report shows.

    Attributes:
      overlaps: by task, test patients, and those of them that pretraining has seen (None: unknown).
      why_no_overlap: why they cannot be counted, "" where they can.
      outlined, maps: pictures of segmentations, and of features by encoder.
      record: where the numbers come from, of `provenance.provenance`.
      variants: comparisons of heads and end-to-end fits.
    """

    results: Sequence[Result]
    comparisons: Sequence[Comparison]
    overlaps: Mapping[str, tuple[int, int | None]]
    why_no_overlap: str
    outlined: Sequence[Strip]
    maps: Mapping[str, Sequence[Strip]]
    record: Mapping[str, Any]
    points: Sequence[Point] = ()
    groups: Sequence[GroupResult] = ()
    confounded: Sequence[Confounded] = ()
    variants: Sequence[Comparison] = ()
    subspaces: Sequence[Section] = ()


def write_report(path: Path, found: Findings) -> None:
    """Writes `report.html`."""
    tasks = list(dict.fromkeys(r.task.name for r in found.results))
    sections = [
        headline_section(found.results, found.comparisons),
        Section("How it was measured", METHOD),
        *_curve_sections(found.results),
        *few_shot_sections(found.points),
        *subgroup_sections(found.groups),
        *confounder_sections(found.confounded),
        *calibration_sections(found.results),
        details_section(found.results),
        comparison_section(found.comparisons),
        *variant_sections(found.variants),
        *found.subspaces,
        *_picture_sections(found.outlined, found.maps),
        overlap_section(found.overlaps, found.why_no_overlap),
        Section(
            "Where these numbers come from",
            pre=json.dumps(found.record, indent=2),
            pre_title="checkpoint, store, config and versions (provenance.json)",
        ),
    ]
    write_page(
        path,
        "What the encoder is worth",
        f"{named(found.record)}, on {found.record['store']}, {found.record['date'][:10]}."
        f" {len(tasks)} tasks, {len(encoders_of(found.results))} encoders; random weights and"
        " pixels are the floors",
        verdict(found.comparisons, len(tasks)),
        sections=sections,
    )


def _picture_sections(
    outlined: Sequence[Strip], maps: Mapping[str, Sequence[Strip]]
) -> list[Section]:
    sections = []
    if outlined:
        text = ["Best, middle and worst, chosen by their score alone."]
        sections.append(Section("Segmentations", text, strips=outlined))
    if any(maps.values()):
        text = [
            "The first three principal components of the patch tokens as red, green and blue, with"
            " random weights below for comparison."
        ]
        named = [
            Strip(s.images, f"{name} weights. {s.caption}")
            for name, strips in maps.items()
            for s in strips
        ]
        sections.append(Section("What the patch features look like", text, strips=named))
    return sections


def headline_section(results: Sequence[Result], comparisons: Sequence[Comparison]) -> Section:
    """The matrix that is read first: tasks by encoders, the best value of a line in bold, and what
    the trained encoder won and lost.
    """
    found, shown, rivals = (
        {(r.task.name, r.encoder): r for r in results},
        encoders_of(results),
        rivals_of(comparisons),
    )
    lines = []
    for task in dict.fromkeys(r.task.name for r in results):
        own = [found.get((task, name)) for name in shown]
        first = next(r for r in own if r is not None)
        metric, lower = first.kind.headline, first.kind.headline in first.kind.lower_is_better
        values = [np.nan if r is None else r.headline.value for r in own]
        best = None if np.isnan(values).all() else np.nanmin(values) if lower else np.nanmax(values)
        line = [
            Cell(task),
            Cell(metric_label(metric) + (" (lower is better)" if lower else "")),
        ]
        for r, value in zip(own, values):
            cell = Cell("not measured") if r is None else value_cell(r.headline)
            line.append(Cell(cell.text, cell.ci, "best") if value == best else cell)
        words = {c.second: c.words for c in comparisons if c.task == task}
        line += [
            Cell(words.get(rival, "not measured"), tone=_tone(words.get(rival, "")))
            for rival in rivals
        ]
        lines.append([*line, Cell(str(first.headline.n))])
    columns = [
        "task",
        "metric",
        *shown,
        *(f"trained against {name}" for name in rivals),
        "test studies",
    ]
    return Section(
        "Tasks by encoders",
        ["Bold: the best value of a line, which need not be better than the next beyond chance."],
        [Table(columns, lines)],
    )


def details_section(results: Sequence[Result]) -> Section:
    """Every pooling and metric, one table a kind of task."""
    tables = []
    for kind in dict.fromkeys(r.task.kind for r in results):
        own = [r for r in results if r.task.kind == kind]
        metrics = list(dict.fromkeys(metric for r in own for metric in r.metrics))
        lines = [
            [
                Cell(r.task.name),
                Cell(r.encoder),
                *(value_cell(r.metrics[m]) if m in r.metrics else Cell("–") for m in metrics),
                Cell(r.choice),
            ]
            for r in own
        ]
        tables.append(
            Table(["task", "encoder", *map(metric_label, metrics), "chosen on val"], lines)
        )
    text = [
        "“/cls” and “/patch_mean” are the two halves of the headline features, each probed alone;"
        " “/patch_local” is the mean of the patch tokens inside the region that a reader has"
        " marked."
    ]
    return Section("Every pooling and metric", text, tables)


def comparison_section(comparisons: Sequence[Comparison]) -> Section:
    """The paired differences."""
    lines = []
    for c in comparisons:
        d = c.better_by
        p = (
            "not defined"
            if np.isnan(c.p_holm)
            else f"{c.p_holm:.3f}"
            if c.p_holm >= 0.001
            else "< 0.001"
        )
        lines.append(
            [
                Cell(c.task),
                Cell(c.second),
                Cell(f"{d.value:+.3f}", bounds_text(d, "+.3f")),
                Cell(p),
                Cell(c.words, tone=_tone(c.words)),
            ]
        )
    text = ["Positive: the trained encoder is better, whatever the direction of the metric."]
    return Section(
        "Differences on the same patients",
        text,
        [Table(["task", "floor", "better by", "corrected p", "in words"], lines)],
    )


def overlap_section(overlaps: Mapping[str, tuple[int, int | None]], why_not: str) -> Section:
    """How many test patients the encoder has seen."""
    if why_not:
        return Section("Test patients seen in pretraining", [f"They cannot be counted: {why_not}."])
    lines = [
        [Cell(task), Cell(str(patients)), Cell(str(seen), tone="bad" if seen else "")]
        for task, (patients, seen) in overlaps.items()
    ]
    text = [
        "Counted by keyed hashes that the checkpoint carries; of other encoders nothing is known. "
        "Pretraining never reads a label, but it has seen these patients' images."
    ]
    return Section(
        "Test patients seen in pretraining",
        text,
        [Table(["task", "test patients", "seen in pretraining"], lines)],
    )


def _curve_sections(results: Sequence[Result]) -> list[Section]:
    shown = [r for r in results if r.encoder in encoders_of(results)]
    figures = []
    for metric in dict.fromkeys(r.kind.headline for r in shown):
        figures += _interval_figures([r for r in shown if r.kind.headline == metric])
    curves: dict[str, dict] = {}
    for r in shown:
        if r.kind.has_classes:
            curves.setdefault(r.task.name, {})[r.encoder] = (r.truth, r.predicted)
    sections = [Section("Intervals", figures=figures)]
    return [*sections, Section("ROC curves", figures=[roc_curves(curves)])] if curves else sections


def _interval_figures(results: Sequence[Result]) -> list[str]:
    """Forest plots of one headline metric: one, or one a task where each has its own unit."""
    by_task: dict[str, list[Bar]] = {}
    for name in encoders_of(results):
        for r in (r for r in results if r.encoder == name):
            h = r.headline
            by_task.setdefault(r.task.name, []).append(
                Bar(r.task.name, name, value=h.value, low=h.low, high=h.high)
            )
    by_task = {task: by_task[task] for task in dict.fromkeys(r.task.name for r in results)}
    kind = results[0].kind
    title = metric_label(kind.headline)
    if kind.headline in kind.lower_is_better:
        title += " (lower is better)"
    if kind.shares_axis:
        return [forest([bar for bars in by_task.values() for bar in bars], title, kind.chance)]
    return [forest(bars, title, kind.chance) for bars in by_task.values()]


def _number(value: Interval | None) -> str:
    return "not measured" if value is None else f"{value.value:.3f} {bounds_text(value)}"


def _tone(words: str) -> str:
    return "good" if words.startswith("better") else "bad" if words.startswith("worse") else ""
