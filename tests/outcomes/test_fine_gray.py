"""Fine and Gray's model beside comprisk, and its standard errors beside what simulations
scatter.
"""

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.outcomes.fine_gray import censoring_survival, fine_gray
from mmv_jax.outcomes.simulate import fine_gray_coverage, simulate_subdistribution


def test_equals_comprisk():
    comprisk = pytest.importorskip("comprisk")
    time, event, x = simulate_subdistribution(600, 1, (0.5, -0.5))
    fit = fine_gray(time, event, x)
    theirs = comprisk.FineGrayRegression().fit(
        np.stack(list(x.values()), axis=1), time=time, event=event
    )
    np.testing.assert_allclose(fit.log_ratios, theirs.coef_, rtol=1e-5)


def test_without_competing_death_it_is_coxs_model():
    from mmv_jax.outcomes.cox import cox

    time, event, x = simulate_subdistribution(500, 2, (0.5, -0.5))
    fit, expected = fine_gray(time, (event == 1).astype(int), x), cox(time, event == 1, x)
    np.testing.assert_allclose(fit.log_ratios, expected.log_ratios, rtol=1e-6)


def test_scores_by_loops():
    """The influence of a woman, as Fine and Gray write it, against the cumulative sums of the
    implementation.
    """
    time, event, x = simulate_subdistribution(40, 3, (0.4, -0.3))
    time = np.ceil(time * 6) / 6  # ties of every kind
    fit = fine_gray(time, event, x)
    z = np.stack(list(x.values()), axis=1)
    risk = np.exp(z @ fit.log_ratios)
    g = {t: censoring_survival(time, event, np.array([t]))[0] for t in time}
    outcomes = np.unique(time[event == 1])

    def weight(i, t):
        return 1.0 if time[i] >= t else (g[t] / g[time[i]] if event[i] == 2 else 0.0)

    n = len(time)
    s0 = {t: sum(weight(i, t) * risk[i] for i in range(n)) for t in outcomes}
    mean = {t: sum(weight(i, t) * risk[i] * z[i] for i in range(n)) / s0[t] for t in outcomes}
    hazard = {t: np.sum(event[time == t] == 1) / s0[t] for t in outcomes}

    def q(u):
        dead = [i for i in range(n) if event[i] == 2 and time[i] < u]
        return sum(
            (
                weight(i, t) * risk[i] * hazard[t] * (z[i] - mean[t])
                for i in dead
                for t in outcomes
                if t >= u
            ),
            np.zeros(2),
        )

    influence = np.zeros((n, 2))
    for i in range(n):
        if event[i] == 1:
            influence[i] += z[i] - mean[time[i]]
        influence[i] -= sum(weight(i, t) * risk[i] * hazard[t] * (z[i] - mean[t]) for t in outcomes)
        for u in np.unique(time[event == 0]):
            followed = np.sum(time >= u)
            if u <= time[i]:
                influence[i] += (
                    q(u)
                    / followed
                    * (
                        (event[i] == 0 and time[i] == u)
                        - np.sum((time == u) & (event == 0)) / followed
                    )
                )
    information = sum(
        (
            np.sum(event[time == t] == 1) * _variance(z, [weight(i, t) * risk[i] for i in range(n)])
            for t in outcomes
        ),
        np.zeros((2, 2)),
    )
    bread = np.linalg.inv(information)
    np.testing.assert_allclose(fit.covariance, bread @ influence.T @ influence @ bread, rtol=1e-5)


def _variance(z, weights):
    mean = np.average(z, axis=0, weights=weights)
    return np.average([np.outer(row - mean, row - mean) for row in z], axis=0, weights=weights)


def test_intervals_cover_and_errors_are_the_spread():
    """A small share of the full proof; see `coverage`."""
    for found in fine_gray_coverage(60, 300):
        assert 52 <= found.held <= 60
        assert found.error == pytest.approx(found.spread, rel=0.3)


def test_predicted_risk_is_the_incidence_it_was_simulated_with():
    time, event, x = simulate_subdistribution(20_000, 5, (0.5, -0.5))
    women = {"z0": np.array([0.0, 1.0]), "z1": np.array([0.0, -1.0])}
    truth = 1 - (1 - 0.4 * (1 - np.exp(-1.0))) ** np.exp([0.0, 1.0])
    np.testing.assert_allclose(fine_gray(time, event, x).risk(women, 1.0), truth, rtol=0.05)


def test_separation_is_no_answer():
    time, event, x = simulate_subdistribution(100, 0, (0.5,))
    with pytest.raises(UserError, match="does not converge"):
        fine_gray(time, event, {**x, "told": (event == 1).astype(float)})


def test_women_far_outside_the_others_are_no_model():
    time, event, x = simulate_subdistribution(200, 0, (0.5, 0.0))
    far = x["z0"].copy()
    far[np.flatnonzero(event == 0)[:3]] = [-3e4, -2e4, -1e4]
    with pytest.raises(UserError, match="does not converge.*far outside"):
        fine_gray(time, event, {"far": far})
