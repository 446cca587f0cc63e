"""The bootstrap against scikit-learn, against slow resampling, and against the truth it should
cover.
"""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mmv_jax.metrics import scores
from mmv_jax.metrics.intervals import METRICS, holm, interval, paired, patient_weights

OF_LIBRARY = {
    "auroc": scores.auroc,
    "auprc": scores.auprc,
    "auprc_skill": scores.auprc_skill,
    "mae": scores.mae,
    "r2": scores.r2,
    "brier": scores.brier,
}  # the point value that each weighted form must equal


@pytest.mark.parametrize("metric", OF_LIBRARY)
@given(seed=st.integers(0, 10_000), levels=st.sampled_from([3, 10, 1000]))
@settings(max_examples=30)
def test_a_weighted_metric_is_that_of_repeated_studies(metric, seed, levels):
    rng = np.random.default_rng(seed)
    truth = np.r_[0, 1, rng.integers(0, 2, 38)]
    predicted = np.round(rng.uniform(size=40) * levels) / levels  # few levels: many ties
    weights = np.r_[1, 1, rng.integers(0, 4, 38)]
    repeated = np.repeat(np.arange(40), weights)
    ours = METRICS[metric](truth, predicted, weights[None].astype(float))[0]
    assert ours == pytest.approx(OF_LIBRARY[metric](truth[repeated], predicted[repeated]), abs=1e-9)


def test_the_calibration_of_all_studies_is_that_of_its_bins():
    rng = np.random.default_rng(5)
    truth, probability = rng.integers(0, 2, 103), rng.uniform(size=103)
    ours = METRICS["calibration"](truth, probability, np.ones((1, 103)))[0]
    assert ours == pytest.approx(scores.calibration_error(truth, probability))


def test_weights_draw_whole_patients():
    patients = np.array(["a", "b", "a", "c", "b"])
    weights = patient_weights(patients, resamples=200)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_the_interval_is_that_of_resampling_patient_by_patient():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 60, 150)
    truth = rng.integers(0, 2, 150)
    score = truth + rng.normal(size=150)
    studies = {p: np.flatnonzero(patients == p) for p in np.unique(patients)}
    slow = []
    for _ in range(1000):
        drawn = np.concatenate([studies[p] for p in rng.choice(list(studies), len(studies))])
        slow.append(scores.auroc(truth[drawn], score[drawn]))
    fast = interval("auroc", truth, score, patients)
    assert fast.value == pytest.approx(scores.auroc(truth, score))
    np.testing.assert_allclose([fast.low, fast.high], np.quantile(slow, [0.025, 0.975]), atol=0.012)


def test_the_interval_covers_the_truth_and_ignoring_patients_would_not():
    """The mean of 0 of 40 patients with 5 like studies each: the share of 200 simulated sets whose
    interval holds it.
    """
    rng, hit, naive = np.random.default_rng(1), 0, 0
    for seed in range(200):
        patients = np.repeat(np.arange(40), 5)
        values = rng.normal(size=40)[patients] + 0.3 * rng.normal(size=200)
        by_patient = interval("mean", values, values, patients, resamples=300, seed=seed)
        by_study = interval("mean", values, values, np.arange(200), resamples=300, seed=seed)
        hit += by_patient.low <= 0 <= by_patient.high
        naive += by_study.low <= 0 <= by_study.high
    assert 180 <= hit <= 198
    assert naive < 150


def test_a_paired_difference_is_tighter_than_its_parts():
    rng = np.random.default_rng(2)
    truth, patients = rng.integers(0, 2, 200), np.arange(200)
    first = truth + 1.5 * rng.normal(size=200)
    second = first + 0.3 * rng.normal(size=200)
    alone = [interval("auroc", truth, x, patients) for x in (first, second)]
    both = paired("auroc", truth, first, second, patients)
    assert both.value == pytest.approx(alone[0].value - alone[1].value)
    assert both.high - both.low < 0.6 * (alone[0].high - alone[0].low)
    same = paired("auroc", truth, first, first, patients)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_a_real_difference_is_told_and_none_is_rarely_claimed():
    rng = np.random.default_rng(3)
    truth, noise = rng.integers(0, 2, 100), rng.normal(size=(2, 100, 100))
    assert paired("auroc", truth, 2 * truth + noise[0, 0], noise[1, 0], np.arange(100)).p < 0.01
    claims = sum(
        paired("auroc", truth, a, b, np.arange(100), resamples=300).p < 0.05 for a, b in zip(*noise)
    )
    assert claims <= 11  # of 100, where 5 are expected


def test_a_metric_that_is_not_defined_is_nan():
    result = interval("auroc", np.ones(6), np.arange(6.0), np.arange(6))
    assert np.isnan([result.value, result.low, result.high]).all()
    assert np.isnan(paired("auroc", np.ones(6), np.arange(6.0), np.arange(6.0), np.arange(6)).p)


def test_two_thousand_resamples_of_five_hundred_studies_take_less_than_a_second():
    rng = np.random.default_rng(4)
    truth, score = rng.integers(0, 2, 500), rng.normal(size=500)
    start = time.perf_counter()
    interval("auroc", truth, score, np.arange(500))
    assert time.perf_counter() - start < 1.0


def test_holm_is_the_step_down_of_bonferroni():
    assert holm([0.01, 0.02, 0.03, 0.9]) == pytest.approx([0.04, 0.06, 0.06, 0.9])
    assert np.isnan(holm([float("nan"), 0.5])[0])
    assert holm([float("nan"), 0.5])[1] == 0.5


def test_the_calibration_slope_is_that_of_a_logistic_regression_on_the_log_odds():
    rng = np.random.default_rng(0)
    logit = rng.normal(size=500)
    truth = (rng.uniform(size=500) < 1 / (1 + np.exp(-logit))).astype(int)
    weights = rng.integers(0, 3, 500)
    for sure in (0.5, 1.0, 3.0):
        model = LogisticRegression(C=np.inf, tol=1e-8).fit(
            sure * logit[:, None], truth, sample_weight=weights
        )
        ours = METRICS["calibration_slope"](
            truth, 1 / (1 + np.exp(-sure * logit)), weights[None].astype(float)
        )[0]
        assert ours == pytest.approx(model.coef_[0, 0], rel=1e-3)


def test_separated_classes_have_no_calibration_slope():
    truth = np.repeat([0, 1], 20)
    assert np.isnan(
        METRICS["calibration_slope"](truth, np.linspace(0.01, 0.99, 40), np.ones((1, 40)))[0]
    )
