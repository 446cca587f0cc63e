"""Results in words: the table of all tasks, and the sections of the report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.evaluate.fewshot import Point
from mmv_jax.evaluate.kinds.table import metric_label
from mmv_jax.evaluate.measure import Comparison, Result
from mmv_jax.evaluate.operating import GroupRates, Operating
from mmv_jax.evaluate.report.about import evaluated_words
from mmv_jax.evaluate.report.budgets import budget_sections
from mmv_jax.evaluate.report.glance import (
    encoders_of,
    glance_sections,
    rests_on,
    rivals_of,
    scores,
    tone_of,
)
from mmv_jax.evaluate.report.method import method
from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.report.operating_sections import (
    fairness_sections,
    operating_sections,
    shift_sections,
)
from mmv_jax.evaluate.report.sections import (
    CALIBRATED_FROM,
    calibration_sections,
    confounder_sections,
    curve_sections,
    few_shot_sections,
    in_colours_of,
    metric_cell,
    subgroup_sections,
    value_cell,
    variant_sections,
)
from mmv_jax.evaluate.shifts import Shifted
from mmv_jax.evaluate.subgroups import Confounded, GroupResult
from mmv_jax.metrics.intervals import Interval, bounds_text, value_text
from mmv_jax.report.page import Cell, Section, Strip, Table, write_page

SHOWN_FIRST = 2  # strips of outlines among the results; the others are in the details
NAMED = 3  # tasks that a sentence of the verdict names


def table_of(results: Sequence[Result], comparisons: Sequence[Comparison]) -> str:
    """The headline of every task as lines of text, with the comparison to each floor."""
    found = {(r.task.name, r.encoder): r for r in results}
    shown = encoders_of(results)
    heads = "; ".join(f"against {name}" for name in rivals_of(comparisons))
    lines = [["task", "metric", *shown, heads]]
    for task in dict.fromkeys(r.task.name for r in results):
        metric = found[task, shown[0]].kind.headline
        cells = [found[task, name].headline if (task, name) in found else None for name in shown]
        told = [c.verdict for c in comparisons if c.task == task and c.is_headline]
        words = "; ".join(map(Names().said, told))
        lines.append([task, metric_label(metric), *map(_short, cells), words])
    widths = [max(map(len, column)) for column in zip(*lines)]
    why = {f"{r.task.name}: no interval, {r.headline.why}" for r in results if r.headline.why}
    return "\n".join(
        [
            *("  ".join(x.ljust(w) for x, w in zip(line, widths)).rstrip() for line in lines),
            *sorted(why),
        ]
    )


def _short(value: Interval | None) -> str:
    """A value with its interval; why there is none is said below the table."""
    if value is not None and np.isnan(value.low):
        return f"{value_text(value)} (no interval)"
    return _number(value)


def overall(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """One comparison a task and rival: the headline's, which is no win where another judged metric
    is worse (a heart that overlaps well and has a piece far away).
    """
    found = []
    for c in (c for c in comparisons if c.is_headline):
        worse = [
            metric_label(other.metric)
            for other in comparisons
            if (other.task, other.first, other.second) == (c.task, c.first, c.second)
            and not other.is_headline
            and tone_of(other.verdict) == "bad"
        ]
        mixed = tone_of(c.verdict) == "good" and worse
        said = f"mixed: {c.verdict}, worse in {' and '.join(worse)}" if mixed else ""
        found.append(replace(c, said=said))
    return found


def verdict(comparisons: Sequence[Comparison], n_tasks: int, names: Names) -> list[str]:
    """The numbers of tasks that were better and worse, in sentences."""
    sentences = []
    for rival in rivals_of(comparisons):
        own = [c for c in comparisons if c.second == rival]
        won, lost = (
            [names.task(c.task) for c in own if tone_of(c.verdict) == tone]
            for tone in ("good", "bad")
        )
        text = f"Against {names.encoder(rival)}, the trained encoder is better in {_some(won)}"
        text += f" of {n_tasks} tasks" if not won else ""
        text += f"; worse in {_some(lost)}." if lost else "."
        sentences.append(text)
    return sentences


def _some(tasks: Sequence[str]) -> str:
    """Tasks in words: '3 tasks: A (CT), B (CT) and 1 more', at most three by name."""
    if not tasks:
        return "none"
    named = list(tasks[:NAMED]) + ([f"{len(tasks) - NAMED} more"] if len(tasks) > NAMED else [])
    listed = named[0] if len(named) == 1 else ", ".join(named[:-1]) + f" and {named[-1]}"
    return f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}: {listed}"


@dataclass(frozen=True)
class Findings:
    """The contents of a report.

    Attributes:
      overlaps: by task, the number of measured patients, and how many pretraining has seen (None:
        unknown).
      why_no_overlap: why they cannot be counted; "" where they can.
      uncounted: encoders of others of whose training nothing is known.
      outlined, maps: pictures of segmentations, and of features by encoder.
      record: where the numbers come from, of `provenance.provenance`.
      variants: comparisons of heads and end-to-end fits.
      names: of tasks and encoders.
      title: of the page; "" for the default.
      about, protocol: sections on what was evaluated and on whom; on flow and checklists.
      notices: that a reader must not miss.
      folds: of cross-validation; 0 where the store's test was measured.
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
    operating: Sequence[Operating] = ()
    rates: Sequence[GroupRates] = ()
    shifted: Sequence[Shifted] = ()
    variants: Sequence[Comparison] = ()
    subspaces: Sequence[Section] = ()
    names: Names = field(default_factory=Names)
    title: str = ""
    about: Sequence[Section] = ()
    protocol: Sequence[Section] = ()
    notices: Sequence[str] = ()
    uncounted: Sequence[str] = ()
    folds: int = 0


