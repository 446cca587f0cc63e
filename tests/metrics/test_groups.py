"""Metrics of groups against slow counting of pairs, and a tie that is broken where it is the only
reason.
"""

import numpy as np
import pytest
from of_libraries import auroc

from mmv_jax.metrics.behind import Behind
from mmv_jax.metrics.groups import Support, among, auroc_within, support, tie_broken
from mmv_jax.metrics.intervals import contrast, interval, interval_over_draws
from mmv_jax.metrics.weighted import weighted_auroc

N = 400


@pytest.fixture(scope="module")
def tied():
    """A score that sees the tube and not the finding: (truth, score, tube, patients)."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, N)
    tube = (rng.uniform(size=N) < np.where(truth == 1, 0.8, 0.2)).astype(int)
    return truth, tube + 0.3 * rng.normal(size=N), tube, np.arange(N)


def pairs_right(truth, score, allowed):
    """Slow: every pair of a positive and a negative study that is allowed."""
    right, pairs = 0.0, 0
    for i in np.flatnonzero(truth == 1):
        for j in np.flatnonzero(truth == 0):
            if allowed(i, j):
                right += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
                pairs += 1
    return right / pairs


def test_within_counts_pairs_of_one_group(tied):
    truth, score, tube, _ = tied
    found = auroc_within(tube)(truth, score, np.ones((1, N)))[0]
    assert found == pytest.approx(pairs_right(truth, score, lambda i, j: tube[i] == tube[j]))


def test_among_is_the_metric_of_the_part(tied):
    truth, score, tube, _ = tied
    found = among("auroc", tube == 1)(truth, score, np.ones((1, N)))[0]
    assert found == pytest.approx(auroc(truth[tube == 1], score[tube == 1]))


def test_a_score_that_sees_the_tube_alone_is_at_chance_once_the_tie_is_broken(tied):
    truth, score, tube, patients = tied
    assert auroc(truth, score) > 0.75
    broken = interval(tie_broken("auroc", tube), truth, score, patients)
    assert broken.low < 0.5 < broken.high
    assert abs(broken.value - 0.5) < 0.06
    lost = contrast("auroc", tie_broken("auroc", tube), truth, score, patients)
    assert lost.low > 0.15
    assert lost.p < 0.01


def test_breaking_a_tie_is_what_resampling_gives_on_average(tied):
    truth, score, tube, _ = tied
    rng, cells = (
        np.random.default_rng(1),
        {(y, t): np.flatnonzero((truth == y) & (tube == t)) for y in (0, 1) for t in (0, 1)},
    )
    share = {(y, t): round(N * np.mean(truth == y) * np.mean(tube == t)) for y, t in cells}
    drawn = []
    for _ in range(300):
        chosen = np.concatenate([rng.choice(cells[cell], share[cell]) for cell in cells])
        drawn.append(auroc(truth[chosen], score[chosen]))
    assert tie_broken("auroc", tube)(truth, score, np.ones((1, N)))[0] == pytest.approx(
        np.mean(drawn), abs=0.01
    )


def test_a_column_that_tells_nothing_changes_nothing(tied):
    truth, score, _, _ = tied
    other = np.resize([0, 1, 2], N)
    balanced = np.concatenate(
        [np.flatnonzero((truth == y) & (other == g))[:50] for y in (0, 1) for g in (0, 1, 2)]
    )
    y, s, g = truth[balanced], score[balanced], other[balanced]
    ones = np.ones((1, len(y)))
    assert tie_broken("auroc", g)(y, s, ones)[0] == pytest.approx(weighted_auroc(y, s, ones)[0])


def test_a_group_without_a_class_has_no_broken_tie():
    truth, tube = np.array([1, 1, 0, 0]), np.array([1, 1, 0, 0])
    assert np.isnan(tie_broken("auroc", tube)(truth, np.arange(4.0), np.ones((1, 4)))[0])


def test_equal_groups_do_not_differ(tied):
    truth, score, tube, patients = tied
    found = contrast(among("auroc", tube == 1), among("auroc", tube == 1), truth, score, patients)
    assert (found.value, found.p) == (0.0, 1.0)


def test_draws_of_the_training_patients_widen_an_interval():
    rng = np.random.default_rng(2)
    truth, patients = rng.normal(size=200), np.arange(200)
    same = np.repeat(truth[None] + rng.uniform(0.98, 1.02, 200), 4, axis=0)
    apart = truth[None] + np.array([0.2, 0.8, 1.2, 1.8])[:, None]
    alike, unlike = (interval_over_draws("mae", truth, p, patients) for p in (same, apart))
    assert alike.value == pytest.approx(1.0, abs=0.005)
    assert unlike.value == pytest.approx(1.0)
    assert 0.99 < alike.low < alike.high < 1.01
    assert unlike.low == pytest.approx(0.2)
    assert unlike.high == pytest.approx(1.8)


def test_the_support_of_a_broken_tie_is_its_smallest_cell_and_what_its_weights_are_worth():
    truth, group = (
        np.repeat([1, 1, 0, 0], [40, 10, 10, 40]),
        np.repeat([1, 0, 1, 0], [40, 10, 10, 40]),
    )
    found = support(truth, group, np.arange(100))
    assert found.smallest == 10
    weights = np.repeat([25 / 40, 2.5, 2.5, 25 / 40], [40, 10, 10, 40])
    assert found.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert not found.refused
    one_patient = np.where((truth == 1) & (group == 0), 200, np.arange(100))
    assert support(truth, group, one_patient).refused.startswith("the smallest cell has 1 patients")
    even = support(np.tile([0, 1], 50), np.repeat([0, 1], 50), np.arange(100))
    assert even.effective == pytest.approx(100)


def test_a_broken_tie_is_as_certain_as_its_smallest_cell(tied):
    truth, score, tube, patients = tied
    smallest = support(truth, tube, patients).smallest
    for metric in (tie_broken("auroc", tube), auroc_within(tube)):
        found = Behind.of_metrics(("auroc", metric), truth, patients)
        assert (found.all, found.rarer) == (smallest, smallest)
    assert Behind.of_metrics(("auroc",), truth, patients).all == N


def test_a_perfect_auroc_of_a_small_cell_is_untold():
    found = Support(smallest=10, effective=50.0)
    assert not found.untold(0.8) and found.untold(0.95) and found.untold(1.0)
    assert not Support(smallest=20, effective=50.0).untold(0.95)
