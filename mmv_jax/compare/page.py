"""The comparison of runs, as text and as a page."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mmv_jax.compare.paired import Pair, pairs
from mmv_jax.compare.runs import Run, open_runs
from mmv_jax.evaluate.kinds.table import metric_label
from mmv_jax.metrics.intervals import bounds_text
from mmv_jax.provenance import date_in_words, versions_in_words
from mmv_jax.report.figures import STYLE, svg
from mmv_jax.report.page import Cell, Section, Table, write_page
from mmv_jax.report.plots import COLOURS

WINDOW = 100  # a last figure is of so many steps, or of a quarter of a short run
CURVES = ("loss", "rank", "std", "lr", "tokens_per_s", "mfu")
# What is shown of the last steps; of other figures the last value is shown. A step that was timed
# behind a save seems a hundred times as fast, which would spoil a mean.
MIDDLES = {"loss": statistics.fmean} | dict.fromkeys(
    ("tokens_per_s", "studies_per_s", "mfu"), statistics.median
)
NAMES = {
    "rank": "effective rank",
    "std": "spread of features",
    "lr": "learning rate",
    "tokens_per_s": "tokens a second",
    "studies_per_s": "studies a second",
    "mfu": "MFU",
}
BARS = "▁▂▃▄▅▆▇█"
RATES = ("tokens_per_s", "mfu")  # a few steps seem far too fast, and would set the scale
COLUMNS = 40  # width of a curve as text
ABSENT = "–"
Lines = Sequence[Sequence[str]]


def compare(paths: Sequence[Path], out: Path) -> str:
    """Compare runs and write the page `out`.

    It has the last figures, the curves, the differences of the configs, and paired tests on the
    same test studies if the runs were evaluated.

    Returns:
      The same as text, and the path of the page.
    Raises:
      UserError: see `open_runs`.
    """
    runs = open_runs(paths)
    found, why = pairs(runs)
    tables = {
        "Last figures": (("figure", *(run.name for run in runs)), last_figures(runs)),
        "Config": (("key", *(run.name for run in runs)), differences(runs)),
        "Evaluation": (("task", "metric", *(run.name for run in runs)), evaluated(runs)),
        "Same test studies": (
            ("task", "second against first", "metric", "better by", "studies", "p (Holm)", ""),
            [_words_of(pair) for pair in found],
        ),
    }
    notes = {
        "Config": ["No value differs."] if not tables["Config"][1] else [],
        "Same test studies": why,
    }
    write_page(
        out,
        title=f"Comparison of {len(runs)} runs",
        subtitle=", ".join(run.name for run in runs),
        verdict=[_verdict(found)],
        sections=_sections(runs, tables, notes),
    )
    return _as_text(runs, tables, notes) + f"\n\npage: {out}"


def last_figures(runs: Sequence[Run]) -> list[list[str]]:
    """One line a figure, one cell a run."""
    names = list(dict.fromkeys(name for run in runs for line in run.lines[-1:] for name in line))
    # Probes do not run in every step, so the last line may lack them.
    looked = [n for run in runs for line in run.lines for n in line if n.startswith("knn_")]
    wanted = ["loss", "rank", "std", "lr", "tokens_per_s", "studies_per_s", "mfu", *looked]
    lines = [["steps", *(str(int(run.lines[-1]["step"]) + 1 if run.lines else 0) for run in runs)]]
    for name in dict.fromkeys(wanted):
        cells = [_last(run, name) for run in runs]
        if name in names or any(cell != ABSENT for cell in cells):
            lines.append([_readable(name), *cells])
    return lines


def _readable(name: str) -> str:
    """The name of a figure of the log; `knn_CT` is "kNN, CT"."""
    return NAMES.get(name, name.replace("knn_", "kNN, "))


def _last(run: Run, name: str) -> str:
    values = [float(line[name]) for line in run.lines if name in line]
    # A skipped step may have logged NaN, which would make the mean NaN.
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ABSENT
    window = max(1, min(WINDOW, len(values) // 4))
    return f"{MIDDLES[name](values[-window:]) if name in MIDDLES else values[-1]:.4g}"


def differences(runs: Sequence[Run]) -> list[list[str]]:
    """One line for each key in which the configs differ."""
    # An evaluation alone has no config: it would differ in every key.
    trained = [run for run in runs if run.config]
    names = sorted({name for run in trained for name in run.config})
    return [
        [name, *(_value(run, name) for run in runs)]
        for name in names
        if len({_value(run, name) for run in trained}) > 1
    ]


def _value(run: Run, name: str) -> str:
    return repr(run.config[name]) if name in run.config else ABSENT


def evaluated(runs: Sequence[Run]) -> list[list[str]]:
    """The headline of each task with its interval: one line a task, one cell a run."""
    # The first metric of a task is its headline.
    headlines = {task: next(iter(of)) for run in runs for task, of in run.metrics.items()}
    return [
        [
            task,
            metric_label(metric),
            *(_interval(run.metrics.get(task, {}).get(metric)) for run in runs),
        ]
        for task, metric in headlines.items()
    ]


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return ABSENT
    low, high = found["ci95"]
    return f"{found['value']:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _words_of(pair: Pair) -> list[str]:
    d = pair.better_by
    return [
        pair.task,
        f"{pair.second} against {pair.first}",
        metric_label(pair.metric),
        f"{d.value:+.3f} {bounds_text(d, '+.3f')}",
        f"{pair.studies} of {pair.of}",
        f"{pair.p_holm:.3g}",
        pair.verdict,
    ]


def _verdict(found: Sequence[Pair]) -> str:
    # NaN is below nothing, so pairs without a defined p-value do not count.
    told = [pair for pair in found if pair.p_holm < 0.05]
    if not found:
        return "The runs were not evaluated on the same test studies: only their logs are compared."
    if not told:
        return f"No significant difference in {len(found)} paired comparisons."
    named = "; ".join(f"{pair.task}: {pair.verdict}" for pair in told[:5])
    return f"{len(told)} of {len(found)} paired comparisons show a difference. {named}."


def _sections(
    runs: Sequence[Run], tables: Mapping[str, tuple[Sequence[str], Lines]], notes: Mapping
) -> list[Section]:
    sections = list[Section]()
    for title, (columns, lines) in tables.items():
        own = [Table(columns, [[Cell(text) for text in line] for line in lines])] if lines else []
        text = [*notes.get(title, ())]
        if own or text:
            sections.append(Section(title, text=text, tables=own))
    drawn = [draw(runs, name) for name in CURVES if any(_curve(run, name)[1] for run in runs)]
    if drawn:
        # The last figures come first, the curves after them.
        sections.insert(1, Section("Curves", figures=drawn))
    made = [("compared", date_in_words()), ("software", versions_in_words())]
    return [*sections, Section("How this page was made", facts=made)]


def draw(runs: Sequence[Run], name: str) -> str:
    """A figure of the log over the steps, one line a run, as inline SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for n, run in enumerate(runs):
            steps, values = _curve(run, name)
            if not values:
                continue
            colour, window = COLOURS[n % len(COLOURS)], len(values) // 40
            # The thin line has every step, the thick one a centred moving median.
            smooth = [
                statistics.median(values[max(0, i - window) : i + window + 1])
                for i in range(len(values))
            ]
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, smooth, color=colour, linewidth=1.8, label=run.name)
        if name in RATES:
            axes.set_ylim(0, _top([value for run in runs for value in _curve(run, name)[1]]))
        axes.set_title(_readable(name), fontsize=10.5, loc="left")
        axes.set_xlabel("step")
        axes.grid(color="#eeeeee", linewidth=0.6)
        axes.legend(frameon=False, fontsize=9)
        return svg(figure, f"{_readable(name)} over the steps")


