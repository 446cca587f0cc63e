from dataclasses import replace

import numpy as np
import pytest

from mmv_jax.bac.agreement import (
    Compared,
    area_scores,
    dice_scores,
    overlap,
    severity_scores,
    severity_table,
)
from mmv_jax.bac.examination import EARLIER
from mmv_jax.bac.measure import (
    Measure,
    ViewResult,
    confirmed,
    of_breasts,
    of_women,
    severity_of,
)
from mmv_jax.bac.sources import NO_SPACING
from mmv_jax.errors import UserError

MEASURE = Measure(
    threshold=0.5, least_mm2=0.1, of_views="mean", of_breasts="sum", severity_mm2=(0.0, 10.0, 25.0)
)
NAN = float("nan")


def view(side: str, name: str, area: float, *, woman: str = "w", remark: str = "") -> ViewResult:
    return ViewResult(1, woman, side, name, remark, (0.1, 0.1), 1, area, area)


def areas_of(*views: ViewResult, least_mm2: float) -> list[float]:
    """What is reported of views that are sure of their areas."""
    return [view.area_mm2 for view in confirmed(views, replace(MEASURE, least_mm2=least_mm2))]


FOUR = [view("L", "CC", 4.0), view("L", "MLO", 6.0), view("R", "CC", 1.0), view("R", "MLO", 2.0)]


def test_a_woman_is_the_sum_of_the_means_of_her_breasts():
    assert [(b.side, b.views, b.area_mm2) for b in of_breasts(FOUR, MEASURE)] == [
        ("L", 2, 5.0),
        ("R", 2, 1.5),
    ]
    (woman,) = of_women(FOUR, MEASURE)
    assert (woman.views, woman.area_mm2, woman.severity) == (4, 6.5, "mild")


@pytest.mark.parametrize(
    "of_views, of_breasts_, area", [("max", "sum", 8.0), ("mean", "max", 5.0), ("max", "mean", 4.0)]
)
def test_the_rules_of_aggregation_can_be_chosen(of_views, of_breasts_, area):
    measure = Measure(0.5, 0.1, of_views, of_breasts_, (0.0, 10.0, 25.0))
    assert of_women(FOUR, measure)[0].area_mm2 == area


def test_a_view_with_a_remark_counts_nothing():
    (woman,) = of_women([*FOUR, view("L", "CC", 50.0, remark="a magnification view")], MEASURE)
    assert (woman.views, woman.area_mm2) == (4, 6.5)


def test_an_unknown_spacing_is_no_zero():
    (woman,) = of_women([*FOUR[1:], view("L", "CC", NAN, remark=NO_SPACING)], MEASURE)
    assert np.isnan(woman.area_mm2)
    assert woman.severity == ""


def test_a_view_that_would_not_count_with_a_spacing_spoils_nothing_without_one():
    (woman,) = of_women(
        [
            *FOUR,
            view("L", "CC", NAN, remark="a magnification view"),
            view("L", "ML", NAN, remark="neither CC nor MLO"),
        ],
        MEASURE,
    )
    assert (woman.views, woman.area_mm2) == (4, 6.5)


def test_a_woman_without_a_view_that_counts_is_listed_without_an_area():
    (woman,) = of_women([view("L", "ML", 3.0, remark="the view is neither CC nor MLO")], MEASURE)
    assert (woman.views, woman.severity) == (0, "")
    assert np.isnan(woman.area_mm2)


def test_the_views_of_a_breast_answer_together():
    """An artery is in both views, however little of it; a hair of 1 mm² is in one."""
    breast, hair = (
        [view("L", "CC", 0.2), view("L", "MLO", 1.0)],
        [
            view("R", "CC", 0.0),
            view("R", "MLO", 1.0),
        ],
    )
    assert areas_of(*breast, *hair, least_mm2=0.2) == [0.2, 1.0, 0.0, 0.0]
    assert areas_of(*breast, *hair, least_mm2=0.3) == [0.0, 0.0, 0.0, 0.0]
    repeated = [*hair, view("R", "CC", 1.8)]  # CC 0.9 in the mean
    assert areas_of(*repeated, least_mm2=0.8) == [0.0, 1.0, 1.8]
    assert areas_of(*repeated, least_mm2=0.95) == [0.0, 0.0, 0.0]
    assert areas_of(breast[1], replace(hair[0], woman="other", side="L"), least_mm2=0.6) == [
        1.0,
        0.0,
    ]


