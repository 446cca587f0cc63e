"""Retrieval against scikit-learn and closed forms; intervals against simulated truths."""

import numpy as np
import pytest
from scipy import stats

from mmv_jax.metrics.retrieval import (
    cosine,
    likelihood_ratio,
    posterior_cosine,
    ranks,
    retrieve,
)


def noisy_pairs(n, noise, seed, width=6):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width))
    return x, x + noise * rng.normal(size=x.shape)


def test_precision_is_that_of_scikit_learn_and_recall_that_of_its_definition():
    from sklearn.metrics import label_ranking_average_precision_score as average_precision
    from sklearn.metrics import top_k_accuracy_score as recall_at

    similarity = cosine(*noisy_pairs(40, 1.0, seed=0))
    found = retrieve(similarity)
    assert found.precision.value == pytest.approx(average_precision(np.eye(40), similarity))
    for depth, one in found.recall.items():
        assert one.value == pytest.approx(recall_at(np.arange(40), similarity, k=depth))
        assert one.low < one.value < one.high


def test_leaving_a_patient_out_is_retrieval_without_the_patient():
    x, y = noisy_pairs(15, 1.0, seed=1)
    found = retrieve(cosine(x, y))
    for n in (0, 7, 14):
        others = np.delete(np.arange(15), n)
        assert found.left_out[n] == pytest.approx(
            float((1 / ranks(cosine(x[others], y[others]))).mean())
        )


def test_chance_is_what_unrelated_features_reach():
    rng = np.random.default_rng(2)
    found = [retrieve(rng.normal(size=(30, 30))) for _ in range(200)]
    for depth in (1, 5):
        mean = np.mean([one.recall[depth].value for one in found])
        assert mean == pytest.approx(found[0].chance[depth], abs=0.01)
    mean = np.mean([one.precision.value for one in found])
    assert mean == pytest.approx(found[0].chance[0], abs=0.008)  # three standard errors


def test_constant_features_find_nothing_but_the_middle():
    assert ranks(cosine(np.ones((9, 3)), np.ones((9, 3)))).tolist() == [5.0] * 9


def test_the_interval_of_the_precision_covers_that_of_galleries_of_its_size():
    truth = np.mean(
        [retrieve(cosine(*noisy_pairs(60, 1.2, s))).precision.value for s in range(200)]
    )
    found = [retrieve(cosine(*noisy_pairs(60, 1.2, 1000 + s))).precision for s in range(120)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.9 <= covered <= 0.985


def test_the_likelihood_ratio_is_that_of_normal_pairs():
    rng = np.random.default_rng(5)
    correlations = np.array([0.9, 0.4, 0.0])
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))
    found = likelihood_ratio(a, b, correlations)
    expected = np.zeros((6, 4))
    for k, rho in enumerate(correlations):
        both = stats.multivariate_normal(cov=[[1, rho], [rho, 1]])
        for i in range(6):
            for j in range(4):
                expected[i, j] += both.logpdf([a[i, k], b[j, k]])
                expected[i, j] -= stats.norm.logpdf(a[i, k]) + stats.norm.logpdf(b[j, k])
    # They differ by the constant of all pairs.
    constant = -0.5 * np.log(1 - correlations**2).sum()
    np.testing.assert_allclose(found + constant, expected, atol=1e-12)


def test_the_posterior_cosine_is_that_of_expected_latents():
    """E[z | a] by the conditional of normal vectors, with the loadings of Bach and Jordan."""
    rng = np.random.default_rng(6)
    correlations = np.array([0.81, 0.25, 0.04])
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    loadings = np.diag(np.sqrt(correlations))
    noise = np.eye(3) - loadings @ loadings.T
    posterior = loadings.T @ np.linalg.inv(loadings @ loadings.T + noise)
    expected = cosine(a @ posterior.T, b @ posterior.T)
    np.testing.assert_allclose(posterior_cosine(a, b, correlations), expected, atol=1e-12)
