"""Plots as data: they can be written to JSON and drawn as HTML of any width.

A forest plot is drawn in percent of its column: it is as wide as the page, while its text keeps its
size. Lines are drawn in panels, in a grid that wraps like text.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = ("#0072B2", "#E69F00", "#888888", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
MARKS = ("mo", "md", "ms", "mt")  # the page's classes of a disc, diamond, square, triangle
Number = float | int
TICKS = 5  # the most ticks of an axis
# The size of a panel and its margins, in units of about a pixel.
PANEL, LEFT, TOP, RIGHT, BOTTOM = (320, 264), 50, 10, 12, 44


@dataclass(frozen=True)
class ForestRow:
    """A value with its interval; NaN where there is none.

    Attributes:
      text: the value in words. `ci` is its interval, which a phone shows only as the bar.
      tip: the text that a pointer on the row shows.
      series: the place in the order of colours and marks.
    """

    name: str
    value: Number
    low: Number
    high: Number
    text: str
    ci: str = ""
    tip: str = ""
    series: int = 0


@dataclass(frozen=True)
class ForestGroup:
    """Rows under one heading.

    Attributes:
      note: beside the heading, in a softer colour.
      remarks: (words, tone) under the rows; a tone is "good", "bad" or "".
    """

    name: str
    rows: Sequence[ForestRow]
    note: str = ""
    remarks: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class ForestPlot:
    """Groups over one axis.

    Attributes:
      label: of the axis.
      reference: the value of a reference line, such as chance.
      log: whether the axis is logarithmic.
    """

    label: str
    groups: Sequence[ForestGroup]
    reference: Number | None = None
    log: bool = False


@dataclass(frozen=True)
class PlotLine:
    """A line of a panel. `tips` has a text a point, or none; `band` is (low, high) a point."""

    series: str
    x: Sequence[Number]
    y: Sequence[Number]
    tips: Sequence[str] = ()
    band: Sequence[tuple[Number, Number]] = ()
    dots: bool = True


@dataclass(frozen=True)
class PlotPanel:
    """Lines over two axes.

    Attributes:
      square: both axes run from 0 to 1, with the diagonal.
      x_ticks: ticks of a logarithmic x axis; the axis is linear if empty.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[PlotLine]
    square: bool = False
    x_ticks: Sequence[Number] = ()


@dataclass(frozen=True)
class PlotGrid:
    """Panels side by side, with one legend; `label` says what they show.

    Attributes:
      series: in the order of their colours, also those of other figures; empty: as they come.
    """

    label: str
    panels: Sequence[PlotPanel]
    series: Sequence[str] = ()


@dataclass(frozen=True)
class Share:
    """Counts that add up, as one bar: (count, words, tone)."""

    name: str
    parts: Sequence[tuple[int, str, str]]


@dataclass(frozen=True)
class ShareBars:
    """Bars of counts below each other."""

    label: str
    bars: Sequence[Share]


Plot = ForestPlot | PlotGrid | ShareBars


def draw(plot: Plot) -> str:
    """A plot as a piece of HTML."""
    if isinstance(plot, ForestPlot):
        return _forest(plot)
    return _grid(plot) if isinstance(plot, PlotGrid) else _bars(plot)


# ---- forest


@dataclass(frozen=True)
class PlotAxis:
    """The place of a number on an axis, in percent of its length."""

    low: Number
    high: Number
    ticks: Sequence[Number]
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[Number], log: bool = False) -> "PlotAxis":
        """An axis that holds all values that are not NaN, with round ticks."""
        known = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        if not known:
            return cls(0.0, 1.0, (0.0, 0.5, 1.0))
        if log:
            # Ratios beyond these limits are drawn at the end of the axis.
            low, high = max(min(known), 0.05) / 1.1, min(max(known), 50.0) * 1.1
            round_ones = (0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50)
            ticks = [t for t in round_ones if low <= t <= high]
            while len(ticks) > TICKS + 1:
                ticks = ticks[::2]
            return cls(math.log(low), math.log(high), ticks, log=True)
        low, high = min(known), max(known)
        # Where all values are equal the axis still needs a width.
        room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
        low, high = low - room, high + room
        return cls(low, high, round_ticks(low, high))

    def place(self, value: Number) -> float:
        """Percent from the beginning of the axis, between 0 and 100."""
        return min(max(self._percent(value), 0.0), 100.0)

    def cut(self, low: Number, high: Number) -> str:
        """Classes of a bar whose ends lie beyond the axis: " cut-low", " cut-high", both or ""."""
        below, above = self._percent(low) < 0, self._percent(high) > 100
        return " cut-low" * below + " cut-high" * above

    def _percent(self, value: Number) -> float:
        # A bound of 0 has no logarithm; raised to 1e-12 it lies beyond the left end.
        at = math.log(max(value, 1e-12)) if self.log else value
        return 100 * (at - self.low) / (self.high - self.low)


