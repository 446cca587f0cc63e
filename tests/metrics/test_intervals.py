"""The bootstrap against scikit-learn, against slow resampling, and against the truth it should
cover.
"""

import time

import numpy as np
import of_libraries
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, multivariate_normal, norm

from mmv_jax.metrics import resamples, scores
from mmv_jax.metrics.closed_form import auroc_interval, delong, placement_variance
from mmv_jax.metrics.corrections import holm
from mmv_jax.metrics.intervals import (
    Interval,
    interval,
    paired,
    paired_over_fits,
    value_text,
)
from mmv_jax.metrics.over_fits import over_fits
from mmv_jax.metrics.resamples import patient_weights
from mmv_jax.metrics.weighted import METRICS

# The point value that each weighted form must equal.
OF_LIBRARY = of_libraries.METRICS


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
        slow.append(of_libraries.auprc(truth[drawn], score[drawn]))
    # As a function, since the name would be bias-corrected.
    fast = interval(METRICS["auprc"], truth, score, patients)
    assert fast.value == pytest.approx(of_libraries.auprc(truth, score))
    np.testing.assert_allclose([fast.low, fast.high], np.quantile(slow, [0.025, 0.975]), atol=0.015)


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
    # So few resamples make the wider of two bounds a little wider still.
    assert 180 <= hit <= 199
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


def test_equal_predictions_and_equal_errors_give_no_interval():
    found = interval("auroc", np.arange(24) % 2, np.full(24, 0.3), patients := np.arange(24))
    assert found.value == 0.5 and np.isnan(found.low) and "predictions are equal" in found.why
    found = interval("mae", np.full(24, 5.0), np.full(24, 8.0), patients)
    assert np.isnan(found.low) and "same value" in found.why


def test_a_difference_that_is_the_same_for_all_is_no_surer_than_a_test_of_signs():
    truth = np.random.default_rng(0).normal(size=6)
    found = paired("mae", truth, truth + 0.3, truth + 0.1, np.arange(6))
    assert found.value == pytest.approx(0.2) and np.isnan([found.low, found.high]).all()
    assert found.p == 2 / 2**6 and "same value" in found.why  # with rounding as the error: 0


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


def test_below_five_patients_of_a_class_there_is_no_interval_and_a_reason():
    patients = np.repeat(np.arange(20), 2)
    truth = (patients < 4).astype(float)  # 8 positive studies of 4 patients
    score = np.random.default_rng(0).normal(size=40)
    for metric in ("auroc", "auprc", "brier"):
        found = interval(metric, truth, np.abs(score) / 4, patients)
        assert np.isfinite(found.value)
        assert np.isnan([found.low, found.high]).all()
        assert found.why == "fewer than 5 patients of a class"
    difference = paired("auroc", truth, score, -score, patients)
    assert np.isnan([difference.low, difference.high, difference.p]).all()
    assert difference.why == "fewer than 5 patients of a class"


@pytest.mark.parametrize("sizes", [(5, 5), (5, 100), (50, 50)])
def test_perfect_separation_has_an_interval_with_a_width(sizes):
    truth = np.repeat([1.0, 0.0], sizes)
    found = interval("auroc", truth, truth, np.arange(len(truth)))
    assert found.value == found.high == 1.0
    assert 0.5 < found.low < 0.99
    assert found.why == ""
    reversed_ = interval("auroc", truth, -truth, np.arange(len(truth)))
    assert (reversed_.low, reversed_.high) == (0.0, pytest.approx(1 - found.low))


