"""Differences between groups against published intervals, Fisher's and Welch's tests."""

import numpy as np
import pytest
from scipy import stats

from mmv_jax.metrics.between import between_groups
from mmv_jax.metrics.groups import among
from mmv_jax.metrics.intervals import contrast


def shares(found: tuple[int, int], of: tuple[int, int], studies: int = 1):
    """Two groups of patients of whom so many are right, each with the same answer a study."""
    right = np.concatenate([np.arange(n) < k for k, n in zip(found, of)]).astype(float)
    patients = np.repeat(np.arange(sum(of)), studies)
    own = right[patients]
    return (patients < of[0], patients >= of[0]), {
        "truth": own,
        "predicted": own,
        "patients": patients,
    }


# Newcombe, Statistics in Medicine 17 (1998), table II, method 10.
@pytest.mark.parametrize(
    "found, of, low, high",
    [
        ((56, 48), (70, 80), 0.0524, 0.3339),
        ((9, 3), (10, 10), 0.1705, 0.8090),
        ((5, 0), (56, 29), -0.0381, 0.1926),
        ((10, 0), (10, 20), 0.6791, 1.0),
    ],
)
def test_the_interval_of_two_proportions_is_newcombes(found, of, low, high):
    groups, data = shares(found, of)
    ours = between_groups("proportion", groups, **data)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=5e-5)


def test_a_group_of_five_that_is_all_right_is_not_told_from_four_fifths():
    groups, data = shares((5, 80), (5, 100))
    drawn = contrast(*(among("mean", g) for g in groups), **data)
    assert drawn.p < 0.05 < between_groups("proportion", groups, **data).p
    assert stats.fisher_exact([[5, 0], [80, 20]]).pvalue > 0.5


@pytest.mark.parametrize("found, of", [((2, 40), (10, 50)), ((9, 10), (10, 30))])
def test_p_is_near_the_mid_p_of_fisher_and_the_level_at_which_the_interval_ends_at_nought(
    found, of
):
    groups, data = shares(found, of)
    ours = between_groups("proportion", groups, **data)
    table = [[found[0], of[0] - found[0]], [found[1], of[1] - found[1]]]
    assert ours.p < stats.fisher_exact(table).pvalue < 10 * ours.p
    at = between_groups("proportion", groups, **data, level=1 - ours.p)
    assert min(abs(at.low), abs(at.high)) < 1e-4


def test_like_studies_of_a_patient_count_once():
    once, thrice = (
        between_groups("proportion", groups, **data)
        for groups, data in (shares((12, 20), (20, 60), k) for k in (1, 3))
    )
    # Student's quantile of clusters is a little wider than the normal one.
    assert thrice.low == pytest.approx(once.low, abs=0.02) and thrice.low < once.low


def a_gap(positives: int, rng: np.random.Generator, rest: float = 1.0):
    """A small group in which all is ranked right, and a large one."""
    truth = np.r_[np.ones(positives), np.zeros(20), np.ones(100), np.zeros(200)]
    first = np.arange(len(truth)) < positives + 20
    score = np.where(first, 10 * truth, rest * truth) + rng.normal(size=len(truth))
    return (first, ~first), {
        "truth": truth,
        "predicted": score,
        "patients": np.arange(len(truth)),
    }


def test_a_perfect_auroc_of_five_positives_is_not_told_from_a_good_one():
    groups, data = a_gap(5, np.random.default_rng(0), rest=2.0)
    ours = between_groups("auroc", groups, **data)
    assert ours.low < 0 < ours.high and ours.p > 0.05
    assert contrast(*(among("auroc", g) for g in groups), **data).value == ours.value


def test_a_real_gap_is_told():
    groups, data = a_gap(30, np.random.default_rng(0), rest=1.0)
    ours = between_groups("auroc", groups, **data)
    assert 0 < ours.low < ours.value < ours.high and ours.p < 0.01


def test_a_group_without_an_interval_has_no_difference_and_says_why():
    groups, data = a_gap(4, np.random.default_rng(0))
    ours = between_groups("auroc", groups, **data)
    assert np.isnan([ours.low, ours.high, ours.p]).all() and "fewer than 5" in ours.why
    mean = between_groups("mean", (np.arange(len(groups[0])) < 4, groups[1]), **data)
    assert mean.why == "fewer than 5 patients of a group or class"


def test_patients_in_both_groups_make_the_difference_more_certain():
    """Positives of two kinds, each against all negatives."""
    rng = np.random.default_rng(1)
    truth, kind = np.repeat([1, 1, 0], [40, 40, 20]), np.repeat([1, 2, 0], [40, 40, 20])
    score = 1.5 * truth + rng.normal(size=100)
    both = tuple((kind == k) | (truth == 0) for k in (1, 2))
    data = {"truth": truth.astype(float), "predicted": score, "patients": np.arange(100)}
    ours = between_groups("auroc", both, **data)
    # As if each kind had negatives of its own.
    twice = np.concatenate([np.flatnonzero(own) for own in both])
    half = np.arange(len(twice)) < both[0].sum()
    apart = between_groups(
        "auroc",
        (half, ~half),
        truth=data["truth"][twice],
        predicted=score[twice],
        patients=np.arange(len(twice)),
    )
    assert ours.value == pytest.approx(apart.value)
    assert ours.high - ours.low < 0.95 * (apart.high - apart.low)
    same = between_groups("auroc", (both[0], both[0]), **data)
    assert (same.value, same.p) == (0.0, 1.0)


def test_a_difference_of_means_has_the_freedom_of_the_smaller_group():
    rng = np.random.default_rng(3)
    values = np.r_[rng.normal(3.0, 1.0, 6), rng.normal(0.0, 1.0, 400)]
    first = np.arange(406) < 6
    ours = between_groups(
        "mean", (first, ~first), truth=values, predicted=values, patients=np.arange(406)
    )
    welch = stats.ttest_ind(values[first], values[~first], equal_var=False).pvalue
    # With the freedom of all 406 it would be a hundredth of that.
    assert welch / 2 < ours.p < 2 * welch
