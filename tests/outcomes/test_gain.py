"""What calcification adds to a score: found where it was made, none told where there is none."""

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.outcomes.accuracy import (
    brier,
    calibration_slope,
    decision_curve,
    index_of_accuracy,
    net_benefit,
)
from mmv_jax.outcomes.cross_fitting import deal_folds
from mmv_jax.outcomes.discrimination import Estimate, auc, concordance
from mmv_jax.outcomes.gain import gain_over_score
from mmv_jax.outcomes.risk import PREVENT_INPUTS, SCORES_OF, women_scores
from mmv_jax.outcomes.score_tables import gains_table

YEARS = 10.0


def scored(women, seed, effect, censored_by=16.0):
    """Women with a ten-year score, of whom a fifth are calcified, with `effect` on the log hazard
    beyond it; the score is too high by a fifth, as in another population.
    """
    rng = np.random.default_rng(seed)
    score = np.clip(np.exp(rng.normal(-3.0, 0.8, women)), 0.002, 0.6)
    calcified = rng.random(women) < np.clip(0.1 + 1.2 * score, 0, 1)
    hazard = -np.log1p(-score) / YEARS * np.exp(effect * calcified) / 1.2
    ends = np.stack(
        [
            rng.exponential(1 / hazard),
            rng.exponential(60.0, women),
            rng.uniform(2, censored_by, women),
        ]
    )
    event = np.array([1, 2, 0])[ends.argmin(axis=0)]
    return ends.min(axis=0), event, score, {"severe": calcified.astype(float)}, ends


def gained(women, seed, effect):
    time, event, score, calcification, _ = scored(women, seed, effect)
    return gain_over_score(time, event, score, calcification=calcification, horizons=[YEARS])


@pytest.mark.parametrize("seeds, fewest", [(4, 3), pytest.param(10, 8, marks=pytest.mark.full)])
def test_a_gain_that_was_made_is_found(seeds, fewest):
    """The truth is the difference in 200,000 women without censoring."""
    _, _, score, calcification, ends = scored(200_000, 99, np.log(3.0))
    event = np.where(ends[0] < ends[1], 1, 2)
    time = ends[:2].min(axis=0)
    hazard = np.log(-np.log1p(-score)) + np.log(3.0) * calcification["severe"]
    truth = {
        "c_index": concordance(time, event, hazard) - concordance(time, event, score),
        "auc_10_years": auc(time, event, hazard, YEARS) - auc(time, event, score, YEARS),
    }
    held = dict.fromkeys(truth, 0)
    for seed in range(seeds):
        found = gained(2500, seed, np.log(3.0)).differences
        for name, true in truth.items():
            low, high = found[name].ci95
            held[name] += low <= true.value <= high
    assert min(held.values()) >= fewest
    found = gained(10_000, 0, np.log(3.0))
    for name in ("c_index", "uno_c_10_years", "auc_10_years", "ipa_10_years"):
        assert found.differences[name].ci95[0] > 0, name
    assert found.differences["net_benefit_10_years"].ci95[0] > 0
    assert found.moved[0].total.ci95[0] > 0
    curve = found.decisions[0]
    assert np.mean(curve.with_it > curve.without) > 0.7


@pytest.mark.parametrize("draws, most", [(5, 1), pytest.param(12, 2, marks=pytest.mark.full)])
def test_without_a_gain_none_is_told(draws, most):
    told = np.zeros(5, int)
    for seed in range(draws):
        found = gained(2000, seed, 0.0)
        told += [e.ci95[0] > 0 for e in found.differences.values()]
    assert len(found.differences) == 5
    assert told.max() <= most  # one-sided 2.5 % each


def test_folds_are_even_in_a_rare_column_and_do_not_know_the_outcome():
    rare = (np.arange(500) % 100 == 0).astype(float)
    folds = deal_folds({"age": np.linspace(40, 70, 500), "rare": rare})
    assert np.bincount(folds).tolist() == [100] * 5
    assert np.bincount(folds[rare == 1]).tolist() == [1] * 5
    # Within a column an outcome's fold is left to chance: dealt evenly, each would have 8.
    outcome = np.random.default_rng(1).permutation(np.arange(500) < 40)
    assert np.ptp(np.bincount(folds[outcome])) > 1