def round_ticks(low: Number, high: Number, most: int = TICKS) -> tuple[Number, ...]:
    """At most `most` round numbers between two numbers."""
    rough = (high - low) / most
    # The smallest of 1, 2, 2.5, 5, 10 times a power of ten that needs no more than `most` steps.
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounded, since 3 * 0.1 would be printed with its rounding error.
    return tuple(round(n * step, 12) for n in range(first, last + 1))


def _forest(plot: ForestPlot) -> str:
    rows = [row for group in plot.groups for row in group.rows]
    values = [v for row in rows for v in (row.low, row.value, row.high)]
    axis = PlotAxis.of([*values, *([] if plot.reference is None else [plot.reference])], plot.log)
    lines = "".join(f'<i class="tick" style="left:{axis.place(t):.2f}%"></i>' for t in axis.ticks)
    if plot.reference is not None:
        lines += f'<i class="tick ref" style="left:{axis.place(plot.reference):.2f}%"></i>'
    # A phone shows every second label.
    labels = "".join(
        f'<span class="{"odd" if n % 2 else "even"}" style="left:{axis.place(t):.2f}%">{t:g}</span>'
        for n, t in enumerate(axis.ticks)
    )
    blocks = "".join(_group(group, axis, lines) for group in plot.groups)
    label = plot.label + ("; an interval with an arrow goes on" if "cut-" in blocks else "")
    return (
        f'<div class="forest" role="group" aria-label="{_text(plot.label)} with 95 % intervals">'
        + blocks
        + f'<div class="row axis"><span></span><span class="track">{labels}</span><span></span>'
        f'</div><p class="axis-label">{_text(label)}</p></div>'
    )


def _group(group: ForestGroup, axis: PlotAxis, lines: str) -> str:
    note = f' <span class="soft">{_text(group.note)}</span>' if group.note else ""
    remarks = "".join(
        f'<p class="remark {tone}">{_text(words)}</p>' for words, tone in group.remarks
    )
    rows = "".join(_row(row, axis, lines) for row in group.rows)
    head = f'<p class="head"><b>{_text(group.name)}</b>{note}</p>' if group.name else ""
    return f'<div class="block">{head}{rows}{remarks}</div>'


