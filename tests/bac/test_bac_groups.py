import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mmv_jax.bac.evidence import Groups
from mmv_jax.bac.measure import NEAR_MM, Measure, groups


def large(mask: np.ndarray, mm: float, least_mm2: float) -> float:
    """mm² of the groups of a mask that have at least `least_mm2`."""
    measure = Measure(0.5, 0.0, "mean", "sum", (0.0, 10.0, 25.0), least_group_mm2=least_mm2)
    return Groups.of(mask.astype(np.float32), (mm, mm), measure).sure_mm2(mm * mm, measure)


def specks(*places: tuple[int, int], shape: tuple[int, int] = (60, 90)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.mark.parametrize("apart_mm, count", [(1.0, 1), (2 * NEAR_MM, 1), (2 * NEAR_MM + 1.5, 2)])
def test_what_lies_near_belongs_together(apart_mm, count):
    mask = specks((30, 5), (30, 5 + round(apart_mm / 0.5)))
    labels, found = groups(mask, (0.5, 0.5))
    assert found == count
    np.testing.assert_array_equal(labels > 0, mask)


def test_near_is_in_millimetres_along_each_axis():
    mask = specks((10, 10), (18, 10))
    assert [groups(mask, (y_mm, 0.5))[1] for y_mm in (0.5, 1.0)] == [1, 2]


def test_a_hair_by_itself_goes_and_specks_along_an_artery_stay():
    artery = specks(*((10, x) for x in range(5, 80, 6)))
    hair = specks((50, 40), (50, 41), (50, 42))
    assert large(artery | hair, 0.5, 1.0) == artery.sum() / 4
    assert large(artery | hair, 0.5, 0.0) == (artery | hair).sum() / 4
    assert large(hair, 0.5, 1.0) == large(np.zeros_like(hair), 0.5, 1.0) == 0


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 1.0), st.floats(0.0, 3.0))
def test_it_is_what_dilating_labelling_and_counting_say(seed, mm, least_mm2):
    mask = np.random.default_rng(seed).random((40, 50)) < 0.01
    reach = max(1, round(NEAR_MM / mm))
    labels, count = ndimage.label(
        ndimage.binary_dilation(mask, np.ones((2 * reach + 1,) * 2)), np.ones((3, 3))
    )
    expected = np.zeros_like(mask)
    for n in range(1, count + 1):
        group = mask & (labels == n)
        expected |= group if group.sum() * (mm * mm) >= least_mm2 else False
    assert large(mask, mm, least_mm2) == pytest.approx(expected.sum() * mm * mm)
