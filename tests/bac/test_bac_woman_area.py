"""Areas in mm² from masks and spacing, and their aggregation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmv_jax.bac.measure import ViewArea, area_mm2, breast_areas, tissue_spacing_mm, woman_area
from mmv_jax.errors import UserError

areas = st.floats(0, 500)


def test_a_disc_has_its_area():
    y, x = np.mgrid[-200:200, -200:200] * 0.05
    assert area_mm2(y**2 + x**2 < 8**2, (0.05, 0.05)) == pytest.approx(math.pi * 64, rel=2e-3)


def test_oblong_pixels_count_by_both_sides():
    assert area_mm2(np.ones((1, 4, 5), np.int32), (0.1, 0.2)) == pytest.approx(0.4)


def test_unknown_spacing_gives_no_area():
    assert math.isnan(area_mm2(np.ones((2, 2), bool), (math.nan, math.nan)))


def test_magnification_shrinks_the_area_by_its_square():
    mask = np.ones((10, 10), bool)
    assert area_mm2(mask, tissue_spacing_mm((0.1, 0.1), 2.0)) == pytest.approx(
        area_mm2(mask, (0.1, 0.1)) / 4
    )


@pytest.mark.parametrize("magnification", [0.8, 0.0, math.nan, 12.0])
def test_a_magnification_that_cannot_be_is_refused(magnification):
    with pytest.raises(UserError, match="magnification"):
        tissue_spacing_mm((0.1, 0.1), magnification)


def test_rules_of_aggregation():
    views = [
        ViewArea("L", "CC", 4.0),
        ViewArea("L", "CC", 8.0),
        ViewArea("L", "MLO", 2.0),
        ViewArea("R", "MLO", 10.0),
    ]
    assert breast_areas(views) == {"L": 4.0, "R": 10.0}
    assert breast_areas(views, of_views="max") == {"L": 6.0, "R": 10.0}
    assert [woman_area(views, of_breasts=rule) for rule in ("sum", "mean", "max")] == [
        14.0,
        7.0,
        10.0,
    ]


@pytest.mark.parametrize("rules", [{"of_views": "sum"}, {"of_breasts": "median"}])
def test_an_unknown_rule_is_refused(rules):
    with pytest.raises(UserError, match="no rule of aggregation"):
        woman_area([ViewArea("L", "CC", 1.0)], **rules)


def test_one_unknown_view_makes_the_woman_unknown():
    assert math.isnan(
        woman_area([ViewArea("L", "CC", math.nan), ViewArea("R", "CC", 3.0)], of_breasts="max")
    )


@given(
    st.lists(
        st.tuples(st.sampled_from("LR"), st.sampled_from(["CC", "MLO"]), areas),
        min_size=1,
        max_size=8,
    ),
    st.randoms(),
)
def test_the_order_of_the_views_changes_nothing(views, random):
    views = [ViewArea(*view) for view in views]
    shuffled = random.sample(views, len(views))
    assert woman_area(shuffled) == pytest.approx(woman_area(views))
    assert woman_area(views, of_views="max") >= woman_area(views) - 1e-9
