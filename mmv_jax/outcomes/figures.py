"""Figures of a cohort report: incidence with numbers at risk, hazard ratios, calibration.

Each function returns a plot or a piece of HTML.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib
import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmv_jax.outcomes.accuracy import DecisionCurve
from mmv_jax.outcomes.cox import Effect
from mmv_jax.outcomes.prediction import Worth
from mmv_jax.outcomes.ratios import AREAS_MM2
from mmv_jax.outcomes.survival import Curve
from mmv_jax.report.figures import STYLE, WIDTH, svg
from mmv_jax.report.plots import COLOURS, ForestGroup, ForestPlot, ForestRow

SEVERITY_COLOURS = {
    "zero": COLOURS[0],
    "mild": COLOURS[3],
    "moderate": COLOURS[1],
    "severe": COLOURS[5],
}
# index of a severity in the order of colours
SERIES = {"zero": 0, "mild": 3, "moderate": 1, "severe": 5}
LEVEL_NAMES = {"mild": "mild", "moderate": "moderate", "severe": "severe", "per_mm2": "per mm²"} | {
    f"at_{area:g}_mm2": f"{area:g} mm² against 0" for area in AREAS_MM2
}


def incidence(
    curves: Sequence[Curve], years: Sequence[float], at_risk: Int[np.ndarray, "G W"], label: str
) -> str:
    """Cumulative incidence in per cent with 95 % bands, and numbers at risk below.

    There is one curve per group. The axis ends where every group has fewer than ten women left:
    later a curve describes a few women.
    """
    # At least years[1], so that the axis of a small cohort has a length.
    last = max(
        year for year, left in zip(years, at_risk.max(axis=0)) if left >= 10 or year == years[1]
    )
    shown = [i for i, year in enumerate(years) if year <= last]
    top = max(1.0, *(100 * float(curve.value[curve.time <= last].max()) for curve in curves))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4 + 0.22 * len(curves)), layout="constrained")
        axes, table = figure.subplots(
            2, 1, sharex=True, height_ratios=[3.2, 0.22 * (len(curves) + 1)]
        )
        for curve in curves:
            colour, inside = SEVERITY_COLOURS[curve.name], curve.time <= last
            # A step curve needs a point at its end: the last value extends to the edge.
            time = np.append(curve.time[inside], last)
            value, low, high = (
                100 * np.append(y[inside], y[inside][-1])
                for y in (curve.value, curve.low, curve.high)
            )
            axes.fill_between(time, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
            axes.step(time, value, where="post", color=colour, linewidth=1.6, label=curve.name)
        axes.set(ylim=(0, 1.12 * top), ylabel=f"{label} (%)")
        axes.set_xlim(0, last)
        axes.legend(frameon=False, loc="upper left")
        axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
        _numbers_at_risk(
            table, [curve.name for curve in curves], [years[i] for i in shown], at_risk[:, shown]
        )
        axes.set_xticks([years[i] for i in shown])
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("years since the mammogram")
        return svg(figure, f"{label} by severity, with numbers at risk")


def _numbers_at_risk(
    axes: Axes, names: Sequence[str], years: Sequence[float], at_risk: np.ndarray
) -> None:
    axes.set_axis_off()
    # Upside down: the heading is at -1, and the first group, at 0, is below it.
    axes.set_ylim(len(names) - 0.4, -1.5)
    # x as a share of the axes, y in rows: names keep their place for any range of years.
    beside = axes.get_yaxis_transform()
    axes.text(
        -0.06, -1, "at risk", transform=beside, ha="right", va="center", color="#5c6675", fontsize=9
    )
    for row, name in enumerate(names):
        axes.text(
            -0.06,
            row,
            name,
            transform=beside,
            ha="right",
            va="center",
            color=SEVERITY_COLOURS[name],
            fontsize=9,
        )
        for year, left in zip(years, at_risk[row]):
            axes.text(year, row, f"{left:,}", ha="center", va="center", fontsize=9)


def hazard_ratios(groups: Mapping[str, Mapping[str, Effect]], label: str) -> ForestPlot:
    """Forest plot on a log scale: a block per model, a line per level, the numbers beside it.

    Severities are compared with zero.
    """
    levels = list(dict.fromkeys(level for effects in groups.values() for level in effects))
    blocks = []
    for group, effects in groups.items():
        rows = []
        for level, effect in effects.items():
            ratio, ci = ratio_words(effect).split(" ", 1)
            name = LEVEL_NAMES.get(level, level)
            rows.append(
                ForestRow(
                    name,
                    effect.hazard_ratio,
                    *effect.ci95,
                    text=ratio,
                    ci=ci,
                    tip=f"{group}, {name}: {label} {ratio} {ci}",
                    series=SERIES.get(level, 4 + levels.index(level)),
                )
            )
        blocks.append(ForestGroup(group, rows))
    return ForestPlot(f"{label}, on a log scale", blocks, reference=1.0, log=True)


def ratio_words(effect: Effect) -> str:
    """Hazard ratio as text: '1.41 (1.31–1.50)', with three decimals for a ratio per mm²."""
    digits = 3 if effect.name == "per_mm2" else 2
    low, high = effect.ci95
    return f"{effect.hazard_ratio:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def calibration(risks: Sequence[Worth], years: float) -> list[str]:
    """Calibration plots: observed against predicted risk by `years`, one figure per risk.

    Points are tenths of predicted risk. On the diagonal, observed equals predicted.
    """
    risks = [risk for risk in risks if years in risk.calibration]
    # per cent, and a margin
    top = 103 * max(
        max(r.calibration[years].high.max(), r.calibration[years].predicted.max()) for r in risks
    )
    return [_calibration(r, years, top=top, colour=c) for r, c in zip(risks, cycle(COLOURS))]


def _calibration(risk: Worth, years: float, *, top: float, colour: str) -> str:
    found = risk.calibration[years]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.9 * WIDTH, 0.8 * WIDTH), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, top], [0, top], color="#cccccc", linewidth=0.8)
        axes.vlines(
            100 * found.predicted,
            100 * found.low,
            100 * found.high,
            color=colour,
            linewidth=2,
            alpha=0.5,
        )
        for x, y in zip(100 * found.predicted, 100 * found.observed):
            tip = f"tip: predicted {x:.1f} %, observed {y:.1f} %"
            axes.plot(x, y, "o", color=colour, markersize=4, gid=tip)
        low, high = found.ratio_ci95
        axes.set(
            xlabel="predicted (%)",
            ylabel=f"observed by {years:g} years (%)",
            aspect="equal",
            xlim=(0, top),
            ylim=(0, top),
        )
        axes.set_title(
            f"{risk.name}\nobserved / predicted {found.ratio:.2f} ({low:.2f}–{high:.2f})",
            fontsize=9,
        )
        return svg(figure, f"Calibration of {risk.name} at {years:g} years")


def decision_curves(curve: DecisionCurve, score: str) -> str:
    """Net benefit by threshold of treating by the score, by score and calcification, and of all."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.add_subplot()
        lines = {
            "score": (curve.without, COLOURS[0]),
            "score and calcification": (curve.with_it, COLOURS[5]),
            "treat all": (curve.of_all, "#999999"),
        }
        for name, (values, colour) in lines.items():
            axes.plot(100 * curve.thresholds, 1000 * values, color=colour, label=name)
        axes.axhline(0, color="#cccccc", linewidth=0.8)
        top = 1000 * max(curve.without.max(), curve.with_it.max())
        axes.set(
            xlabel="treated from a risk of (%)",
            ylabel="net benefit in 1,000 women",
            # Treating all falls far below 0 at high thresholds and would flatten the other curves.
            ylim=(-0.1 * top, 1.1 * top) if top > 0 else None,
        )
        axes.set_title(f"{score}, {curve.years:g} years", fontsize=9)
        axes.legend(frameon=False)
        return svg(figure, f"Decision curve of {score} at {curve.years:g} years")
