"""The calibration slope against scikit-learn's logistic regression on the log odds."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mmv_jax.metrics.weighted import METRICS


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


@pytest.mark.parametrize("spread, middle", [(0.005, 0.0), (0.01, -5.0), (8.0, 3.0)])
def test_the_slope_of_timid_or_bold_probabilities_is_found(spread, middle):
    rng = np.random.default_rng(1)
    sure = rng.normal(size=400)
    truth = (rng.uniform(size=400) < 1 / (1 + np.exp(1.0 - 2 * sure))).astype(int)
    p = np.clip(1 / (1 + np.exp(-(middle + spread * sure))), 1e-6, 1 - 1e-6)
    logit = np.log(p / (1 - p))
    unit = logit.std()
    model = LogisticRegression(C=np.inf, tol=1e-8).fit((logit - middle)[:, None] / unit, truth)
    ours = METRICS["calibration_slope"](truth, p, np.ones((1, 400)))[0]
    assert ours == pytest.approx(model.coef_[0, 0] / unit, rel=1e-3)


def test_equal_probabilities_have_no_calibration_slope():
    truth = np.repeat([0, 1], 50)
    for p in (0.3, 0.1234567, 0.0):
        assert np.isnan(
            METRICS["calibration_slope"](truth, np.full(100, p), np.ones((2, 100)))
        ).all()


def test_separated_classes_have_no_calibration_slope():
    truth = np.repeat([0, 1], 20)
    assert np.isnan(
        METRICS["calibration_slope"](truth, np.linspace(0.01, 0.99, 40), np.ones((1, 40)))[0]
    )
