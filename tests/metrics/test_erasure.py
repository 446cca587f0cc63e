"""Removal of a concept: no linear probe is left, and no smaller change would do."""

import numpy as np
import pytest

from mmv_jax.metrics.erasure import fit_erasure


def two_classes(n=300, width=5, seed=0):
    rng = np.random.default_rng(seed)
    concept = rng.random(n) < 0.4
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
    return x + 2 * concept[:, None] * rng.normal(size=width)[None] + 3, concept


def test_class_means_are_equal_and_a_linear_probe_finds_nothing():
    from sklearn.linear_model import LogisticRegression

    x, concept = two_classes()
    erased = fit_erasure(x, concept)(x)
    np.testing.assert_allclose(erased[concept].mean(0), erased[~concept].mean(0), atol=1e-9)
    assert LogisticRegression().fit(x, concept).score(x, concept) > 0.9
    weights = LogisticRegression(C=1e3, tol=1e-8).fit(erased, concept).coef_
    assert np.abs(weights).max() < 1e-4


def test_it_is_the_closed_form_of_leace():
    x, concept = two_classes(seed=1)
    z = np.stack([~concept, concept], axis=1).astype(float)
    away, labels = x - x.mean(0), z - z.mean(0)
    values, axes = np.linalg.eigh(away.T @ away / len(x))
    white, back = (axes * values**power @ axes.T for power in (-0.5, 0.5))
    columns = white @ (away.T @ labels / len(x))
    projection = columns @ np.linalg.pinv(columns)
    expected = x - away @ (back @ projection @ white).T
    np.testing.assert_allclose(fit_erasure(x, concept)(x), expected, atol=1e-9)


def test_a_second_removal_changes_nothing_and_what_does_not_differ_stays():
    x, concept = two_classes(seed=2)
    erased = fit_erasure(x, concept)(x)
    np.testing.assert_allclose(fit_erasure(erased, concept)(erased), erased, atol=1e-7)
    apart = np.random.default_rng(3).random(len(x)) < 0.5
    same = np.concatenate([x[apart], x[apart]])
    twice = np.arange(len(same)) < apart.sum()
    assert fit_erasure(same, twice)(same) == pytest.approx(same)
