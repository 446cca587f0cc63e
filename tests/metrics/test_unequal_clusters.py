"""Intervals of proportions where patients have unequal numbers of studies."""

import numpy as np
import pytest
from scipy.stats import t

from mmv_jax.metrics.intervals import interval


def test_a_patient_of_half_the_studies_counts_as_one_patient():
    """With the mean number of studies as largest design effect, 32 to 67 % of the sets held it."""
    patients = np.r_[np.zeros(20, int), np.arange(1, 21)]
    all_right = interval("proportion", np.ones(40), np.ones(40), patients)
    fewer = 40**2 / (20**2 + 20)  # Kish's number of patients
    wide = t.ppf(0.975, fewer - 1) ** 2 / fewer
    assert all_right.low == pytest.approx(1 / (1 + wide))
    rng, held = np.random.default_rng(0), []
    for _ in range(200):
        own = (rng.uniform(size=21) < 0.7).astype(float)[patients]
        found = interval("proportion", own, own, patients)
        held.append(found.low <= 0.7 <= found.high)
    assert np.mean(held) > 0.93


def test_clusters_of_unequal_sizes_have_the_variance_without_each_patient():
    rng = np.random.default_rng(2)
    index = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    right = (rng.uniform(size=12)[index] + rng.uniform(size=len(index)) < 1.1).astype(float)
    n, sizes = len(index), np.bincount(index)
    left = np.array([right[index != k].mean() for k in range(12)])
    variance = 11 / 12 * ((left - right.mean()) ** 2).sum()
    most = (sizes**2).sum() / n
    share = right.mean()
    design = variance / (share * (1 - share) / n)
    assert 1 < design < most
    wide = t.ppf(0.975, n / most - 1) ** 2 * design / n
    middle = (share + wide / 2) / (1 + wide)
    reach = np.sqrt(wide * share * (1 - share) + wide**2 / 4) / (1 + wide)
    found = interval("proportion", right, right, index)
    assert (found.low, found.high) == pytest.approx((middle - reach, middle + reach))