def test_the_variance_of_an_auroc_is_delongs_and_that_of_clusters():
    """One study a patient: the empirical variance of placements. Doubled studies: unchanged."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60)
    score = truth + rng.normal(size=60)
    found = delong(truth, score, np.arange(60))
    assert found.value == pytest.approx(of_libraries.auroc(truth, score))
    assert found.variance == pytest.approx(found.apart)
    twice = delong(np.tile(truth, 2), np.tile(score, 2), np.tile(np.arange(60), 2))
    assert twice.variance == pytest.approx(found.variance)
    assert twice.design_effect == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(("value", "share"), [(0.6, 0.5), (0.9, 0.8), (0.97, 0.2), (0.3, 0.6)])
def test_the_variance_of_placements_is_that_of_two_normal_scores(value, share):
    """Two scores of a class beat one of the other class together with a bivariate probability."""
    at = norm.ppf(value)
    both = multivariate_normal.cdf([at, at], cov=[[1, share], [share, 1]])
    found = placement_variance(np.array(value), share)
    assert float(found) == pytest.approx(both - value**2, abs=1e-6)


@pytest.mark.parametrize(("wide", "share"), [(2.0, 0.8), (1.0, 0.5), (0.5, 0.2)])
def test_ranks_tell_which_class_spreads_wider(wide, share):
    rng = np.random.default_rng(0)
    truth = np.repeat([1.0, 0.0], [400, 1600])
    score = np.where(truth == 1, wide * rng.normal(size=2000) + 1, rng.normal(size=2000))
    assert delong(truth, score, np.arange(2000)).share_of_positives == pytest.approx(share, abs=0.1)
    # Rounded scores tie pairs; the answer is nearly the same.
    rounded = np.round(2 * score)
    found = delong(truth, rounded, np.arange(2000))
    assert found.ties > 0.05 and found.share_of_positives == pytest.approx(share, abs=0.1)


def test_an_auroc_interval_depends_on_ranks_alone_and_on_neither_classs_name():
    rng = np.random.default_rng(1)
    truth = np.repeat([1.0, 0.0], [7, 30])
    score = truth + rng.normal(size=37) * (1 + truth)
    found = auroc_interval(truth, score, np.arange(37))
    assert auroc_interval(truth, np.exp(score), np.arange(37)) == found
    assert auroc_interval(1 - truth, -score, np.arange(37)) == pytest.approx(found)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "two kinds of positives"])
def test_the_interval_of_many_patients_is_delongs(kind):
    rng = np.random.default_rng(2)
    truth = np.repeat([1.0, 0.0], [4000, 6000])
    noise = rng.normal(size=10_000) if kind == "normal" else rng.standard_t(2, size=10_000)
    seen = truth * (rng.random(10_000) < 0.7 if kind == "two kinds of positives" else 1.0)
    score = noise + 2 * seen
    found = delong(truth, score, np.arange(10_000))
    low, high = auroc_interval(truth, score, np.arange(10_000))  # unequal tails: 1 % wider
    assert high - low == pytest.approx(2 * norm.ppf(0.975) * found.variance**0.5, rel=0.03)


def test_a_proportion_is_wilsons_and_a_patient_counts_once():
    right = np.ones(17)
    found = interval("proportion", right, right, np.arange(17))
    assert (found.low, found.high) == (pytest.approx(0.8157, abs=1e-4), 1.0)  # not [1, 1]
    some = np.repeat([1.0, 0.0], [13, 4])
    wilson = binomtest(13, 17).proportion_ci(method="wilson")
    found = interval("proportion", some, some, np.arange(17))
    assert (found.low, found.high) == (pytest.approx(wilson.low), pytest.approx(wilson.high))
    copied = interval("proportion", np.tile(some, 3), np.tile(some, 3), np.tile(np.arange(17), 3))
    assert copied.high - copied.low > found.high - found.low


@given(seed=st.integers(0, 10_000), n=st.integers(10, 60))
@settings(max_examples=25, deadline=None)
def test_no_interval_excludes_its_own_value(seed, n):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n) % 2).astype(float)
    probability = rng.beta(0.3, 0.3, n)
    for metric in METRICS:
        found = interval(metric, truth, probability, np.arange(n), resamples=200)
        if metric != "proportion" and np.isfinite(found.low):
            assert found.low <= found.value <= found.high


def test_r2_keeps_its_digits_far_from_zero_and_is_not_defined_where_the_truth_is_constant():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=50)
    near = truth + 0.5 * rng.normal(size=50)
    a = interval("r2", truth, near, np.arange(50))
    b = interval("r2", truth + 1e8, near + 1e8, np.arange(50))
    assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high), abs=1e-5)
    constant = interval("r2", np.full(20, 0.1), rng.normal(size=20), np.arange(20))
    assert np.isnan(constant.value)
    assert constant.why == "the metric is not defined"
    assert np.isnan(of_libraries.r2(np.full(20, 0.1), rng.normal(size=20)))


def test_a_mean_of_skewed_scores_is_studentised_and_stays_among_them():
    """Dice of 20 studies, most near 0.9 and two that failed: the lower side is the longer one."""
    dice = np.r_[np.linspace(0.85, 0.95, 18), 0.1, 0.2]
    found = interval("mean", dice, dice, np.arange(20))
    assert found.value - found.low > 1.5 * (found.high - found.value)
    assert dice.min() <= found.low < found.value < found.high <= dice.max()
    # Three like studies of a patient say no more than one.
    many = interval("mean", np.tile(dice, 3), np.tile(dice, 3), np.tile(np.arange(20), 3))
    assert (many.low, many.high) == (pytest.approx(found.low), pytest.approx(found.high))


def t_bounds(values, sizes, rng):
    """A bootstrap of the t statistic of a weighted mean, drawn one by one."""
    mean = (sizes * values).sum() / sizes.sum()
    error = np.sqrt((sizes**2 * (values - mean) ** 2).sum()) / sizes.sum()
    drawn = rng.integers(0, len(values), (4000, len(values)))
    v, s = values[drawn], sizes[drawn]
    means = (s * v).sum(axis=1) / s.sum(axis=1)
    errors = np.sqrt((s**2 * (v - means[:, None]) ** 2).sum(axis=1)) / s.sum(axis=1)
    return mean - np.quantile((means - mean) / errors, [0.975, 0.025]) * error


def test_a_mean_agrees_with_a_bootstrap_of_the_t_statistic():
    """One study a patient, by another generator: the same interval but for its draws. Each side is
    that of the sample with its farthest patient counted half once more.
    """
    rng = np.random.default_rng(0)
    values = rng.exponential(size=40)
    found = interval("mean", values, values, np.arange(40), resamples=4000)
    plain = t_bounds(values, np.ones(40), rng)
    sizes = np.append(np.ones(40), 0.5)
    low = t_bounds(np.append(values, values.min()), sizes, rng)[0]
    high = t_bounds(np.append(values, values.max()), sizes, rng)[1]
    assert high > plain[1] + 0.05
    assert found.low == pytest.approx(min(low, plain[0]), abs=0.03)
    assert found.high == pytest.approx(max(high, plain[1]), abs=0.06)


def test_average_precision_is_scipys_bias_corrected_interval():
    rng = np.random.default_rng(0)
    truth = np.repeat([1.0, 0.0], [12, 48])
    score = truth + rng.normal(size=60)
    theirs = bootstrap(
        (truth, score),
        lambda t, s: of_libraries.auprc(t, s),
        paired=True,
        vectorized=False,
        n_resamples=1500,
        method="BCa",
        random_state=0,
    ).confidence_interval
    found = interval("auprc", truth, score, np.arange(60))
    assert found.low == pytest.approx(theirs.low, abs=0.02)
    assert found.high == pytest.approx(theirs.high, abs=0.02)


def test_undefined_resamples_are_counted_and_too_many_refuse_the_interval():
    truth = np.r_[1.0, np.zeros(29)]
    any_positive = lambda t, p, w: np.where(w @ t > 0, w @ p / w.sum(axis=1), np.nan)  # noqa: E731
    found = interval(any_positive, truth, truth, np.arange(30))
    assert found.undefined == pytest.approx((1 - 1 / 30) ** 30, abs=0.04)
    assert np.isnan(found.low)
    assert "% of the resamples" in found.why
    few = np.r_[np.ones(5), np.zeros(25)]
    found = interval(any_positive, few, few, np.arange(30))
    assert 0 < found.undefined < 0.02
    assert found.low < found.value < found.high


def test_a_win_survives_holm_over_a_hundred_comparisons():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    found = paired(
        "auroc", truth, truth + rng.normal(size=200), rng.normal(size=200), np.arange(200)
    )
    assert holm([found.p] + [0.5] * 99)[0] < 0.001


def test_blocks_of_resamples_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    truth, score, patients = rng.integers(0, 2, 80), rng.uniform(size=80), rng.integers(0, 30, 80)
    whole = interval("auprc", truth, score, patients, resamples=100, seed=5)
    resamples.draw_patients.cache_clear()
    monkeypatch.setattr(resamples, "BLOCK_BYTES", 8 * 80 * 7)
    assert interval("auprc", truth, score, patients, resamples=100, seed=5) == whole


def test_a_difference_over_fits_is_the_mean_of_its_pairs_and_the_seeds_widen_it():
    rng = np.random.default_rng(0)
    truth, patients = rng.integers(0, 2, 120), np.arange(120)
    second = truth + 1.5 * rng.normal(size=(1, 120))
    first = truth + rng.normal(size=(3, 120)) * np.array([[0.5], [1.5], [4.0]])
    one = {"truth": truth, "patients": patients}
    pairs = [paired("auroc", first=a, second=second[0], **one) for a in first]
    found = paired_over_fits("auroc", first=first, second=second, **one)
    assert found.value == pytest.approx(np.mean([pair.value for pair in pairs]))
    assert found.high - found.low > 1.2 * max(pair.high - pair.low for pair in pairs)
    # Three times the same fit is that fit.
    assert paired_over_fits("auroc", first=first[[1, 1, 1]], second=second, **one).value == (
        pytest.approx(pairs[1].value)
    )


def test_the_mean_over_fits_has_their_spread_and_the_interval_of_one():
    rng = np.random.default_rng(1)
    truth, patients = rng.integers(0, 2, 90), np.arange(90)
    fits = [interval("auroc", truth, truth + rng.normal(size=90), patients) for _ in range(3)]
    found = over_fits(fits)
    values = [one.value for one in fits]
    assert (found.value, found.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert min(one.low for one in fits) < found.low < found.value < found.high
    assert (found.fits, value_text(found)) == (3, f"{found.value:.3f} ± {found.sd:.3f}")
    assert over_fits(fits[:1]) is fits[0]
    assert value_text(fits[0]) == f"{fits[0].value:.3f}"
    # What one of the fits does not have, their mean does not have either.
    nan = float("nan")
    missing = over_fits([fits[0], Interval(nan, nan, nan, 90, why="no positive")])
    assert np.isnan([missing.value, missing.low]).all() and missing.why == "no positive"
