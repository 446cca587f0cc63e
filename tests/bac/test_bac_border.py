"""What lies along a border or beside metal does not count; an artery elsewhere does."""

import numpy as np
import pytest

from mmv_jax.bac.border import left_out
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.measure import Measure
from mmv_jax.errors import UserError

MM = (0.1, 0.1)


def film(rows=400, columns=300):
    """Tissue of 1,500 to 1,700 with a tram track of calcium, 0.2 mm walls, in the middle."""
    values = np.random.default_rng(0).uniform(1500, 1700, (rows, columns)).astype(np.float32)
    values[150:250, 148:150] = values[150:250, 156:158] = 4000
    return values


def test_the_image_s_border_is_left_out_and_the_artery_is_not():
    out = left_out(film(), MM, 3.0)
    assert out[:30].all() and out[:, -30:].all() and out[200, 29] and not out[200, 31]
    assert not out[40:-40, 40:-40].any()
    assert not left_out(film(), MM, 0.0).any()


@pytest.mark.parametrize("slope", [0.0, 0.04])
def test_light_past_a_film_s_border_takes_its_border_with_it(slope):
    values = film()
    edge = (40 + slope * np.arange(400)).astype(int)
    for row, column in enumerate(edge):
        values[row, :column] = 4095  # the film lies aslant, light beside it
    out = left_out(values, MM, 3.0)
    for row in (60, 200, 340):
        assert out[row, edge[row] + 28] and not out[row, edge[row] + 33]


def test_a_thin_bright_strip_along_the_border_is_a_border_too():
    values = film()
    values[:, :2] = 4095
    assert left_out(values, MM, 3.0)[200, 30] and not left_out(values, MM, 3.0)[200, 35]


def test_letters_and_clips_are_left_out_with_what_lies_beside_them():
    values = film()
    values[80:92, 200:210] = 4095  # a clip of 1.2 by 1 mm
    out = left_out(values, MM, 3.0)
    assert out[86, 205] and out[86, 218] and not out[86, 225]
    assert not out[150:250, 140:170].any()  # the artery is as bright, and thin


def test_an_image_of_one_value_has_the_image_s_border_alone():
    out = left_out(np.full((100, 100), 7.0, np.float32), MM, 3.0)
    assert out.sum() == 100 * 100 - 40 * 40


def test_pixels_of_another_size_are_measured_in_mm():
    out = left_out(film(), (0.05, 0.2), 3.0)
    assert out[59, 150] and not out[61, 150] and out[200, 14] and not out[200, 16]


def test_a_finder_gives_no_probability_there(fitted):
    finder, values = Finder.restore(fitted), film(300, 250)
    every, counted = (
        finder.with_measure(border_mm=mm).probabilities(values, MM)[0] for mm in (0.0, 4.0)
    )
    out = left_out(values, MM, 4.0)
    assert every[out].any() and not counted[out].any()
    np.testing.assert_array_equal(counted[~out], every[~out])


def test_rules_of_before_count_all_and_impossible_ones_are_refused(fitted):
    assert Finder.restore(fitted).measure.border_mm == 0.0
    with pytest.raises(UserError, match="border_mm is -1"):
        Measure(0.5, 0.1, "mean", of_breasts="sum", severity_mm2=(0.0, 1.0, 2.0), border_mm=-1.0)
