"""Groups of pixels as evidence of an artery: features, probability, and what counts."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from mmv_jax.bac.asked import rules_of
from mmv_jax.bac.evidence import Groups, features, fit_weights
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.kept import Kept
from mmv_jax.bac.measure import Measure, groups
from mmv_jax.bac.view import ViewFrame
from mmv_jax.errors import UserError

MM = (0.1, 0.2)
RULES = Measure(0.5, 0.2, "mean", "sum", (0.0, 10.0, 25.0))
# Large groups are calcium of an artery, small ones are not.
BY_AREA = (0.0, 5.0, 0.0, 0.0, 0.0)


@pytest.fixture
def found() -> np.ndarray:
    """A line of 40 pixels, which are 0.8 mm², and far from it a square of 9, 0.18 mm²."""
    probability = np.zeros((120, 150), np.float32)
    probability[10, 10:50] = np.linspace(0.6, 1.0, 40)
    probability[90:93, 120:123] = 0.7
    return probability


def test_features_are_those_of_each_group_by_itself(found):
    labels, count = groups(found >= 0.5, MM)
    known = features(found, labels, count, MM)
    assert known.shape == (2, 4)
    for n, own in enumerate(known, start=1):
        at = np.argwhere(labels == n) * MM
        across = np.linalg.eigvalsh(np.cov(at.T, bias=True)).min()
        area = len(at) * 0.02
        expected = (area, 4 * np.sqrt(max(across, 0)) + 0.1, 0.98 - area + 0.1)
        np.testing.assert_allclose(np.exp(own[[0, 2, 3]]), expected, rtol=1e-6)
        assert own[1] == pytest.approx(found[labels == n].mean(), abs=1e-6)


def test_a_width_does_not_depend_on_the_direction():
    """A bar of 10 by 1.1 mm at any angle, on square pixels."""
    bar = np.zeros((161, 161), np.float32)
    bar[75:86, 30:130] = 1.0
    widths = []
    for angle in (0, 30, 45, 90):
        turned = ndimage.rotate(bar, angle, reshape=False, order=1)
        labels, count = groups(turned >= 0.5, (0.1, 0.1))
        widths.append(np.exp(features(turned, labels, count, (0.1, 0.1))[0, 2]) - 0.1)
    np.testing.assert_allclose(widths, 4 * 1.1 / np.sqrt(12), rtol=0.05)


def test_a_group_counts_by_its_probability_and_its_area_is_expected(found):
    every = Groups.of(found, MM, RULES)
    np.testing.assert_array_equal(every.counted(RULES), found >= 0.5)
    assert every.sure_mm2(0.02, RULES) == pytest.approx(0.98)
    assert every.sure_mm2(0.02, replace(RULES, least_group_mm2=0.2)) == pytest.approx(0.8)
    weighed = replace(RULES, artery=BY_AREA, least_artery=0.1)
    judged = Groups.of(found, MM, weighed)
    # the logistic function of five times the log of the area
    odds = np.array([0.8, 0.18]) ** 5
    np.testing.assert_allclose(judged.artery, odds / (1 + odds), rtol=1e-6)
    # the small group is left out of the area, and adds next to nothing to what is sure
    np.testing.assert_array_equal(judged.counted(weighed), groups(found >= 0.5, MM)[0] == 1)
    assert judged.sure_mm2(0.02, weighed) == pytest.approx(judged.artery @ (0.8, 0.18))


def test_a_view_without_anything_has_no_groups():
    empty = np.zeros((30, 40), np.float32)
    judged = Groups.of(empty, MM, replace(RULES, artery=BY_AREA))
    assert not judged.counted(RULES).any() and judged.sure_mm2(0.02, RULES) == 0.0


def test_weights_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.normal(0, (1, 0.2, 3, 2), (300, 4)) + (0, 0.7, 5, 0)
    artery = rng.random(300) < 1 / (1 + np.exp(-(x[:, 0] + 4 * (x[:, 1] - 0.7))))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    peer = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(z, artery)
    slopes = peer.coef_[0] / x.std(axis=0)
    expected = (peer.intercept_[0] - slopes @ x.mean(axis=0), *slopes)
    np.testing.assert_allclose(fit_weights(x, artery), expected, rtol=1e-4, atol=1e-6)


def test_weights_of_groups_of_one_kind_are_refused():
    with pytest.raises(ValueError, match="one kind"):
        fit_weights(np.zeros((3, 4)), np.zeros(3, bool))


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"artery": (1.0, 2.0)}, "artery is"),
        ({"artery": (np.nan,) * 5}, "artery is"),
        ({"least_artery": 1.0}, "least_artery is 1.0"),
    ],
)
def test_impossible_rules_are_refused(changes, says):
    with pytest.raises(UserError, match=says):
        replace(RULES, **changes)


def test_a_checkpoint_without_weights_of_groups_counts_all_and_takes_them(fitted, found, tmp_path):
    """Also what an earlier run kept by other weights is not taken."""
    given = "--config.measure.artery=(0.0, 5.0, 0.0, 0.0, 0.0)"
    plain = Finder.restore(fitted)
    weighed = Finder.restore(fitted, [given, "--config.measure.least_artery=0.1"])
    assert plain.measure.artery == () and weighed.measure.artery == BY_AREA
    frame = ViewFrame.of(np.zeros(found.shape), MM)
    frame = replace(frame, factor=1, shape=found.shape)
    for finder, count in ((plain, 49), (weighed, 40)):
        mask, sure_mm2 = finder.seen(found, frame, found.shape, MM)
        assert mask.sum() == count
        judged = Groups.of(found, MM, finder.measure)
        assert sure_mm2 == pytest.approx(judged.sure_mm2(0.02, finder.measure))
    assert Kept.of(tmp_path, plain).model != Kept.of(tmp_path, weighed).model


def test_rules_of_an_evaluation_are_numbers():
    asked = {"threshold": 0.4, "least_mm2": None, "artery": [1, 2.0, 3, 4, 5], "cohort": ""}
    assert rules_of(asked) == {"threshold": 0.4, "artery": (1, 2.0, 3, 4, 5)}
    for wrong in ({"artery": "1"}, {"artery": ("1",)}, {"least_artery": True}):
        with pytest.raises(UserError, match="must be a number"):
            rules_of(wrong)
