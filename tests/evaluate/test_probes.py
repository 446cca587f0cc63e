"""Probes against scikit-learn, and what a test set must not be able to change."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from mmv_jax.evaluate.kinds.classification import STRENGTHS, probe_classes
from mmv_jax.evaluate.kinds.features import Standardiser
from mmv_jax.evaluate.kinds.logistic import fit_logistic
from mmv_jax.evaluate.kinds.regression import fit_ridge, probe_number


def correlated(n, width, tasks, seed=0):
    """Features whose spectrum falls like that of an encoder, and labels that hang on them with
    noise.
    """
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) * np.arange(1, width + 1)[None] ** -0.7
    x = (rng.normal(size=(n, width)) @ mixing.T).astype(np.float32)
    x = Standardiser.of(x)(x)
    logits = x @ (0.2 * rng.normal(size=(width, tasks))) - 0.5
    return x, (rng.uniform(size=(n, tasks)) < 1 / (1 + np.exp(-logits))).astype(np.float64)


def splits(n):
    return np.resize(np.array(["train", "train", "train", "val", "test"]), n)


@pytest.mark.parametrize("width", [20, 150])
def test_the_batched_solve_is_that_of_scikit_learn(width):
    x, y = correlated(120, width, 3)
    strengths = np.array([[1e-4, 1e-2, 1.0]] * 3)
    weights, bias = fit_logistic(x, y, strengths, tolerance=1e-6)
    for k in range(3):
        for s in range(3):
            theirs = LogisticRegression(C=strengths[k, s], tol=1e-8, max_iter=10_000).fit(
                x.astype(np.float64), y[:, k]
            )
            ours = x @ weights[:, k, s] + bias[k, s]
            np.testing.assert_allclose(ours, theirs.decision_function(x), atol=2e-3)


def test_fewer_studies_than_features_come_to_the_minimum_too():
    x, y = correlated(14, 600, 1)
    weights, bias = fit_logistic(x, y, np.array([[10.0]]), tolerance=1e-7)
    theirs = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000).fit(x.astype(float), y[:, 0])
    ours = x @ weights[:, 0, 0] + bias[0, 0]
    np.testing.assert_allclose(ours, theirs.decision_function(x), atol=2e-3)


def test_studies_without_a_label_do_not_count():
    x, y = correlated(150, 12, 2)
    known = np.random.default_rng(1).uniform(size=y.shape) < 0.7
    together, bias = fit_logistic(x, y, np.ones((2, 1)), known, tolerance=1e-6)
    for k in range(2):
        alone, its_bias = fit_logistic(
            x[known[:, k]], y[known[:, k], k : k + 1], np.ones((1, 1)), tolerance=1e-6
        )
        np.testing.assert_allclose(together[:, k], alone[:, 0], atol=1e-3)
        assert bias[k, 0] == pytest.approx(its_bias[0, 0], abs=1e-3)


def test_the_sweep_has_the_auroc_of_scikit_learn():
    x, y = correlated(1500, 64, 3)
    train, test = slice(0, 1000), slice(1000, 1500)
    grid = np.tile(STRENGTHS, (3, 1))
    weights, bias = fit_logistic(x[train], y[train], grid)
    theirs = [
        [
            LogisticRegression(C=strength, max_iter=1000).fit(x[train], y[train, k])
            for strength in STRENGTHS
        ]
        for k in range(3)
    ]
    for k in range(3):
        for s, model in enumerate(theirs[k]):
            auroc = roc_auc_score(y[test, k], model.decision_function(x[test]))
            assert (
                abs(auroc - roc_auc_score(y[test, k], x[test] @ weights[:, k, s] + bias[k, s]))
                <= 0.002
            )


def test_a_label_of_one_class_stays_finite():
    x, _ = correlated(40, 5, 1)
    weights, bias = fit_logistic(x, np.zeros((40, 1)), np.ones((1, 2)))
    assert np.isfinite(weights).all()
    assert (x @ weights[:, 0] + bias[0] < 0).all()


def test_one_decomposition_gives_every_ridge():
    x, _ = correlated(80, 120, 1)
    x = x - x.mean(axis=0)[None]
    y = np.random.default_rng(2).normal(size=80) + 5
    weights, mean = fit_ridge(x, y, (0.1, 10.0, 1000.0))
    for s, penalty in enumerate((0.1, 10.0, 1000.0)):
        theirs = Ridge(alpha=penalty).fit(x.astype(np.float64), y)
        np.testing.assert_allclose(x @ weights[:, s] + mean, theirs.predict(x), atol=1e-4)


def test_permuting_the_test_labels_changes_no_choice_and_no_prediction():
    x, y = correlated(200, 30, 2)
    split, rng = splits(200), np.random.default_rng(3)
    shuffled = y.copy()
    shuffled[split == "test"] = rng.permutation(y[split == "test"])
    assert (shuffled != y).any()
    for ours, theirs in zip(probe_classes(x, y, split), probe_classes(x, shuffled, split)):
        assert ours.strength == theirs.strength
        np.testing.assert_array_equal(ours.predicted, theirs.predicted)
    ours, theirs = probe_number(x, y[:, 0], split), probe_number(x, shuffled[:, 0], split)
    assert ours.strength == theirs.strength
    np.testing.assert_array_equal(ours.predicted, theirs.predicted)


def test_changing_the_test_features_changes_no_choice():
    x, y = correlated(200, 30, 1)
    split = splits(200)
    moved = np.where((split == "test")[:, None], 100 * x, x)
    assert probe_classes(x, y, split)[0].strength == probe_classes(moved, y, split)[0].strength


def test_val_chooses_a_strong_penalty_for_noise_and_a_weak_one_for_signal():
    rng = np.random.default_rng(4)
    x, split = rng.normal(size=(400, 40)).astype(np.float32), splits(400)
    signal, noise = 3 * x[:, 0], rng.normal(size=400)
    assert probe_number(x, signal, split).strength < probe_number(x, noise, split).strength
    labels = np.stack([(signal > 0), (noise > 0)], axis=1).astype(float)
    strengths = [p.strength for p in probe_classes(x, labels, split)]
    assert strengths[0] > strengths[1]


def test_a_constant_feature_is_left_alone():
    x = np.ones((10, 3), np.float32)
    assert np.isfinite(Standardiser.of(x)(x)).all()
