"""FROC against a definition written as loops, and the lesions and peaks that it counts."""

import numpy as np
import pytest

from mmv_jax.evaluate.kinds.localisation import Localisation
from mmv_jax.metrics.froc import MOST, RATES, froc_curve, locate
from mmv_jax.metrics.intervals import interval


def by_loops(lesions, candidates, rate):
    """The most lesions found by any threshold with at most `rate` false marks a study."""
    best = 0
    for threshold in [np.inf, *sorted(set(candidates[:, 0][np.isfinite(candidates[:, 0])]))]:
        found, false = set(), 0
        for study, (scores, hits) in enumerate(candidates):
            for score, hit in zip(scores, hits):
                if np.isfinite(score) and score >= threshold:
                    if hit:
                        found.add((study, int(hit)))
                    else:
                        false += 1
        if false <= rate * len(lesions) + 1e-9:
            best = max(best, len(found))
    return best / lesions.sum()


def drawn(seed, n=12, ties=False):
    rng = np.random.default_rng(seed)
    lesions = rng.integers(0, 4, n)
    lesions[0] = 2
    scores = -np.sort(-rng.normal(size=(n, MOST)), axis=1)
    if ties:
        scores = np.round(scores)
    scores[np.arange(MOST)[None] >= rng.integers(0, MOST + 1, n)[:, None]] = -np.inf
    hits = rng.integers(0, lesions[:, None] + 1, (n, MOST)) * (rng.random((n, MOST)) < 0.4)
    return lesions, np.stack([scores, hits.astype(float)], axis=1)


@pytest.mark.parametrize("seed, ties", [(0, False), (1, False), (2, True), (3, True)])
def test_the_curve_is_that_of_the_definition(seed, ties):
    lesions, candidates = drawn(seed, ties=ties)
    found = froc_curve(lesions, candidates, np.ones((1, len(lesions))))[0]
    np.testing.assert_allclose(found, [by_loops(lesions, candidates, r) for r in RATES])
    assert (np.diff(found) >= 0).all()


def test_a_study_of_weight_two_counts_as_two_studies():
    lesions, candidates = drawn(4)
    weights = np.random.default_rng(0).integers(0, 3, (3, len(lesions))).astype(float)
    found = froc_curve(lesions, candidates, weights)
    for row, own in zip(weights, found):
        times = np.repeat(np.arange(len(lesions)), row.astype(int))
        alone = froc_curve(lesions[times], candidates[times], np.ones((1, len(times))))
        np.testing.assert_allclose(own, alone[0])


def test_without_a_lesion_nothing_is_defined():
    _, candidates = drawn(5)
    curve = froc_curve(np.zeros(len(candidates), int), candidates, np.ones((1, len(candidates))))
    assert np.isnan(curve).all()


def blobs(places, shape=(1, 120, 100), width=4.0):
    """A map with a peak at each (y, x, height)."""
    y, x = np.indices(shape[1:])
    heat = sum(h * np.exp(-((y - b) ** 2 + (x - a) ** 2) / (2 * width**2)) for b, a, h in places)
    return np.broadcast_to(heat, shape)


def test_peaks_hit_the_lesions_whose_box_they_lie_in():
    truth = np.zeros((1, 120, 100), bool)
    truth[0, 20:40, 20:50] = truth[0, 80:100, 60:90] = True
    heat = blobs([(30, 35, 1.0), (90, 75, 0.5), (60, 20, 0.8)])
    count, candidates = locate(truth, heat, (1.0, 1.0, 1.0))
    assert count == 2
    assert candidates[1, :3].tolist() == [1, 0, 2]  # strongest first
    np.testing.assert_allclose(candidates[0, :3], [1.0, 0.8, 0.5], atol=0.01)


def test_what_is_near_a_stronger_peak_is_the_same_mark():
    truth = np.zeros((1, 120, 100), bool)
    heat = blobs([(30, 30, 1.0), (30, 38, 0.9)], width=2.0)
    strong = locate(truth, heat, (1.0, 1.0, 1.0))[1][0]
    assert (strong > 0.5).sum() == 1  # 8 mm apart
    strong = locate(truth, heat, (1.0, 2.0, 2.0))[1][0]
    assert (strong > 0.5).sum() == 2  # 16 mm apart


def test_a_constant_map_is_one_candidate():
    count, candidates = locate(np.zeros((4, 30, 30), bool), np.full((4, 30, 30), 0.1), (1, 1, 1))
    assert count == 0 and np.isfinite(candidates[0]).sum() == 1


def test_lesions_that_touch_at_a_corner_are_one():
    truth = np.zeros((3, 10, 10), bool)
    truth[0, :5, :5] = truth[1, 5:, 5:] = True
    assert locate(truth, np.zeros((3, 10, 10)), (1, 1, 1))[0] == 1


def test_without_any_candidate_nothing_is_found():
    none = np.stack([np.full((3, MOST), -np.inf), np.zeros((3, MOST))], axis=1)
    np.testing.assert_array_equal(froc_curve(np.array([1, 0, 2]), none, np.ones((1, 3))), 0)


def test_where_no_lesion_is_found_no_interval_pretends_to_know_that():
    lesions, candidates = drawn(0)
    candidates[:, 1] = 0
    metric = Localisation().metrics["froc"]
    patients = np.arange(len(lesions))
    flat = candidates.reshape(len(lesions), -1)
    found = interval(metric, lesions, flat, patients, resamples=200)
    assert found.value == 0 and np.isnan(found.low) and "same value" in found.why
    candidates[:4, 1] = 1.0
    found = interval(metric, lesions, candidates.reshape(len(lesions), -1), patients, resamples=200)
    assert found.low < found.value < found.high
