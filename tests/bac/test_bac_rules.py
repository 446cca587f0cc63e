from dataclasses import replace

import numpy as np
import pytest

from mmv_jax.bac.evidence import FEATURES
from mmv_jax.bac.measure import Measure, ViewResult
from mmv_jax.bac.rule_search import (
    COLUMNS,
    LEAST_GROUP_MM2,
    LEAST_MM2,
    THRESHOLDS,
    RuledView,
    rules_section,
    scores,
    weights_section,
)

MEASURE = Measure(0.4, 0.5, "mean", "sum", (0.0, 10.0, 25.0))


def view(
    woman: str,
    side: str,
    truth: np.ndarray,
    probability: np.ndarray,
    pixel_mm: float = 0.5,
    measure: Measure = MEASURE,
) -> RuledView:
    area = float(truth.sum()) * pixel_mm**2
    true = ViewResult(1, woman, side, "CC", "", (pixel_mm, pixel_mm), int(truth.sum()), area, area)
    return RuledView.of(true, true, truth, probability.astype(np.float32), 1, measure=measure)


def drawn(measure: Measure = MEASURE) -> list[RuledView]:
    """A woman of 16 mm², found at 0.55 with 2 mm² of noise at 0.35; a woman of none, with 0.75 mm²
    of noise at 0.65.
    """
    truth = np.zeros((20, 20), bool)
    truth[:8, :8] = True
    noisy = np.where(truth, 0.55, 0.0)
    noisy[17:19, :4] = 0.35
    free = np.zeros((20, 20))
    free[3, 3:6] = 0.65
    women = ("a", "L", truth, noisy), ("b", "R", np.zeros_like(truth), free)
    return [view(*woman, measure=measure) for woman in women]


@pytest.fixture
def views():
    return drawn()


def of(views, threshold: float, least_mm2: float) -> dict[str, float]:
    return scores(views, Measure(threshold, least_mm2, "mean", "sum", (0.0, 10.0, 25.0)))


def test_each_rule_is_scored_as_if_it_had_been_in_use(views):
    assert of(views, 0.3, 0.5)["dice"] == pytest.approx(2 * 64 / (64 + 72))
    assert of(views, 0.4, 0.5)["dice"] == 1
    assert of(views, 0.6, 0.5)["dice"] == 0
    assert of(views, 0.4, 0.5)["zero_specificity"] == 0  # 0.75 mm2 are more than 0.5
    assert of(views, 0.4, 0.8)["zero_specificity"] == 1
    assert of(views, 0.7, 0.1)["zero_specificity"] == 1
    assert of(views, 0.4, 0.8)["severity_accuracy"] == 1
    assert of(views, 0.4, 0.8)["area_r2"] == 1
    assert of(views, 0.6, 0.8)["sensitivity"] == 0


def test_a_small_group_by_itself_makes_nothing_sure():
    """2 mm² of noise in a far corner of a view of 16 mm²; pixels of a coarse working grid, of which
    a pixel of the file is a quarter.
    """
    truth, coarse = np.zeros((80, 80), bool), np.zeros((40, 40))
    truth[:8, :8] = True
    coarse[:4, :4], coarse[-1, -2:] = 0.55, 0.55
    true = ViewResult(1, "a", "L", "CC", "", (0.5, 0.5), 64, 16.0, 16.0)
    ruled = RuledView.of(true, true, truth, coarse.astype(np.float32), 2, measure=MEASURE)
    found = {least: ruled.by(replace(MEASURE, least_group_mm2=least)) for least in (0.0, 3.0, 20.0)}
    told = {least: (view.sure_mm2, view.area_mm2, both) for least, (view, both) in found.items()}
    assert told == {0.0: (18.0, 18.0, 64), 3.0: (16.0, 18.0, 64), 20.0: (0.0, 18.0, 64)}
    assert scores([ruled], replace(MEASURE, least_group_mm2=20.0))["dice"] == 0


def test_a_hair_in_one_view_of_a_breast_is_halved():
    truth, hair = np.zeros((20, 20), bool), np.zeros((20, 20))
    hair[3, 3:6] = 0.65
    first, second = view("b", "R", truth, hair), view("b", "R", truth, 0 * hair)
    both = [
        first,
        replace(
            second, view=replace(second.view, view="MLO"), truth=replace(second.truth, view="MLO")
        ),
    ]
    assert scores(both[:1], MEASURE)["zero_specificity"] == 0  # 0.75 mm2
    assert scores(both, MEASURE)["zero_specificity"] == 1
    # it has no truth, and answers for its breast
    assert scores([first, replace(both[1], truth=None)], MEASURE)["zero_specificity"] == 1


def test_a_score_that_nobody_bears_upon_is_left_out(views):
    assert "zero_specificity" not in of(views[:1], 0.4, 0.5)
    assert not {"dice", "sensitivity"} & set(of(views[1:], 0.4, 0.5))


def test_the_table_has_a_line_for_each_rule_and_marks_that_in_use(views):
    (table,) = rules_section(views, MEASURE).tables
    assert len(table.lines) == len(THRESHOLDS) * len(LEAST_GROUP_MM2) * len(LEAST_MM2)
    assert [line[0].text for line in table.lines if line[0].tone] == ["0.4, 0.0 and 0.5 mm²"]
    assert {len(line) for line in table.lines} == {1 + len(COLUMNS)}


def test_a_group_that_is_hardly_an_artery_leaves_the_area_and_what_is_sure(views):
    """By size alone, 16 mm² are of an artery; groups of 2 and of 0.75 mm² are not."""
    plain = replace(MEASURE, threshold=0.3)
    weighed = replace(plain, artery=(-10.0, 5.0, 0.0, 0.0, 0.0), least_artery=0.5)
    before, now = scores(views, plain), scores(drawn(weighed), weighed)
    assert before["dice"] == pytest.approx(2 * 64 / (64 + 72)) and now["dice"] == 1
    assert before["zero_specificity"] == 0 and now["zero_specificity"] == 1
    (large, _), _ = (ruled.artery[0] for ruled in drawn(weighed))
    assert 0.9 < large < 1
    assert drawn(weighed)[0].by(weighed)[0].sure_mm2 == pytest.approx(16 * large, abs=0.1)


def test_the_weights_that_suit_these_women_are_told(views):
    section = weights_section(views, replace(MEASURE, threshold=0.3))
    assert "the 3 groups of these women, of which 1 are" in section.text[0]
    (table,) = section.tables
    assert [line[0].text for line in table.lines] == ["a constant", *FEATURES]
    # the one group of an artery is the largest
    assert float(table.lines[1][1].text) > 0
    assert weights_section(views[1:], MEASURE) is None
    assert weights_section(views, replace(MEASURE, threshold=0.35)) is None
