"""The first section of the report: every task's headline with its interval.

It also shows the comparisons, and the numbers of studies and positives behind each value.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.table import metric_label
from mmv_jax.evaluate.measure import FLOORS, Comparison, Result
from mmv_jax.evaluate.report.names import Names
from mmv_jax.metrics.intervals import Interval, bounds_text, value_text
from mmv_jax.report.page import Section
from mmv_jax.report.plots import ForestGroup, ForestPlot, ForestRow, Share, ShareBars

# Limits for the first screens of a phone: lines of text in all, and encoders a task.
MOST_LINES = 84
MOST_ENCODERS = 6


def encoders_of(results: Sequence[Result]) -> list[str]:
    """The encoders with their headline pooling, the trained one first."""
    return sorted(
        dict.fromkeys(r.encoder for r in results if "/" not in r.encoder),
        # Any other name sorts last. Sorting is stable, so these keep their order.
        key=lambda name: ["trained", *FLOORS, name].index(name),
    )


def rivals_of(comparisons: Sequence[Comparison]) -> list[str]:
    """The encoders that the trained one is compared with, in order."""
    return list(dict.fromkeys(c.second for c in comparisons))


def tone_of(words: str) -> str:
    """The colour of a comparison."""
    return "good" if words.startswith("better") else "bad" if words.startswith("worse") else ""


def rests_on(result: Result) -> str:
    """The numbers behind a value: '25 test studies of 20 patients, 8 positive'."""
    task, test = result.task, result.task.split == "test"
    patients = len(set(task.patients[test].tolist()))
    words = f"{test.sum():,} {task.measured} of {patients:,} patients"
    if result.kind.is_mask:
        return f"{words}, {int((~np.isnan(result.by_study['dice'])).sum()):,} with the structure"
    if result.kind.has_classes:
        return f"{words}, {int((result.truth == 1).sum()):,} positive"
    return words


def scores(comparisons: Sequence[Comparison], n_tasks: int, names: Names) -> ShareBars:
    """Numbers of tasks in which the trained encoder is better, worse, or neither, by rival."""
    bars = []
    for rival in rivals_of(comparisons):
        tones = [tone_of(c.verdict) for c in comparisons if c.second == rival]
        parts = [("good", "better in"), ("", "no significant difference in"), ("bad", "worse in")]
        counts = [(tones.count(tone), words, tone) for tone, words in parts]
        bars.append(Share(f"against {names.encoder(rival)}", counts))
    return ShareBars(f"Won and lost in {n_tasks} tasks", bars)


def glance_sections(
    results: Sequence[Result], comparisons: Sequence[Comparison], names: Names
) -> tuple[Section, list[Section]]:
    """The tasks that fit on the first screens, and a folded section with the others."""
    tasks = list(dict.fromkeys(r.task.name for r in results))
    shown, lines = list[str](), 0
    for task in tasks:
        # An estimate: four lines a task, one an encoder, one for two rivals.
        lines += 4 + len(_shown_encoders(results, task)) + len(rivals_of(comparisons)) // 2
        # `lines` only grows, so the tasks shown are the first ones, and at least one is.
        if lines <= MOST_LINES or not shown:
            shown.append(task)
    text = [
        "Dots are point estimates, bars 95 % confidence intervals. Below each task are the results"
        " of paired tests of the trained encoder. The dashed line is chance."
    ]
    if rest := tasks[len(shown) :]:
        text.append(f"{len(rest)} more tasks are under “More tasks”.")
    first = Section("Results", text, figures=_plots(results, comparisons, shown, names=names))
    if not rest:
        return first, []
    more = _plots(results, comparisons, rest, names=names)
    return first, [Section("More tasks", figures=more, fold=True)]


def _shown_encoders(results: Sequence[Result], task: str) -> list[str]:
    """The trained encoder, the floors, and the best of the others."""
    own = {r.encoder: r for r in results if r.task.name == task and "/" not in r.encoder}
    order = encoders_of(list(own.values()))
    always = [name for name in order if name in ("trained", *FLOORS)]
    kind = next(iter(own.values())).kind
    # With this sign an ascending sort puts the best first, and NaN, taken as inf, last.
    sign = 1 if kind.headline in kind.lower_is_better else -1
    others = sorted(
        (name for name in order if name not in always),
        key=lambda name: np.nan_to_num(sign * own[name].headline.value, nan=np.inf),
    )
    best = set(others[: MOST_ENCODERS - len(always)])
    return [name for name in order if name in always or name in best]


def _plots(
    results: Sequence[Result], comparisons: Sequence[Comparison], tasks: Sequence[str], *, names
) -> list[ForestPlot]:
    """A forest plot for each headline metric, or for each task if tasks have their own units."""
    found = {(r.task.name, r.encoder): r for r in results}
    kinds = {task: next(r.kind for r in results if r.task.name == task) for task in tasks}
    series = encoders_of(results)

    def group(task: str) -> ForestGroup:
        own = [found[task, name] for name in _shown_encoders(results, task)]
        rows = [_row(r, names, series.index(r.encoder)) for r in own]
        own_words: dict[str, list[str]] = {}
        for c in (c for c in comparisons if c.task == task):
            # Rivals with the same verdict share one remark.
            own_words.setdefault(c.verdict, []).append(names.encoder(c.second))
        remarks = [
            (f"{_capital(names.said(words))}, against {' and '.join(rivals)}.", tone_of(words))
            for words, rivals in own_words.items()
        ]
        return ForestGroup(names.task(task), rows, rests_on(own[0]), remarks)

    plots = []
    # groupby joins only neighbours; results arrive sorted by kind of task.
    for _, members in groupby(tasks, key=lambda t: (kinds[t].headline, kinds[t])):
        together = list(members)
        kind = kinds[together[0]]
        parts = [together] if kind.shares_axis else [[task] for task in together]
        plots += [ForestPlot(_axis(kind), list(map(group, part)), kind.chance) for part in parts]
    return plots


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _axis(kind: Kind) -> str:
    lower = " (lower is better)" if kind.headline in kind.lower_is_better else ""
    return metric_label(kind.headline) + lower


def _row(result: Result, names: Names, series: int) -> ForestRow:
    value: Interval = result.headline
    name, known = names.encoder(result.encoder), not np.isnan(value.value)
    text = value_text(value) if known else "not defined"
    bounds = bounds_text(value) if known else value.why
    label = metric_label(result.kind.headline)
    tip = f"{names.task(result.task.name)}, {name}: {label} {text} {bounds}, n = {value.n}"
    return ForestRow(
        name, value.value, value.low, value.high, text=text, ci=bounds, tip=tip, series=series
    )
