"""Cox's model: equal to lifelines, and honest where there is no answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmv_jax.errors import UserError
from mmv_jax.outcomes.cox import cox

seeds = st.integers(0, 10_000)


def sample(seed, women=300, tied=True):
    rng = np.random.default_rng(seed)
    x = {
        "a": rng.normal(size=women),
        "b": (rng.random(women) < 0.3).astype(float),
        "c": rng.lognormal(1.0, 1.2, women),
    }
    time = rng.exponential(1 / np.exp(0.7 * x["a"] - 0.4 * x["b"] + 0.02 * x["c"]))
    left = rng.exponential(1.5, women)
    ended = np.minimum(time, left)
    return np.ceil(ended * 8) / 8 if tied else ended, time <= left, x


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_equals_lifelines(tied):
    lifelines = pytest.importorskip("lifelines")
    import pandas as pd

    time, outcome, x = sample(0, tied=tied)
    fit = cox(time, outcome, x)
    theirs = lifelines.CoxPHFitter().fit(
        pd.DataFrame({**x, "time": time, "outcome": outcome}),
        "time",
        "outcome",
        fit_options={"precision": 1e-10},
    )
    np.testing.assert_allclose(fit.log_ratios, theirs.params_, rtol=1e-5)
    np.testing.assert_allclose(fit.covariance, theirs.variance_matrix_, rtol=1e-5)
    assert fit.log_likelihood == pytest.approx(theirs.log_likelihood_)


def efron_by_loops(beta, time, outcome, x):
    """The log partial likelihood as Efron wrote it."""
    linear = x @ beta
    total = 0.0
    for t in np.unique(time[outcome]):
        now = outcome & (time == t)
        for k in range(now.sum()):
            total -= np.log(
                np.exp(linear[time >= t]).sum() - k / now.sum() * np.exp(linear[now]).sum()
            )
        total += linear[now].sum()
    return total


@given(seeds)
@settings(max_examples=15)
def test_no_neighbour_is_more_likely(seed):
    time, outcome, x = sample(seed, women=80)
    fit = cox(time, outcome, x)
    columns = np.stack(list(x.values()), axis=1)
    centred = columns - columns.mean(axis=0)  # a shift of a covariate changes no likelihood
    assert efron_by_loops(fit.log_ratios, time, outcome, centred) == pytest.approx(
        fit.log_likelihood, abs=1e-8
    )
    for i in range(3):
        for sign in (-1, 1):
            moved = fit.log_ratios + sign * 0.1 * np.sqrt(fit.covariance[i, i]) * np.eye(3)[i]
            assert efron_by_loops(moved, time, outcome, columns) < fit.log_likelihood


@given(seeds, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=15)
def test_units_and_origin_of_a_covariate_change_nothing_else(seed, unit, origin):
    time, outcome, x = sample(seed, women=120)
    fit, other = cox(time, outcome, x), cox(time, outcome, {**x, "a": origin + x["a"] * unit})
    np.testing.assert_allclose(
        other.log_ratios * [unit, 1, 1], fit.log_ratios, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        [t.chi2 for t in other.proportionality],
        [t.chi2 for t in fit.proportionality],
        rtol=1e-3,
        atol=1e-6,
    )


def test_a_long_tail_does_not_stop_it():
    rng = np.random.default_rng(3)
    area = np.where(rng.random(5000) < 0.2, rng.lognormal(2.5, 1.5, 5000), 0.0)
    time = rng.exponential(20 * np.exp(-0.02 * area))
    fit = cox(np.minimum(time, 5.0), time < 5.0, {"area": area})
    low, high = fit.effects()["area"].ci95
    assert low < np.exp(0.02) < high


def test_a_hazard_that_changes_with_time_is_found():
    rng = np.random.default_rng(0)
    early = (rng.random(4000) < 0.5).astype(float)
    constant = rng.normal(size=4000)
    time = rng.weibull(np.where(early == 1, 0.6, 1.6), 4000) * np.exp(-0.4 * constant)
    found = {
        test.name: test.p
        for test in cox(
            time, np.ones(4000, bool), {"early": early, "constant": constant}
        ).proportionality
    }
    assert found["early"] < 1e-6
    assert found["global"] < 1e-6


def test_the_test_of_proportionality_is_calibrated():
    p = [cox(*sample(seed, women=200, tied=False)).proportionality[-1].p for seed in range(200)]
    assert 2 <= np.sum(np.array(p) < 0.05) <= 20  # 10 expected; outside with probability 0.002


def test_separation_is_no_answer():
    time = np.arange(1.0, 41.0)
    x = {"a": np.repeat([1.0, 0.0], 20)}
    with pytest.raises(UserError, match="Cox model of a does not converge"):
        cox(time, x["a"] == 1, x)


def test_a_constant_is_no_covariate():
    time, outcome, x = sample(0)
    with pytest.raises(UserError, match="the same for all"):
        cox(time, outcome, {**x, "one": np.ones(300)})


def test_a_covariate_that_varies_at_one_outcome_only_has_no_trend():
    time = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    rare = np.array([1.0, 0, 0, 0, 0, 0])
    rare_test, other_test, together = cox(
        np.repeat(time, 2),
        np.ones(12, bool),
        {"rare": np.repeat(rare, 2) * ([1, 0] * 6), "x": np.tile([1.0, 0], 6)},
    ).proportionality
    assert (rare_test.chi2, rare_test.p) == (0, 1)
    assert together.df == 1
    assert together.chi2 == pytest.approx(other_test.chi2)
