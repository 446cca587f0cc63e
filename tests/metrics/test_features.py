"""Feature figures against definitions that can be read off."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mmv_jax.metrics.features import (
    debiased_cka,
    feature_std,
    knn_probabilities,
    knn_score,
    likeness,
    linear_cka,
    rankme,
    unit,
)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_rank_of_an_orthogonal_frame_is_its_number_of_columns(rank):
    q = np.linalg.qr(gaussian(64, rank))[0]
    features = q @ np.linalg.qr(gaussian(16, rank, seed=1))[0].T
    assert rankme(features) == pytest.approx(rank, rel=1e-4)


def test_collapsed_features_have_rank_one_and_no_spread():
    constant = np.ones((32, 8), np.float32)
    assert rankme(constant) == pytest.approx(1.0, abs=1e-4)
    assert rankme(np.zeros((32, 8), np.float32)) == 1.0
    assert feature_std(constant) == pytest.approx(0.0, abs=1e-6)


def test_features_spread_over_the_sphere_have_the_std_of_the_sphere():
    assert feature_std(gaussian(4000, 64)) == pytest.approx(64**-0.5, rel=0.02)


def test_neighbours_are_those_of_scikit_learn():
    x, test = gaussian(80, 6), gaussian(30, 6, seed=1)
    y = np.arange(80) % 3
    # so warm that every neighbour votes alike
    classes, votes = knn_probabilities(x, y, test, k=7, temperature=1e6)
    theirs = KNeighborsClassifier(7, metric="cosine").fit(x, y).predict_proba(test)
    assert classes.tolist() == [0, 1, 2]
    np.testing.assert_allclose(votes, theirs, atol=1e-5)


def test_a_separable_label_is_found_and_noise_is_not():
    x, y = gaussian(200, 5), np.arange(200) % 2
    noise = knn_score(x[:100], y[:100], x[100:], y[100:])
    x[:, 0] += 6 * y
    assert knn_score(x[:100], y[:100], x[100:], y[100:]) > 0.95
    assert 0.3 < noise < 0.7
    assert np.isnan(knn_score(x, y, x[:5], np.ones(5)))


def test_more_than_two_classes_are_scored_by_accuracy():
    y = np.arange(90) % 3
    x = np.eye(3, dtype=np.float32)[y] + 0.01 * gaussian(90, 3)
    assert knn_score(x[:60], y[:60], x[60:], y[60:], k=5) == 1.0


def test_cka_ignores_rotation_and_scale_and_tells_noise():
    x = gaussian(500, 8)
    rotation = np.linalg.qr(gaussian(8, 8, seed=2))[0]
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1.0, abs=1e-5)
    assert linear_cka(x, gaussian(500, 8, seed=3)) < 0.1
    assert np.isnan(linear_cka(x, np.ones((500, 2), np.float32)))


def test_a_row_of_zeros_has_no_direction():
    assert unit(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]


def test_the_cka_of_noise_is_near_nought_once_debiased():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 64, 768))
    assert linear_cka(x, y) > 0.9
    assert abs(debiased_cka(x, y)) < 0.05
    found = likeness(x, y, permutations=99)
    assert found.p > 0.05
    assert abs(found.ceiling) < 0.2 or np.isnan(found.ceiling)


def test_shared_factors_are_above_the_null_and_at_the_ceiling():
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(80, 4))
    x, y = (factors @ rng.normal(size=(4, 96)) + 0.5 * rng.normal(size=(80, 96)) for _ in range(2))
    found = likeness(x, y, permutations=99)
    assert found.p == pytest.approx(0.01)
    assert found.null < 0.2 < found.value
    assert found.value == pytest.approx(found.ceiling, abs=0.15)
    turned = x @ np.linalg.qr(rng.normal(size=(96, 96)))[0]
    assert debiased_cka(x, 3 * turned) == pytest.approx(1.0)
    assert np.isnan(debiased_cka(x[:3], y[:3]))
    assert np.isnan(likeness(np.ones((9, 4)), y[:9]).value)
