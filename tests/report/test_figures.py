"""Pictures: what they are made of, and that equal numbers make equal files."""

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score

from mmv_jax.report.figures import (
    STYLE,
    colour_map,
    feature_colours,
    outlined,
    picture,
    roc_curves,
    svg,
)


def pixels_of(piece):
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", piece).group(1))))
    )


def test_the_same_numbers_make_the_same_figure_in_the_colours_of_the_page():
    def draw():
        with matplotlib.rc_context(STYLE):
            figure = Figure()
            axes = figure.add_subplot()
            axes.plot([0, 1], [0, 1], color="#000000", gid="tip: 3 mm² & more")
            axes.set_title("a title")
            return svg(figure, "a line")

    figure = draw()
    assert figure == draw()
    assert ">a title<" in figure
    assert "<title>3 mm² &amp; more</title>" in figure
    assert "#000000" not in figure
    assert "width=" not in figure.split(">")[0].replace("stroke-width=", "")


def test_a_roc_curve_keeps_its_ends_and_its_area():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 3000)
    score = truth + rng.normal(size=3000)
    line = roc_curves({"task": {"trained": (truth, score)}}).panels[0].lines[0]
    assert len(line.x) <= 61
    assert (line.x[0], line.y[0], line.x[-1], line.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(line.y, line.x) == pytest.approx(roc_auc_score(truth, score), abs=0.003)
    assert line.tips[0] == "trained: sensitivity 0.00 at specificity 1.00"


def test_a_picture_keeps_its_shape_and_escapes_its_words():
    piece = picture(np.linspace(0, 1, 20 * 40).reshape(20, 40), '"x"', size=80)
    assert pixels_of(piece).shape == (40, 80)
    assert 'alt="&quot;x&quot;"' in piece


def test_equal_outlines_show_both_colours():
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    rgb = pixels_of(
        outlined(np.zeros((32, 32)), [(mask, "#00ff00"), (mask, "#ff0000")], "both", size=256)
    ).astype(int)
    assert ((rgb[..., 1] > 200) & (rgb[..., 0] < 50)).sum() > 100
    assert ((rgb[..., 0] > 200) & (rgb[..., 1] < 50)).sum() > 100
    assert (rgb[128, 128] == 0).all()


def test_colours_are_the_same_for_equal_features_of_different_studies():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(20, 16))
    first, second = feature_colours([tokens, tokens[:7]])
    np.testing.assert_allclose(first[:7], second)
    assert first.min() == pytest.approx(0, abs=1e-6)
    assert first.max() == pytest.approx(1, abs=1e-6)


def test_features_with_two_dimensions_still_have_a_colour():
    colours = feature_colours([np.random.default_rng(0).normal(size=(9, 2))])[0]
    assert colours.shape == (9, 3)
    assert np.isfinite(colours).all()


def test_patches_that_were_not_kept_are_black_and_do_not_bleed():
    kept = np.array([[True, False], [True, True]])
    shown = colour_map(np.ones((3, 3)), kept, (8, 8))
    assert (shown[:4, 4:] == 0).all()
    assert (shown[4:] == 1).all()
    assert (shown[:4, :4] == 1).all()