def _row(row: ForestRow, axis: PlotAxis, lines: str) -> str:
    colour = f"--c:{COLOURS[row.series % len(COLOURS)]}"
    # After the last colour they begin again, with the next mark.
    mark = MARKS[row.series // len(COLOURS) % len(MARKS)]
    bar = ""
    if math.isfinite(row.low) and math.isfinite(row.high):
        left, right = axis.place(row.low), axis.place(row.high)
        place = f"left:{left:.2f}%;width:{right - left:.2f}%"
        bar += f'<i class="ci-bar{axis.cut(row.low, row.high)}" style="{place}"></i>'
    if math.isfinite(row.value):
        bar += f'<i class="mark {mark}" style="left:{axis.place(row.value):.2f}%"></i>'
    ci = f' <span class="ci">{_text(row.ci)}</span>' if row.ci else ""
    tip = f'<span class="tip" role="tooltip">{_text(row.tip)}</span>' if row.tip else ""
    return (
        f'<div class="row" tabindex="0" style="{colour}"><span class="name">'
        f'<i class="key {mark}"></i>{_text(row.name)}</span><span class="track">{lines}{bar}</span>'
        f'<span class="value">{_text(row.text)}{ci}</span>{tip}</div>'
    )


def _bars(plot: ShareBars) -> str:
    out = []
    for bar in plot.bars:
        parts = [(count, words, tone) for count, words, tone in bar.parts if count]
        drawn = "".join(
            f'<i class="{tone or "none"}" style="flex-grow:{count}"'
            f' title="{_text(words)}: {count}">{count}</i>'
            for count, words, tone in parts
        )
        said = ", ".join(f"{words} {count}" for count, words, _ in bar.parts)
        out.append(
            f'<div class="share"><span class="name">{_text(bar.name)}</span>'
            f'<span class="shares" role="img" aria-label="{_text(said)}">{drawn}</span>'
            f'<span class="soft said">{_text(said)}</span></div>'
        )
    label = _text(plot.label)
    return f'<div class="sharing" role="group" aria-label="{label}">{"".join(out)}</div>'


# ---- panels


def _grid(plot: PlotGrid) -> str:
    shown = list(dict.fromkeys(line.series for panel in plot.panels for line in panel.lines))
    series = list(dict.fromkeys([*plot.series, *shown]))
    legend = "".join(
        f'<span style="--c:{_colour(series, name)}"><i class="key mo"></i>{_text(name)}</span>'
        for name in series
        if name in shown
    )
    panels = "".join(
        f"<figure><figcaption>{_text(panel.title)}</figcaption>{_panel(panel, series)}</figure>"
        for panel in plot.panels
    )
    return f'<p class="legend">{legend}</p><div class="panels">{panels}</div>'


def _colour(series: Sequence[str], name: str) -> str:
    return COLOURS[series.index(name) % len(COLOURS)]


def _panel(panel: PlotPanel, series: Sequence[str]) -> str:
    width, height = PANEL[0] - LEFT - RIGHT, PANEL[1] - TOP - BOTTOM
    if panel.square:
        unit = PlotAxis(-0.02, 1.02, (0, 0.25, 0.5, 0.75, 1))
        across, up = unit, unit
    else:
        xs = [x for line in panel.lines for x in line.x]
        ys = [y for line in panel.lines for y in line.y]
        # The axis covers the bands too; otherwise they would be cut off.
        ys += [edge for line in panel.lines for pair in line.band for edge in pair]
        across, up = _across(xs, panel.x_ticks), PlotAxis.of(ys)

    def at(x: Number, y: Number) -> tuple[float, float]:
        return (
            LEFT + across.place(x) / 100 * width,
            # In SVG y grows downward.
            TOP + (1 - up.place(y) / 100) * height,
        )

    parts = [_frame(panel, across=across, up=up, width=width, height=height)]
    if panel.square:
        (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
        parts.append(f'<path class="grid ref" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>')
    for line in panel.lines:
        points = [at(x, y) for x, y in zip(line.x, line.y) if math.isfinite(x) and math.isfinite(y)]
        parts.append(_line(line, points, at, _colour(series, line.series)))
    label = f"{panel.title}: {panel.y_label} by {panel.x_label}"
    return (
        f'<svg viewBox="0 0 {PANEL[0]} {PANEL[1]}" role="img" aria-label="{_text(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _across(xs: Sequence[Number], log_ticks: Sequence[Number]) -> PlotAxis:
    """The x axis: logarithmic with these ticks, or linear if there are none."""
    if not log_ticks:
        return PlotAxis.of(xs)
    low, high = math.log(min(log_ticks)), math.log(max(log_ticks))
    room = 0.06 * (high - low) or 0.5
    # From the largest down: the largest count is always labelled.
    shown = [log_ticks[-1]]
    for tick in reversed(log_ticks[:-1]):  # labels that would touch are left out
        if (math.log(shown[-1]) - math.log(tick)) / (high - low + 2 * room) > 0.13:
            shown.append(tick)
    return PlotAxis(low - room, high + room, shown[::-1], log=True)


def _frame(panel: PlotPanel, *, across: PlotAxis, up: PlotAxis, width: int, height: int) -> str:
    """Grid lines, ticks and labels of a panel."""
    parts = []
    for tick in across.ticks:
        x = LEFT + across.place(tick) / 100 * width
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{TOP + height}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + height + 16}" text-anchor="middle">{tick:g}</text>'
        )
    for tick in up.ticks:
        y = TOP + (1 - up.place(tick) / 100) * height
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{LEFT + width}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(
        f'<text x="{LEFT + width / 2:.0f}" y="{PANEL[1] - 8}" text-anchor="middle">'
        f"{_text(panel.x_label)}</text>"
    )
    parts.append(
        f'<text transform="translate(13 {TOP + height / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{_text(panel.y_label)}</text>"
    )
    return "".join(parts)


def _line(line: PlotLine, points: Sequence[tuple[Number, Number]], at, colour: str) -> str:
    parts = []
    if line.band:
        # Out along the upper bounds and back along the lower ones: one closed outline.
        edges = [at(x, high) for x, (_, high) in zip(line.x, line.band) if math.isfinite(high)]
        edges += [at(x, low) for x, (low, _) in zip(line.x, line.band) if math.isfinite(low)][::-1]
        if edges:
            parts.append(f'<path class="band" fill="{colour}" d="M{_path(edges)}Z"/>')
    if points:
        parts.append(f'<path class="line" stroke="{colour}" d="M{_path(points)}"/>')
    for n, (x, y) in enumerate(points):
        tip = f"<title>{_text(line.tips[n])}</title>" if n < len(line.tips) else ""
        if line.dots or tip:
            # The points of a curve are invisible, but the pointer finds them.
            seen = "" if line.dots else ' opacity="0"'
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3.2 if line.dots else 7}" fill="{colour}"'
                f"{seen}>{tip}</circle>"
            )
    return "".join(parts)


def _path(points: Sequence[tuple[Number, Number]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> np.ndarray:
    """Positions of at most `most` points of a curve, evenly along its length, with both ends."""
    if len(x) <= most:
        return np.arange(len(x))
    # Length along the curve, not x: a ROC curve rises steeply where x hardly moves.
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    wanted = np.linspace(0, along[-1], most)
    return np.unique([0, len(x) - 1, *np.abs(along[None] - wanted[:, None]).argmin(axis=1)])


def _text(words: str) -> str:
    return html.escape(words)