def _top(values: list[float]) -> float:
    """A fifth above the value that 95 % of the steps stay below."""
    return 1.2 * sorted(values)[int(0.95 * (len(values) - 1))]


def _curve(run: Run, name: str) -> tuple[list[float], list[float]]:
    points = [(float(line["step"]), float(line[name])) for line in run.lines if name in line]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    return [step for step, _ in points], [value for _, value in points]


def curve_as_text(run: Run, name: str, span: tuple[float, float], steps: int) -> str:
    """A curve as a line of block characters, from step 0 to `steps`.

    `span` is the lowest and highest value of all runs.
    """
    at, values = _curve(run, name)
    low, high = span
    cells = []
    for n in range(COLUMNS):
        # Column n is the mean over the n-th of COLUMNS equal parts of the longest run.
        inside = [v for s, v in zip(at, values) if n <= s * COLUMNS / max(steps, 1) < n + 1]
        if not inside:
            cells.append(" ")
            continue
        height = (statistics.fmean(inside) - low) / max(high - low, 1e-12)
        # The highest value would fall one past the last bar.
        cells.append(BARS[min(int(height * len(BARS)), len(BARS) - 1)])
    return "".join(cells).rstrip()


def _as_text(
    runs: Sequence[Run], tables: Mapping[str, tuple[Sequence[str], Lines]], notes: Mapping
) -> str:
    parts = []
    for title, (columns, lines) in tables.items():
        own = [*_aligned([columns, *lines])] if lines else []
        if own or notes.get(title):
            parts.append("\n".join([title, *own, *notes.get(title, ())]))
        if title == "Last figures":
            parts += [_curves_as_text(runs, name) for name in ("loss", "rank")]
    return "\n\n".join(part for part in parts if part)


def _curves_as_text(runs: Sequence[Run], name: str) -> str:
    everything = [value for run in runs for value in _curve(run, name)[1]]
    if not everything:
        return ""
    span = min(everything), max(everything)
    steps = max(int(run.lines[-1]["step"]) + 1 for run in runs if run.lines)
    drawn = [[run.name, curve_as_text(run, name, span, steps)] for run in runs]
    head = f"{_readable(name)}, from {span[0]:.4g} to {span[1]:.4g}, over {steps} steps"
    return "\n".join([head, *_aligned(drawn)])


def _aligned(lines: Lines) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ["  ".join(x.ljust(w) for x, w in zip(line, widths)).rstrip() for line in lines]