def test_brier_without_censoring_is_the_mean_square():
    time, event, score, _, ends = scored(3000, 1, 0.5, censored_by=1e9)
    time, event = ends[:2].min(axis=0), np.where(ends[0] < ends[1], 1, 2)
    had = (event == 1) & (time <= YEARS)
    assert brier(time, event, score, YEARS).value == pytest.approx(np.mean((had - score) ** 2))
    ipa = index_of_accuracy(time, event, score, YEARS).value
    assert ipa == pytest.approx(1 - np.mean((had - score) ** 2) / np.var(had), abs=1e-9)
    treated = score >= 0.075
    benefit = np.mean(treated & had) - np.mean(treated & ~had) * 0.075 / 0.925
    found = net_benefit(time, event, score, YEARS, threshold=0.075)
    assert found.value == pytest.approx(benefit)


def test_brier_with_censoring_is_scikit_survivals():
    """scikit-survival 0.28: brier_score(y, y, 1 - risk, [5.0]) of these women, without ties."""
    rng = np.random.default_rng(7)
    time = rng.exponential(8.0, 200)
    event = (rng.random(200) < 0.6).astype(int)
    risk = rng.uniform(0.05, 0.9, 200)
    assert brier(time, event, risk, 5.0).value == pytest.approx(0.27765429, abs=1e-8)


def test_the_intervals_of_ipa_cover():
    _, _, score, _, ends = scored(400_000, 50, 0.5)
    time, event = ends[:2].min(axis=0), np.where(ends[0] < ends[1], 1, 2)
    truth = index_of_accuracy(time, event, score, YEARS).value
    held = 0
    for seed in range(100):
        time, event, score, _, _ = scored(2000, seed, 0.5)
        low, high = index_of_accuracy(time, event, score, YEARS).ci95
        held += low <= truth <= high
    assert 88 <= held <= 100


def test_the_slope_is_one_of_a_true_risk_and_less_of_one_that_is_too_far_apart():
    time, event, score, _, _ = scored(30_000, 3, 0.0)
    value, (low, high) = calibration_slope(time, event, score)
    assert low < 1 < high
    stretched = -np.expm1(-((-np.log1p(-score)) ** 2) * 10)
    assert calibration_slope(time, event, stretched)[0] == pytest.approx(value / 2, abs=1e-6)


def test_treating_all_and_none_are_on_the_decision_curve():
    time, event, score, _, _ = scored(2000, 4, 0.5)
    curve = decision_curve(
        time, event, [score, score], years=YEARS, thresholds=np.array([1e-6, 0.9])
    )
    assert curve.without[0] == pytest.approx(curve.of_all[0])
    assert curve.without[1] == 0
    np.testing.assert_array_equal(curve.without, curve.with_it)
    thresholds = np.array([0.02, 0.075, 0.2])
    curve = decision_curve(time, event, [score, score], years=YEARS, thresholds=thresholds)
    each = [net_benefit(time, event, score, YEARS, threshold=float(t)).value for t in thresholds]
    np.testing.assert_allclose(curve.without, each, rtol=1e-12)


def test_a_score_is_set_beside_its_own_endpoint_only():
    pytest.importorskip("pyprevent")
    given = (200.0, 55.0, 120.0, 0.0, 0.0, 0.0, 25.0, 90.0, 0.0)
    inputs = {name: np.full(4, value) for name, value in zip(PREVENT_INPUTS, given)}
    age = np.full(4, 55.0)
    found = {endpoint: women_scores(age, inputs, endpoint)[0] for endpoint in SCORES_OF}
    assert {endpoint: tuple(scores) for endpoint, scores in found.items()} == SCORES_OF
    # infarction and stroke, or heart failure, happen to fewer than either
    either = found["cvd"]["prevent"]
    for endpoint, name in (("ascvd", "prevent_ascvd"), ("heart_failure", "prevent_heart_failure")):
        assert np.all(found[endpoint][name] < either)
    assert "No published score was made for stroke" in women_scores(age, inputs, "stroke")[1][0]
    with pytest.raises(UserError, match="endpoint is 'cancer', which is none"):
        women_scores(age, inputs, "cancer")


def test_measures_have_one_name_in_all_tables():
    one = Estimate(0.1, np.zeros(3))
    measures = ("c_index", "uno_c_5_years", "auc_10_years", "ipa_5_years", "net_benefit_10_years")
    assert gains_table({"a score": dict.fromkeys(measures, one)}).columns == [
        "gain over",
        *("C-index", "Uno's C, 5 years", "AUC, 10 years", "IPA, 5 years"),
        "net benefit, 10 years",
    ]
