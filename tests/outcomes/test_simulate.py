"""The simulator's women have the hazards that it was told."""

import numpy as np
import pytest

from mmv_jax.outcomes.cohort import severity
from mmv_jax.outcomes.simulate import cox_coverage, simulate_cohort, simulate_subdistribution


def test_a_seed_is_a_cohort():
    first, again, other = (simulate_cohort(500, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.time_years, again.time_years)
    assert not np.array_equal(first.time_years, other.time_years)


def test_the_cohort_looks_like_a_screening_cohort():
    cohort = simulate_cohort(100_000, 0)
    share = np.bincount(severity(cohort.area_mm2)) / len(cohort)
    assert 0.16 < 1 - share[0] < 0.21  # the two health systems' prevalence
    assert np.all(np.diff(share) < 0)
    assert np.all((np.bincount(cohort.event) / len(cohort))[1:] > 0.03)
    age = [cohort.age[severity(cohort.area_mm2) == i].mean() for i in range(4)]
    assert np.all(np.diff(age) > 0)


def test_the_hazard_is_weibull_with_the_ratio_asked_for():
    """-ln S(t) of unconfounded women of one age, without censoring, is rate · t^shape · ratio."""
    cohort = simulate_cohort(
        400_000, 0, hazard_ratios=(3.0, 3.0, 3.0), confounding=0.0, death_at_60=1e-12, years=1e6
    )
    alike = np.abs(cohort.age - 57) < 3
    group = severity(cohort.area_mm2)[alike] > 0
    time = cohort.time_years[alike]
    hazard = [[-np.log(np.mean(time[group == g] > t)) for t in (1.0, 3.0)] for g in (False, True)]
    # the loss of one in fifty a year adds a little
    assert hazard[0][1] / hazard[0][0] == pytest.approx(3**1.2 + 0.0, rel=0.25)
    assert hazard[1][0] - 0.02 == pytest.approx(3 * (hazard[0][0] - 0.02), rel=0.12)


def test_adjusted_intervals_cover():
    """A share of the full proof; see `coverage`: 200 cohorts of 10,000."""
    for found in cox_coverage(20, 5000):
        assert found.held >= 17
        assert (
            abs(
                found.mean
                - np.log({"mild": 1.2, "moderate": 1.4, "severe": 2.1, "per_mm2": 1.02}[found.name])
            )
            < 3 * found.spread / 20**0.5
        )


def test_the_subdistribution_is_the_one_asked_for():
    time, event, x = simulate_subdistribution(200_000, 0, (0.5,), censored_by=1e9)
    ever = 1 - 0.6 ** np.exp(0.5 * x["z0"])
    assert np.mean(event == 1) == pytest.approx(ever.mean(), abs=0.005)
    by_one = 1 - (1 - 0.4 * (1 - np.exp(-1.0))) ** np.exp(0.5 * x["z0"])
    assert np.mean((event == 1) & (time <= 1)) == pytest.approx(by_one.mean(), abs=0.005)
