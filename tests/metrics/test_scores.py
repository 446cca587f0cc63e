"""Point values against what can be counted by hand."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics

from mmv_jax.metrics import scores
from mmv_jax.metrics.weighted import METRICS


def square(shape, *corners):
    grid = np.zeros(shape, bool)
    grid[tuple(slice(a, b) for a, b in corners)] = True
    return grid


def test_one_class_has_no_auroc():
    ones, score = np.ones(5), np.arange(5.0)
    for truth in (ones, 0 * ones):
        assert np.isnan(METRICS["auroc"](truth, score, ones[None])).all()
    assert np.isnan(METRICS["auprc"](0 * ones, score, ones[None])).all()


def test_skill_is_zero_at_the_prevalence_and_one_when_perfect():
    truth, once = np.array([0, 0, 0, 1]), np.ones((1, 4))
    skill = METRICS["auprc_skill"]
    assert skill(truth, np.zeros(4), once) == pytest.approx(0.0)
    assert skill(truth, truth.astype(float), once) == pytest.approx(1.0)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_roc_curve_is_scikit_learns_at_every_distinct_score(levels):
    rng = np.random.default_rng(levels)
    truth, score = rng.integers(0, 2, 60), rng.integers(0, levels, 60) / levels
    theirs = metrics.roc_curve(truth, score, drop_intermediate=False)
    for ours, library in zip(scores.roc_curve(truth.astype(float), score), theirs):
        np.testing.assert_allclose(ours, library, rtol=1e-15)


def test_dice_counts_twice_the_overlap():
    a, b = square((8, 8), (0, 4), (0, 4)), square((8, 8), (2, 6), (0, 4))
    assert scores.dice(a, b) == pytest.approx(0.5)
    assert np.isnan(scores.dice(a & ~a, b & ~b))
    assert scores.dice(a, b & ~b) == 0.0


def test_a_box_moved_by_two_voxels_lies_as_many_millimetres_away():
    a, b = (
        square((30, 20, 20), (5, 15), (5, 15), (5, 15)),
        square((30, 20, 20), (7, 17), (5, 15), (5, 15)),
    )
    assert scores.hd95(a, b, (2.0, 1.0, 1.0)) == pytest.approx(4.0)
    assert scores.hd95(a, a, (2.0, 1.0, 1.0)) == 0.0


def test_the_surface_dice_is_the_share_of_both_surfaces_within_the_tolerance():
    """A ball and one that is 3 mm off, by SciPy's distances between surface voxels."""
    at = np.stack(np.meshgrid(*[np.arange(-18.0, 18.5, 0.5)] * 3, indexing="ij"))
    a = (at**2).sum(axis=0) < 12**2
    b = (at[0] - 3) ** 2 + at[1] ** 2 + at[2] ** 2 < 12**2
    edges = [x & ~ndimage.binary_erosion(x) for x in (a, b)]
    far = [ndimage.distance_transform_edt(~edge, 0.5) for edge in edges]
    near = [far[1][edges[0]] <= 1.6, far[0][edges[1]] <= 1.6]
    expected = sum(x.sum() for x in near) / sum(map(len, near))
    nsd, hd95 = scores.surface_scores(a, b, (0.5, 0.5, 0.5), 1.6)
    assert nsd == pytest.approx(expected, abs=0.1)
    assert nsd == pytest.approx(1.6 / 3, abs=0.1)  # 3 |cos| <= 1.6 on a sphere
    assert hd95 == pytest.approx(np.quantile(far[1][edges[0]], 0.95), abs=0.5)
    assert scores.surface_scores(a, a & ~a, (1.0, 1.0, 1.0)) == (0.0, pytest.approx(73 * 3**0.5))


def test_planar_distances_use_two_spacings():
    a, b = square((40, 40), (10, 20), (10, 20)), square((40, 40), (13, 23), (10, 20))
    assert scores.hd95(a, b, (0.5, 0.5)) == pytest.approx(1.5)


def test_a_missed_structure_is_as_far_as_the_grid_is_large():
    a = square((30, 40), (5, 15), (5, 15))
    assert scores.hd95(a, a & ~a, (1.0, 1.0)) == 50.0
    assert np.isnan(scores.hd95(a & ~a, a & ~a, (1.0, 1.0)))


def test_calibrated_probabilities_have_a_small_error_and_overconfident_ones_a_large_one():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=20_000)
    truth = (rng.uniform(size=20_000) < p).astype(int)
    assert scores.calibration_error(truth, p) < 0.02
    assert scores.calibration_error(truth, np.where(p > 0.5, 0.99, 0.01)) > 0.2
    brier = METRICS["brier"](truth, p, np.ones((1, len(truth))))
    assert brier == pytest.approx(1 / 6, abs=0.01)  # the integral of p (1 - p)
