"""Curves and numbers at risk."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmv_jax.outcomes.survival import Curve, at_risk, cumulative_incidence, kaplan_meier

women = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=60)


@given(women)
def test_without_competing_death_incidence_is_one_minus_kaplan_meier(rows):
    time, event = np.array(rows, float).T
    outcome = event == 1
    incidence, survival = (
        cumulative_incidence(time, outcome.astype(int)),
        kaplan_meier(time, outcome),
    )
    when = np.arange(0.0, 32.0)
    np.testing.assert_allclose(incidence.at(when), 1 - survival.at(when), atol=1e-12)


@given(women)
def test_incidences_and_survival_add_up_to_everybody(rows):
    time, event = np.array(rows, float).T
    event = event.astype(int)
    when = np.arange(0.0, 32.0)
    first, second = (cumulative_incidence(time, event, cause=cause) for cause in (1, 2))
    np.testing.assert_allclose(
        first.at(when) + second.at(when) + kaplan_meier(time, event > 0).at(when), 1, atol=1e-12
    )
    assert np.all(
        (first.low <= first.value)
        & (first.value <= first.high)
        & (first.low >= 0)
        & (first.high <= 1)
    )
    assert np.all(np.diff(first.value) >= 0)


@given(women, st.lists(st.floats(0, 40), max_size=10))
def test_at_risk_are_those_followed_as_long(rows, when):
    time = np.array([row[0] for row in rows], float)
    assert at_risk(time, when).tolist() == [int(np.sum(time >= w)) for w in when]


def test_the_interval_of_incidence_covers():
    """With even death and censoring, F(1) = (1 - exp(-3)) / 3 for unit hazards of outcome, and
    twice that of death.
    """
    truth, held = (1 - np.exp(-3.0)) / 3, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        ends = rng.exponential([[1.0], [0.5], [1.0]], (3, 150))
        curve = cumulative_incidence(ends.min(axis=0), np.array([1, 2, 0])[ends.argmin(axis=0)])
        i = np.searchsorted(curve.time, 1.0, side="right") - 1
        held += curve.low[i] <= truth <= curve.high[i]
    assert 180 <= held <= 198


def test_a_thinned_curve_is_the_curve():
    time = np.sort(np.random.default_rng(0).exponential(5.0, 3000))
    curve = kaplan_meier(time, np.ones(3000, bool))
    thin = curve.thinned(100)
    assert isinstance(thin, Curve)
    assert len(thin.time) == 100
    np.testing.assert_array_equal(thin.value, curve.at(thin.time))
    assert kaplan_meier(time[:20], np.ones(20, bool)).thinned(100).time.shape == (21,)