def write_report(path: Path, found: Findings) -> None:
    """Write `report.html` and, beside it, `report.json`."""
    names, tasks = found.names, list(dict.fromkeys(r.task.name for r in found.results))
    headlines = overall(found.comparisons)
    first, more = glance_sections(found.results, headlines, names)
    pictures, more_pictures = _picture_sections(found.outlined, found.maps, names)
    write_page(
        path,
        found.title or "What the encoder is worth",
        f"{evaluated_words(found.record)}. {len(tasks)} tasks,"
        f" {len(encoders_of(found.results))} encoders; random weights and pixels are the floors.",
        verdict(headlines, len(tasks), names),
        sections=[
            first,
            *pictures,
            *found.about,
            *more,
            *more_pictures,
            *in_colours_of(
                [names.encoder(name) for name in encoders_of(found.results)],
                [
                    *curve_sections(found.results, names),
                    *few_shot_sections(found.points, names),
                    *calibration_sections(found.results, names),
                ],
            ),
            headline_section(found.results, headlines, names),
            *subgroup_sections(found.groups, names),
            *fairness_sections(found.rates, names),
            *operating_sections(found.operating, names),
            *shift_sections(found.shifted, names),
            *confounder_sections(found.confounded, names),
            details_section(found.results, names),
            comparison_section(found.comparisons, names),
            *variant_sections(found.variants, names),
            *budget_sections(found.results, names),
            *(replace(section, fold=True) for section in found.subspaces),
            overlap_section(found.overlaps, found.why_no_overlap, names, found.uncounted),
            *found.protocol,
            Section("How it was measured", method(found.folds), fold=True),
            Section(
                "Configuration",
                pre=json.dumps(found.record, indent=2),
                pre_title="checkpoint, store, config and versions (provenance.json)",
                fold=True,
            ),
        ],
        notices=found.notices,
        glance=[scores(headlines, len(tasks), names)],
    )


def _picture_sections(
    outlined: Sequence[Strip], maps: Mapping[str, Sequence[Strip]], names: Names
) -> tuple[list[Section], list[Section]]:
    """The first outlines, which are shown among the results, and all other pictures."""
    text = ["Best, middle and worst, chosen by their score alone."]
    first, rest = outlined[:SHOWN_FIRST], outlined[SHOWN_FIRST:]
    sections = [Section("Segmentations", text, strips=first)] if first else []
    more = [Section("More segmentations", text, strips=rest, fold=True)] if rest else []
    if any(maps.values()):
        text = [
            "The first three principal components of the patch tokens as red, green and blue, with"
            " random weights below for comparison."
        ]
        named = [
            replace(s, caption=f"Encoder: {names.encoder(name)}. {s.caption}")
            for name, strips in maps.items()
            for s in strips
        ]
        title = "What the patch features look like"
        more.append(Section(title, text, strips=named, fold=True))
    return sections, more


