"""Plots as HTML: where values stand, and what a pointer is told."""

import math
import re

import numpy as np
import pytest

from mmv_jax.report.plots import (
    COLOURS,
    ForestGroup,
    ForestPlot,
    ForestRow,
    PlotAxis,
    PlotGrid,
    PlotLine,
    PlotPanel,
    Share,
    ShareBars,
    draw,
    round_ticks,
    thinned,
)

NAN = math.nan


def row(value, low, high, **options):
    return ForestRow("trained", value, low, high, text=f"{value:.3f}", **options)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, (0, 0.2, 0.4, 0.6, 0.8, 1)), (0.61, 0.93, (0.7, 0.8, 0.9)), (-3, 4, (-2, 0, 2, 4))],
)
def test_ticks_are_round_and_within(low, high, ticks):
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_an_axis_holds_all_its_values_and_a_log_axis_its_ratios():
    axis = PlotAxis.of([0.5, 0.9, NAN])
    assert 0 < axis.place(0.5) < axis.place(0.7) < axis.place(0.9) < 100
    ratios = PlotAxis.of([0.5, 2.0], log=True)
    assert ratios.place(1.0) == pytest.approx(50, abs=1e-9)
    assert PlotAxis.of([]).ticks == (0.0, 0.5, 1.0)
    assert PlotAxis.of([3.0, 3.0]).place(3.0) == pytest.approx(50)


def test_a_forest_says_its_values_and_tells_them_to_a_pointer():
    rows = [row(0.8, 0.7, 0.9, ci="[0.700, 0.900]", tip="Heart (CT): Dice 0.800")]
    text = draw(ForestPlot("Dice", [ForestGroup("Heart <CT>", rows, "n = 9")]))
    assert "Heart &lt;CT&gt;" in text
    assert '<span class="tip" role="tooltip">Heart (CT): Dice 0.800</span>' in text
    bar = re.search(r"ci-bar\" style=\"left:([\d.]+)%;width:([\d.]+)", text)
    left, width = map(float, bar.groups())
    mark = float(re.search(r"mark mo\" style=\"left:([\d.]+)%", text)[1])
    assert mark == pytest.approx(left + width / 2, abs=0.02)


def test_an_interval_that_goes_beyond_the_axis_has_an_arrow_there_and_the_label_says_so():
    rows = [row(1.2, 0.8, 1.9), row(0.4, 0.001, 9.0), row(30.0, 0.0, 4000.0)]
    text = draw(ForestPlot("hazard ratio", [ForestGroup("", rows)], log=True))
    assert re.findall(r"class=\"(ci-bar[^\"]*)", text) == [
        "ci-bar",
        "ci-bar cut-low",
        "ci-bar cut-low cut-high",
    ]
    assert "goes on" in text
    assert "goes on" not in draw(ForestPlot("Dice", [ForestGroup("", rows)]))


def test_a_value_without_an_interval_has_a_mark_and_no_bar():
    text = draw(ForestPlot("AUROC", [ForestGroup("", [row(0.8, NAN, NAN), row(NAN, NAN, NAN)])]))
    assert text.count('class="mark') == 1
    assert "ci-bar" not in text
    assert "nan%" not in text


def test_a_panel_tells_each_point_and_leaves_out_what_is_not_defined():
    line = PlotLine("trained", [1, 10, 100], [0.5, NAN, 0.7], tips=["a", "b", "c"])
    text = draw(PlotGrid("few", [PlotPanel("Heart", "patients", "Dice", [line], x_ticks=[1, 100])]))
    assert "nan" not in text
    assert text.count("<circle") == 2


def test_a_series_has_the_colour_that_it_has_in_the_other_figures():
    lines = [PlotLine(name, [1, 2], [0.1, 0.2]) for name in ("trained", "theirs", "pixels")]
    panels = [PlotPanel("Heart", "patients", "Dice", lines)]
    text = draw(PlotGrid("few", panels, series=("trained", "random", "pixels", "theirs")))
    assert f'--c:{COLOURS[3]}"><i class="key mo"></i>theirs' in text
    assert "random" not in text and f'--c:{COLOURS[1]}"><i class="key mo"></i>theirs' in draw(
        PlotGrid("few", panels)
    )


def test_counts_that_add_up_share_a_bar_and_are_said():
    text = draw(
        ShareBars("won", [Share("against random", [(2, "better in", "good"), (0, "w", "")])])
    )
    assert "flex-grow:2" in text
    assert "flex-grow:0" not in text
    assert "better in 2, w 0" in text


def test_a_short_curve_is_kept_as_it_is():
    x, y = np.linspace(0, 1, 30), np.sort(np.random.default_rng(0).random(30))
    assert thinned(x, y, 60).tolist() == list(range(30))
    kept = thinned(np.linspace(0, 1, 500), np.linspace(0, 1, 500) ** 2, 60)
    assert len(kept) <= 61
    assert {0, 499} <= set(kept.tolist())
