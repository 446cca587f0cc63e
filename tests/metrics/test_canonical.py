"""Canonical correlation: equal to scikit-learn's, and blind to what pairs do not share."""

import numpy as np
import pytest

from mmv_jax.metrics.canonical import fit_canonical, held_out_correlations, shared_variates


def planted(n, seed, strengths=(0.95, 0.8), private=3, width=8):
    """Two sets that share one factor for each strength, and have private factors beside."""
    rng = np.random.default_rng(seed)
    mixers = np.random.default_rng(99)
    sides = []
    factors = rng.normal(size=(n, len(strengths)))
    for _ in range(2):
        noise = rng.normal(size=factors.shape)
        shared = np.sqrt(strengths) * factors + np.sqrt(1 - np.array(strengths)) * noise
        own = 3 * rng.normal(size=(n, private))  # louder than what is shared
        mixer = mixers.normal(size=(width, width))
        rest = 0.1 * rng.normal(size=(n, width - len(strengths) - private))
        sides.append(np.concatenate([shared, own, rest], axis=1) @ mixer + 5)
    return (*sides, factors)


def test_correlations_are_those_of_scikit_learn():
    from sklearn.cross_decomposition import CCA

    x, y, _ = planted(200, seed=0)
    ours = fit_canonical(x, y, components=8)
    theirs = CCA(n_components=2, scale=False, max_iter=2000, tol=1e-9).fit(x, y)
    u, v = theirs.transform(x, y)
    found = [np.corrcoef(u[:, k], v[:, k])[0, 1] for k in range(2)]
    np.testing.assert_allclose(ours.correlations[:2], found, atol=1e-5)
    np.testing.assert_allclose(held_out_correlations(ours, x, y)[:2], found, atol=1e-5)


def test_variates_are_white_and_correlate_only_in_pairs():
    x, y, _ = planted(200, seed=1)
    fitted = fit_canonical(x, y, components=8)
    a, b = fitted.first(x), fitted.second(y)
    np.testing.assert_allclose(a.T @ a / 199, np.eye(8), atol=1e-8)
    np.testing.assert_allclose(a.T @ b / 199, np.diag(fitted.correlations), atol=1e-8)


def test_shared_factors_are_counted_on_new_pairs_and_loud_private_ones_are_not():
    fitted = fit_canonical(*planted(400, seed=2)[:2], components=8)
    x, y, factors = planted(200, seed=3)
    shared = shared_variates(fitted, x, y, permutations=199)
    assert shared.count == 2 and shared.p == pytest.approx(1 / 200)
    # What is shared gives the planted factors; what is left gives nothing of them.
    inside, beyond = fitted.first(x)[:, :2], fitted.first(x)[:, 2:]
    for z, lowest, highest in ((inside, 0.7, 1.0), (beyond, 0.0, 0.2)):
        fit = np.linalg.lstsq(z, factors - factors.mean(axis=0), rcond=None)[0]
        explained = (
            1
            - ((factors - factors.mean(axis=0) - z @ fit) ** 2).sum()
            / ((factors - factors.mean(axis=0)) ** 2).sum()
        )
        assert lowest <= explained <= highest


def test_unrelated_sets_share_nothing():
    rng = np.random.default_rng(4)
    counts = []
    for _ in range(20):
        x, y = rng.normal(size=(2, 160, 6))
        fitted = fit_canonical(x[:100], y[:100], components=6)
        counts.append(shared_variates(fitted, x[100:], y[100:], permutations=49).count)
    # At a level of 5 % about one of twenty is expected.
    assert sum(count > 0 for count in counts) <= 4


def test_sets_of_different_lengths_are_no_pairs():
    with pytest.raises(ValueError, match="no pairs"):
        fit_canonical(np.zeros((4, 2)), np.zeros((5, 2)), components=2)
