"""Jackknifed intervals: exact for means, and covering where seeds differ."""

import numpy as np
import pytest
from scipy import stats

from mmv_jax.metrics.features import debiased_cka
from mmv_jax.metrics.jackknife import jackknifed, jackknifed_difference, leave_out


def of_mean(x):
    return float(x.mean()), leave_out(lambda kept: float(x[kept].mean()), len(x))


def test_of_a_mean_it_is_students_interval():
    x = np.random.default_rng(0).normal(size=12)
    value, left_out = of_mean(x)
    found = jackknifed([value], left_out[None])
    low, high = stats.t.interval(0.95, 11, loc=x.mean(), scale=stats.sem(x))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_a_difference_has_the_p_value_of_the_paired_t_test():
    x, y = np.random.default_rng(1).normal(size=(2, 15))
    both = [tuple(np.array(part)[None] for part in of_mean(z)) for z in (x, y)]
    found = jackknifed_difference(*both)
    assert found.value == pytest.approx(float((x - y).mean()))
    assert found.p == pytest.approx(stats.ttest_rel(x, y).pvalue, abs=1e-6)


def test_seeds_that_differ_widen_the_interval():
    x = np.random.default_rng(2).normal(size=50)
    values, left_out = (np.stack([part] * 3) for part in of_mean(x))
    alike = jackknifed(values, left_out)
    shift = np.array([-1.0, 0.0, 1.0])
    apart = jackknifed(values + shift, left_out + shift[:, None])
    assert alike.sd == 0 and apart.sd == pytest.approx(1.0)
    # Seeds alone: a standard error of 1 / √3 and about 2 degrees of freedom.
    assert apart.high - apart.value == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3), rel=0.1)
    assert alike.high - alike.value < 0.4


def test_it_covers_over_seeds_and_patients():
    rng, hits = np.random.default_rng(3), 0
    for _ in range(300):
        patients = rng.normal(size=30)
        fits = [patients + rng.normal(0, 0.2) for _ in range(3)]  # each fit has its own luck
        parts = [of_mean(fit) for fit in fits]
        found = jackknifed([v for v, _ in parts], np.stack([out for _, out in parts]))
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_the_interval_of_cka_covers_that_of_many_patients():
    mixer = np.random.default_rng(4).normal(size=(2, 6, 6))

    def pairs(n, rng):
        factors = rng.normal(size=(n, 6)) * [3, 2, 1, 1, 1, 1]
        return factors @ mixer[0], factors @ mixer[1] + rng.normal(size=(n, 6))

    truth = debiased_cka(*pairs(3000, np.random.default_rng(5)))
    hits = 0
    for seed in range(50):
        x, y = pairs(50, np.random.default_rng(100 + seed))
        left_out = leave_out(lambda kept, x=x, y=y: debiased_cka(x[kept], y[kept]), 50)
        found = jackknifed([debiased_cka(x, y)], left_out[None], within=(-1.0, 1.0))
        hits += found.low <= truth <= found.high
    assert 43 <= hits <= 50


def test_few_patients_or_undefined_values_have_no_interval():
    assert "needs 5" in jackknifed([1.0], np.ones((1, 4))).why
    assert np.isnan(jackknifed([1.0], np.array([[1.0] * 5 + [np.nan]])).low)
    difference = jackknifed_difference(
        (np.ones(1), np.ones((1, 4))), (np.zeros(1), np.ones((1, 4)))
    )
    assert np.isnan(difference.p) and difference.why
