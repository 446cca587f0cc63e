"""C, AUC, reclassification and calibration against their definitions, and against the truth of
simulated women.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mmv_jax.outcomes.discrimination import (
    auc,
    calibration,
    concordance,
    outcome_weights,
    reclassification,
)

women = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 2), st.integers(0, 5)), min_size=2, max_size=40
)


def sample(seed, n=3000, censored_by=12.0):
    """Times with hazard exp(score) / 10, death with hazard 1 / 20, even censoring; the true risk by
    5 years.
    """
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    rate = np.exp(score) / 10
    ends = np.stack(
        [rng.exponential(1 / rate), rng.exponential(20.0, n), rng.uniform(0, censored_by, n)]
    )
    risk = rate / (rate + 0.05) * (1 - np.exp(-(rate + 0.05) * 5.0))
    return ends.min(axis=0), np.array([1, 2, 0])[ends.argmin(axis=0)], score, risk, ends


@given(women)
def test_concordance_is_the_share_of_pairs(rows):
    time, event, risk = np.array(rows, float).T
    won = pairs = 0.0
    for i in np.flatnonzero(event == 1):
        for j in range(len(time)):
            end = np.inf if event[j] == 2 else time[j]
            if end > time[i] or (end == time[i] and event[j] == 0):
                pairs += 1
                won += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    if pairs:
        assert concordance(time, event.astype(int), risk).value == pytest.approx(won / pairs)


def test_concordance_equals_lifelines():
    pytest.importorskip("lifelines")
    from lifelines.utils import concordance_index

    time, event, score, _, _ = sample(0)
    expected = concordance_index(time, -score, event == 1)
    assert concordance(time, (event == 1).astype(int), score).value == pytest.approx(
        expected, abs=1e-12
    )


def test_the_intervals_of_c_and_auc_and_of_their_gain_cover():
    large = estimates(0, 200_000)
    held = np.zeros(3, int)
    for seed in range(1, 101):
        held += [
            e.ci95[0] <= truth.value <= e.ci95[1] for e, truth in zip(estimates(seed, 400), large)
        ]
    assert np.all((held >= 88) & (held <= 100)), held


def estimates(seed, n):
    """C, AUC, and what the AUC of the score gains over that of the score with noise."""
    time, event, score, _, _ = sample(seed, n)
    noise = np.random.default_rng(10_000 + seed).normal(size=n)
    best = auc(time, event, score, 5.0)
    return concordance(time, event, score), best, best - auc(time, event, score + noise, 5.0)


def test_auc_without_censoring_is_the_usual_one():
    _, _, score, _, ends = sample(0, censored_by=1e9)
    time, event = ends[:2].min(axis=0), np.where(ends[0] < ends[1], 1, 2)
    case = (event == 1) & (time <= 5)
    assert auc(time, event, score, 5.0).value == pytest.approx(
        roc_auc_score(case, score), abs=1e-12
    )


def test_weights_stand_for_the_censored():
    time, event, _, risk, _ = sample(0, n=50_000)
    cases, controls = outcome_weights(time, event, 5.0)
    assert cases.sum() / 50_000 == pytest.approx(risk.mean(), abs=0.01)
    assert (cases + controls).sum() / 50_000 == pytest.approx(1.0, abs=0.01)
    assert not np.any(cases[(event != 1) | (time > 5)])
    assert not np.any((cases + controls)[(event == 0) & (time <= 5)])


def test_a_random_risk_reclassifies_nobody_rightly():
    time, event, _, risk, _ = sample(0, n=20_000)
    other = np.clip(risk + np.random.default_rng(7).normal(0, 0.05, 20_000), 0, 1)
    low, high = reclassification(
        time, event, other, np.random.default_rng(1).permutation(other), 5.0
    ).total.ci95
    assert high < 0  # worse than it was
    same = reclassification(time, event, risk, risk, 5.0)
    assert same.total.value == same.with_outcome.value == same.without_outcome.value == 0


def test_reclassification_without_censoring_is_counted():
    time = np.array([1.0, 1.0, 9.0, 9.0, 9.0])
    event = np.array([1, 1, 0, 2, 1])
    old = np.array([0.04, 0.10, 0.10, 0.10, 0.01])
    new = np.array([0.06, 0.11, 0.04, 0.12, 0.30])  # up, up, down, within, up
    moved = reclassification(time, event, old, new, 5.0, cutoffs=(0.05, 0.105))
    assert moved.with_outcome.value == pytest.approx(1.0)
    assert moved.without_outcome.value == pytest.approx((1 - 1 - 1) / 3)
    assert moved.total.value == pytest.approx(1 - 1 / 3)
    assert reclassification(
        time, event, old, new, 5.0, cutoffs=()
    ).without_outcome.value == pytest.approx((1 - 1 - 1) / 3)


def test_the_true_risk_is_calibrated_and_twice_it_is_not():
    time, event, _, risk, _ = sample(0, n=40_000)
    true, double = calibration(time, event, risk, 5.0), calibration(time, event, 2 * risk, 5.0)
    assert true.ratio_ci95[0] < 1 < true.ratio_ci95[1]
    assert double.ratio == pytest.approx(true.ratio / 2)
    assert true.women.tolist() == [4000] * 10
    assert np.sum((true.low <= true.predicted) & (true.predicted <= true.high)) >= 8
    assert np.all(np.diff(true.predicted) > 0)
