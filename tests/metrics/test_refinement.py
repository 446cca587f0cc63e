"""The log loss after calibration, against scikit-learn's calibration of the same form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmv_jax.metrics.refinement import refined_log_loss


def drawn(seed, positives=12, negatives=20, apart=1.0):
    rng = np.random.default_rng(seed)
    truth = np.repeat([1.0, 0.0], [positives, negatives])
    return 1 / (1 + np.exp(-(rng.normal(size=len(truth)) + apart * truth))), truth


@pytest.mark.parametrize("apart", [0.5, 2.0, 8.0])
def test_it_is_the_loss_of_platts_calibration(apart):
    calibration = pytest.importorskip("sklearn.calibration", reason="scikit-learn is the oracle")
    predicted, truth = drawn(0, apart=apart)
    scores = np.log(predicted / (1 - predicted))
    a, b = calibration._sigmoid_calibration(scores, truth)
    p = 1 / (1 + np.exp(a * scores + b))
    targets = np.where(truth == 1, 13 / 14, 1 / 22)
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    assert refined_log_loss(predicted, truth) == pytest.approx(expected, abs=1e-6)


@given(st.floats(0.05, 20), st.floats(-5, 5))
def test_a_scale_and_a_shift_of_the_logits_change_nothing(scale, shift):
    predicted, truth = drawn(1)
    changed = 1 / (1 + np.exp(-(scale * np.log(predicted / (1 - predicted)) + shift) / 4))
    assert refined_log_loss(changed, truth) == pytest.approx(
        refined_log_loss(predicted, truth), abs=1e-4
    )


def test_overconfidence_is_no_loss_and_a_better_ranking_is_a_gain():
    weak, truth = drawn(2, apart=0.5)
    strong, _ = drawn(2, apart=3.0)
    equal = refined_log_loss(np.full(len(truth), 0.9), truth)
    assert refined_log_loss(strong, truth) < refined_log_loss(weak, truth) < equal
    # Of a network that is certain and wrong here and there the plain log loss is above ln 2.
    certain = np.where(strong > np.median(strong), 1 - 1e-9, 1e-9)
    assert refined_log_loss(certain, truth) < equal < 0.7


def test_a_ranking_the_wrong_way_is_as_good_as_none():
    predicted, truth = drawn(3, apart=2.0)
    equal = refined_log_loss(np.full(len(truth), 0.5), truth)
    assert refined_log_loss(1 - predicted, truth) == pytest.approx(equal, abs=1e-6)