def test_small_groups_count_where_larger_ones_show_the_artery():
    seen = [
        replace(view("L", "CC", 3.0), sure_mm2=0.6),
        replace(view("L", "MLO", 2.0), sure_mm2=1.0),
    ]
    assert [v.area_mm2 for v in confirmed(seen, replace(MEASURE, least_mm2=0.5))] == [3.0, 2.0]
    unsure = [replace(seen[0], sure_mm2=0.0), seen[1]]
    # in one view nothing is sure
    assert [v.pixels for v in confirmed(unsure, replace(MEASURE, least_mm2=0.0))] == [0, 0]


def test_a_view_that_does_not_count_answers_for_itself():
    odd = view("L", "CC", 9.0, remark="a magnification view")
    assert areas_of(
        view("L", "CC", 0.2), odd, replace(odd, area_mm2=0.1, sure_mm2=0.1), least_mm2=0.5
    ) == [0.0, 9.0, 0.0]
    (unknown,) = confirmed(
        [replace(view("L", "CC", NAN, remark=NO_SPACING), sure_mm2=0.1)],
        replace(MEASURE, least_mm2=0.5),
    )
    assert np.isnan(unknown.area_mm2)
    assert unknown.pixels == 0


def test_of_several_examinations_the_latest_counts():
    """Two free ones before do not hide what is new, and what was there before is not added."""
    dates = ("20180101", "20200101", "20220101")
    views = [
        replace(view("L", name, area), date=date)
        for date, area in zip(dates, (0.0, 3.0, 1.2))
        for name in ("CC", "MLO")
    ]
    reported = confirmed(views, replace(MEASURE, least_mm2=0.5))
    assert [v.remark for v in reported] == [EARLIER] * 4 + [""] * 2
    (woman,) = of_women(reported, MEASURE)
    assert (woman.views, woman.area_mm2) == (2, 1.2)


@pytest.mark.parametrize(
    "area, words",
    [
        (0.0, "zero"),
        (0.01, "mild"),
        (10.0, "mild"),
        (10.01, "moderate"),
        (25.0, "moderate"),
        (25.01, "severe"),
    ],
)
def test_severity(area, words):
    assert severity_of(area, MEASURE) == words


WRONG = (
    {"threshold": 0.0},
    {"threshold": 1.0},
    {"least_mm2": -1.0},
    {"least_mm2": NAN},
    {"of_views": "median"},
    {"of_breasts": "min"},
    {"severity_mm2": (10.0, 5.0, 1.0)},
    {"severity_mm2": (-1.0, 5.0, 10.0)},
)


@pytest.mark.parametrize("wrong", WRONG)
def test_rules_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError, match="config.measure|thresholds are"):
        Measure(**{**vars(MEASURE), **wrong})


def test_dice_is_that_of_the_pixels():
    rng = np.random.default_rng(0)
    pairs = [(rng.random((20, 20)) < 0.3, rng.random((20, 20)) < 0.3) for _ in range(5)]
    pairs.append((np.zeros((20, 20), bool), pairs[0][1]))
    pixels = np.array([overlap(*pair) for pair in pairs])
    names = np.array(list("aabbcc"))
    each = [2 * (t & f).sum() / (t.sum() + f.sum()) for t, f in pairs]
    scores = dice_scores(pixels, names)
    assert scores["dice"].value == pytest.approx(np.mean(each[:5]))
    assert scores["dice"].n == 5
    truth, found = (np.stack(side) for side in zip(*pairs))
    assert scores["dice_pooled"].value == pytest.approx(
        2 * (truth & found).sum() / (truth.sum() + found.sum())
    )


def test_scores_of_severity_and_area():
    areas = Compared(
        np.array(list("abcdef")),
        np.array([0, 0, 5, 12, 30, 40.0]),
        np.array([0, 0.5, 6, 9, 31, 38.0]),
    )
    scores = severity_scores(areas, (0.0, 10.0, 25.0))
    assert {name: (round(s.value, 4), s.n) for name, s in scores.items()} == {
        "severity_accuracy": (0.6667, 6),
        "zero_specificity": (0.5, 2),
        "sensitivity": (1.0, 4),
        "severity_kappa": (0.8824, 6),
    }
    assert severity_table(areas, (0.0, 10.0, 25.0)).tolist() == [
        [1, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 2],
    ]
    residual = ((areas.found - areas.truth) ** 2).sum() / (
        (areas.truth - areas.truth.mean()) ** 2
    ).sum()
    assert area_scores(areas)["area_r2"].value == pytest.approx(1 - residual)
    difference = areas.found - areas.truth
    spread = 1.96 * difference.std(ddof=1)
    assert areas.limits == pytest.approx(
        (difference.mean(), difference.mean() - spread, difference.mean() + spread)
    )
