"""Agreement as a radiologist reads it: exact shares, kappa, limits, views of one breast, groups."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from mmv_jax.bac.agreement import (
    Compared,
    between_views,
    limits_of_agreement,
    severity_scores,
    weighted_kappa,
)
from mmv_jax.bac.conditions import band, by_condition, women_by_vendor
from mmv_jax.metrics.closed_form import exact_proportion

THRESHOLDS = (0.0, 10.0, 25.0)


def compared(truth, found):
    return Compared(np.arange(len(truth)), np.asarray(truth, float), np.asarray(found, float))


@pytest.mark.parametrize("successes, n", [(0, 7), (7, 7), (48, 49), (194, 200), (1, 3)])
def test_shares_have_the_interval_of_the_binomial_test(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    assert exact_proportion(successes, n) == pytest.approx(tuple(expected), abs=1e-12)


def test_specificity_of_200_free_women_has_its_exact_interval():
    found = np.where(np.arange(200) < 4, 1.0, 0.0)
    score = severity_scores(compared(np.zeros(200), found), THRESHOLDS)["zero_specificity"]
    assert (score.value, score.n) == (0.98, 200)
    assert (score.low, score.high) == pytest.approx((0.949586, 0.994524), abs=1e-6)


def test_kappa_is_that_of_scikit_learn_and_of_resamples_a_kappa_of_repeated_women():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 60)
    found = np.clip(truth + rng.integers(-1, 2, 60), 0, 3)
    weights = np.stack([np.ones(60), rng.integers(0, 3, 60)]).astype(float)
    for line, value in zip(weights, weighted_kappa(truth, found, weights)):
        drawn = np.repeat(np.arange(60), line.astype(int))
        expected = cohen_kappa_score(truth[drawn], found[drawn], weights="quadratic")
        assert value == pytest.approx(expected, abs=1e-12)
    areas = np.array([0.0, 5.0, 15.0, 30.0])
    score = severity_scores(compared(areas[truth], areas[found]), THRESHOLDS)["severity_kappa"]
    assert score.low < score.value < score.high


def test_one_severity_for_all_has_no_kappa():
    assert "severity_kappa" not in severity_scores(compared([0] * 6, [0] * 6), THRESHOLDS)


def test_the_intervals_of_the_limits_cover():
    """Normal differences of mean 0.5 and sd 2: each limit's interval holds it in about 95 %."""
    truth = {
        "area_bias": 0.5,
        "area_limit_low": 0.5 - 1.96 * 2,
        "area_limit_high": 0.5 + 1.96 * 2,
    }
    held = dict.fromkeys(truth, 0)
    rng = np.random.default_rng(1)
    for _ in range(400):
        differences = rng.normal(0.5, 2.0, 12)
        limits = limits_of_agreement(compared(np.full(12, 10.0), 10.0 + differences))
        for name, true in truth.items():
            held[name] += limits[name].low <= true <= limits[name].high
            assert limits[name].low < limits[name].value < limits[name].high
    # two standard errors of 380 in 400 are 9
    assert all(369 <= count <= 392 for count in held.values()), held


def test_two_women_have_no_limits():
    assert limits_of_agreement(compared([0, 1], [0, 2])) == {}


def test_the_spread_between_views_is_that_of_one_view():
    rng = np.random.default_rng(2)
    true = rng.uniform(5, 50, 4000)
    found = between_views(true[:, None] + rng.normal(0, 3.0, (4000, 2)))
    sd = found["between_views_sd"]
    assert sd.low < 3.0 < sd.high and sd.high - sd.low < 0.2
    assert found["repeatability"].value == pytest.approx(1.96 * 2**0.5 * sd.value)
    held = sum(
        (s := between_views(rng.normal(0, 3.0, (8, 2)))["between_views_sd"]).low <= 3.0 <= s.high
        for _ in range(400)
    )
    assert 369 <= held <= 392


BANDS = [("thickness", "52", "40 to 60 mm"), ("thickness", "60", "from 60 mm")]
BANDS += [("density", "0.1", "below 0.25"), ("density", "3", "3"), ("density", "c ", "c")]
BANDS += [("vendor", "Hologic", "Hologic"), ("force", "79.5", "below 80 N")]


@pytest.mark.parametrize("condition, cell, group", BANDS)
def test_a_cell_belongs_to_one_group(condition, cell, group):
    assert band(condition, cell) == group


def test_errors_by_group_are_those_of_its_views():
    rng = np.random.default_rng(3)
    women, truth = np.repeat(np.arange(20), 4), rng.uniform(0, 30, 80)
    other = np.repeat(np.arange(20) % 2, 4)
    found = truth + np.where(other == 1, 2.0, -1.0)
    conditions = [{"vendor": "AB"[o], "thickness": "40 to 60 mm"} for o in other]
    # Of A half of the pixels overlap, of B all; a view without true pixels has no Dice.
    pixels = np.where(other[:, None] == 1, (8, 8, 8), (4, 8, 8))
    pixels[0] = 0
    groups = by_condition(Compared(women, truth, found), conditions, pixels)
    assert list(groups) == ["vendor"]  # one thickness for all is no comparison
    assert {name: scores["area_bias"].value for name, scores in groups["vendor"].items()} == {
        "A": pytest.approx(-1.0),
        "B": pytest.approx(2.0),
    }
    assert groups["vendor"]["B"]["area_mae"].n == 40
    dice = {name: scores["dice"] for name, scores in groups["vendor"].items()}
    assert (dice["A"].value, dice["A"].n, dice["B"].value) == (0.5, 39, 1.0)


def test_women_of_each_vendor_have_their_own_scores():
    women = np.array([f"w{n}" for n in range(8)])
    truth = np.array([0.0, 5, 15, 30, 0, 5, 15, 30])
    found = np.array([0.0, 5, 15, 30, 3, 5, 15, 20])
    vendors = {w: {"vendor": "AB"[n // 4]} for n, w in enumerate(women)}
    own = women_by_vendor(Compared(women, truth, found), vendors, (0.0, 10.0, 25.0))
    right = {name: scores["severity_accuracy"].value for name, scores in own.items()}
    assert right == {"A": 1.0, "B": 0.5}
    assert [own[name]["zero_specificity"].value for name in "AB"] == [1.0, 0.0]
    assert own["A"]["area_r2"].value == 1.0 > own["B"]["area_r2"].value
    one = {w: {"vendor": "A"} for w in women}
    assert women_by_vendor(Compared(women, truth, found), one, (0.0, 10.0, 25.0)) == {}