def headline_section(
    results: Sequence[Result], comparisons: Sequence[Comparison], names: Names
) -> Section:
    """The table of tasks by encoders, with the best value of a line in bold, and comparisons."""
    found, shown, rivals = (
        {(r.task.name, r.encoder): r for r in results},
        encoders_of(results),
        rivals_of(comparisons),
    )
    lines = []
    for task in dict.fromkeys(r.task.name for r in results):
        own = [found.get((task, name)) for name in shown]
        first = next(r for r in own if r is not None)
        for metric in first.kind.judged or (first.kind.headline,):
            line = [Cell(names.task(task)), *_metric_cells(own, metric)]
            # The words are of all judged metrics together, and stand beside the headline.
            if metric == first.kind.headline:
                words = {c.second: c.verdict for c in comparisons if c.task == task}
                told = [words.get(rival, "not measured") for rival in rivals]
                line += [Cell(names.said(w), tone=tone_of(w)) for w in told]
            else:
                line += [Cell("")] * len(rivals)
            lines.append([*line, Cell(rests_on(first))])
    columns = [
        "task",
        "metric",
        *map(names.encoder, shown),
        *(f"trained against {names.encoder(name)}" for name in rivals),
        "rests on",
    ]
    return Section(
        "Tasks by encoders",
        ["Bold: the best value of a line. Its lead over the next one may be chance."],
        [Table(columns, lines)],
        fold=True,
    )


def _metric_cells(own: Sequence[Result | None], metric: str) -> list[Cell]:
    """A metric's name, and its value of each encoder, the best in bold."""
    values = [np.nan if r is None else r.metrics[metric].value for r in own]
    kind = next(r for r in own if r is not None).kind
    lower = metric in kind.lower_is_better
    # nanmin warns where everything is NaN, so that case comes first.
    best = None if np.isnan(values).all() else np.nanmin(values) if lower else np.nanmax(values)
    cells = [Cell(metric_label(metric) + (" (lower is better)" if lower else ""))]
    for r, value in zip(own, values):
        # NaN equals nothing, so what was not measured is never the best.
        cell = Cell("not measured") if r is None else value_cell(r.metrics[metric])
        cells.append(Cell(cell.text, cell.ci, "best") if value == best else cell)
    return cells


def details_section(results: Sequence[Result], names: Names) -> Section:
    """Every pooling and metric, one table a kind of task."""
    tables = []
    for kind in dict.fromkeys(r.task.kind for r in results):
        own = [r for r in results if r.task.kind == kind]
        # The union over all results: kNN, for example, exists only for the headline features.
        metrics = list(dict.fromkeys(metric for r in own for metric in r.metrics))
        lines = [
            [
                Cell(names.task(r.task.name)),
                Cell(names.encoder(r.encoder)),
                *(metric_cell(r, m) for m in metrics),
                Cell(r.choice),
            ]
            for r in own
        ]
        tables.append(
            Table(["task", "encoder", *map(metric_label, metrics), "chosen on val"], lines)
        )
    text = [
        "CLS and the patch mean are the two halves of the headline features, each probed alone;"
        " “patches of the region” is the mean of the patch tokens inside a marked region.",
        f"Calibration is shown from {CALIBRATED_FROM} positive studies on.",
    ]
    return Section("Every pooling and metric", text, tables, fold=True)


def comparison_section(comparisons: Sequence[Comparison], names: Names) -> Section:
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
                Cell(names.task(c.task)),
                Cell(metric_label(c.metric)),
                Cell(names.encoder(c.second)),
                Cell(f"{d.value:+.3f}", bounds_text(d, "+.3f")),
                Cell(p),
                Cell(names.said(c.verdict), tone=tone_of(c.verdict)),
            ]
        )
    text = ["Positive: the trained encoder is better, whatever the direction of the metric."]
    return Section(
        "Differences on the same patients",
        text,
        [Table(["task", "metric", "against", "better by", "corrected p", "in words"], lines)],
        fold=True,
    )


def overlap_section(
    overlaps: Mapping[str, tuple[int, int | None]],
    why_not: str,
    names: Names,
    uncounted: Sequence[str] = (),
) -> Section:
    """The numbers of measured patients that the encoder has seen in pretraining.

    Args:
      uncounted: encoders of others of whose training nothing is known.
    """
    title = "Measured patients seen in pretraining"
    if why_not:
        return Section(title, [f"They cannot be counted: {why_not}."], fold=True)
    lines = [
        [Cell(names.task(task)), Cell(str(patients)), Cell(str(seen), tone="bad" if seen else "")]
        for task, (patients, seen) in overlaps.items()
    ]
    text = [
        "Counted by keyed hashes in the checkpoint, and by the data sets that converted encoders"
        " declare. Pretraining never reads a label, but it has seen these patients' images."
    ]
    if uncounted:
        told = ", ".join(names.encoder(name) for name in uncounted)
        text.append(
            f"Not counted, since what they were trained on is not known: {told}. They may have seen"
            " measured patients, which flatters them."
        )
    table = Table(["task", "measured patients", "seen in pretraining"], lines)
    return Section(title, text, [table], fold=True)


def _number(value: Interval | None) -> str:
    return "not measured" if value is None else f"{value_text(value)} {bounds_text(value)}"
