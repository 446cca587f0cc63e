"""The learned score of pairs: variates are weighted by what they say of pairs not fitted to."""

from dataclasses import replace

import numpy as np
import pytest

from mmv_jax.evaluate.pairs.match import SCORES, Matcher
from mmv_jax.evaluate.pairs.measure import MATCHED, SHARED, measure_pairs
from mmv_jax.evaluate.pairs.spaces import PairFeatures
from mmv_jax.metrics.retrieval import ranks

SPLIT = np.array(["train"] * 150 + ["val"] * 50 + ["test"] * 60)
NAMES = ("CXR", "CT")


def features_of(seed: int, strengths: np.ndarray) -> PairFeatures:
    """Pairs whose latents correlate by these, mixed into 20 features with noise of their own."""
    rng = np.random.default_rng(seed)
    n, k = len(SPLIT), len(strengths)
    shared = rng.normal(size=(n, k))
    sides = []
    for _ in range(2):
        own = rng.normal(size=(n, k))
        latent = np.sqrt(strengths)[None] * shared + np.sqrt(1 - strengths)[None] * own
        sides.append(latent @ rng.normal(size=(k, 20)) + 0.05 * rng.normal(size=(n, 20)))
    return PairFeatures(*sides, one_space=True)


STRENGTHS = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])


def precision(similarity):
    return ((1 / ranks(similarity)).mean() + (1 / ranks(similarity.T)).mean()) / 2


def test_weighted_variates_find_more_than_a_count_of_equal_ones():
    learned, counted = [], []
    for seed in range(3):
        parts = measure_pairs(features_of(seed, STRENGTHS), SPLIT, NAMES, [])
        learned.append(parts["means", f"mAP of both directions, {MATCHED}"].found.value)
        counted.append(parts["means", f"mAP of both directions, {SHARED}"].found.value)
    assert np.mean(learned) > np.mean(counted) + 0.05
    figure = parts["means", f"mAP of both directions, {MATCHED}"].found
    assert figure.low < figure.value < figure.high
    assert parts["shared subspace", "components of the learned score (val)"].found.value >= 4


def test_wrong_pairs_are_found_by_chance():
    features = features_of(0, STRENGTHS)
    order = np.random.default_rng(1).permutation(len(SPLIT))
    wrong = replace(features, second=features.second[order])
    test = SPLIT == "test"
    chance = (1 / np.arange(1, 61)).mean()
    found = precision(Matcher.fit(wrong, SPLIT).similarity(wrong, test))
    right = precision(Matcher.fit(features, SPLIT).similarity(features, test))
    # The standard deviation of a mean reciprocal rank of 120 random answers is 0.015.
    assert abs(found - chance) < 0.06 and right > 5 * chance


def test_held_out_correlations_are_those_that_were_planted():
    matcher = Matcher.fit(features_of(2, np.array([0.9, 0.5, 0.0, 0.0])), SPLIT)
    assert matcher.correlations[0] == pytest.approx(0.9, abs=0.06)
    assert matcher.correlations[1] == pytest.approx(0.5, abs=0.2)
    assert (matcher.correlations[2:] < 0.3).all() and (matcher.correlations >= 0).all()


def test_test_pairs_are_not_looked_at():
    features = features_of(3, STRENGTHS)
    test = SPLIT == "test"
    other = replace(features, first=np.where(test[:, None], 0.0, features.first))
    one, two = Matcher.fit(features, SPLIT), Matcher.fit(other, SPLIT)
    assert (one.score, one.components) == (two.score, two.components)
    np.testing.assert_array_equal(one.correlations, two.correlations)
    np.testing.assert_array_equal(one.canonical.first.axes, two.canonical.first.axes)


def test_both_scores_are_tried_and_few_directions_suffice():
    # Three features of each, fewer than the smallest number of components.
    rng = np.random.default_rng(4)
    shared = rng.normal(size=(len(SPLIT), 3))
    near = [shared + 0.3 * rng.normal(size=shared.shape) for _ in range(2)]
    matcher = Matcher.fit(PairFeatures(near[0], near[1], one_space=True), SPLIT)
    assert matcher.score in SCORES and len(matcher.correlations) == 3
