import numpy as np
import pytest

from mmv_jax.bac.view import (
    CELL,
    WORKING_MM,
    ViewFrame,
    averaged,
    breast_cells,
    enlarged,
    working_factor,
)


def a_breast(rows: int = 320, columns: int = 256) -> np.ndarray:
    """A half disc of tissue at the left edge, and letters in the air."""
    y, x = np.mgrid[:rows, :columns]
    image = np.where(np.hypot(y - rows / 2, x) < 0.6 * columns, 1500 + 3 * x, 5).astype(np.uint16)
    image[16:48, columns - 64 : columns - 16] = 4000
    return image


@pytest.mark.parametrize("spacing", [0.03, 0.05, 0.07, 0.085, 0.0999, 0.1, 0.2])
def test_the_working_grid_is_as_fine_as_promised_or_as_fine_as_the_file(spacing):
    factor = working_factor((spacing, spacing), (4000, 3000))
    assert factor * spacing <= max(WORKING_MM, spacing) * 1.000001
    assert (factor + 1) * spacing > WORKING_MM  # and no finer than that without need


@pytest.mark.parametrize("offset", range(4))
def test_a_calcification_of_two_tenths_of_a_millimetre_keeps_its_contrast(offset):
    image = np.full((64, 64), 1000.0)
    # 0.2 mm in pixels of 0.05 mm
    image[30 + offset : 34 + offset, 30 + offset : 34 + offset] = 1400
    seen = averaged(image, working_factor((0.05, 0.05), image.shape))
    assert seen.max() == 1400


def test_averaging_and_enlarging_keep_the_grid():
    values = np.arange(35.0).reshape(5, 7)
    small = averaged(values, 2)
    assert small.shape == (3, 4)
    assert small[0, 0] == values[:2, :2].mean()
    assert small[2, 3] == values[4, 6]
    assert enlarged(small > 10, 2, (5, 7)).shape == (5, 7)


def test_the_breast_is_found_and_letters_are_not():
    image = a_breast()
    frame = ViewFrame.of(image, (0.1, 0.1))
    inside = frame.breast_pixels((0, 0), image.shape)
    tissue = (image > 1000) & (image < 4000)
    assert (inside & tissue).sum() > 0.93 * tissue.sum()
    assert not inside[16:48, 192:240].any()


def test_an_image_of_one_value_holds_no_breast():
    assert not breast_cells(np.full((20, 20), 7.0)).any()
    assert not ViewFrame.of(np.zeros((64, 64), np.uint16), (0.1, 0.1)).breast.any()


def test_a_box_is_normalised_as_the_whole_view_is():
    image = a_breast().astype(np.float32)
    frame = ViewFrame.of(image, (0.1, 0.1))
    whole = frame.normalised(image, (0, 0))
    box = frame.normalised(image[100:150, 37:90], (100, 37))
    np.testing.assert_allclose(box, whole[100:150, 37:90], atol=1e-5)
    np.testing.assert_array_equal(
        frame.breast_pixels((100, 37), (50, 53)),
        frame.breast_pixels((0, 0), image.shape)[100:150, 37:90],
    )


def test_brightness_and_contrast_of_the_detector_do_not_matter():
    image = a_breast().astype(np.float32) + np.random.default_rng(0).normal(
        0, 40, (320, 256)
    ).astype(np.float32)
    one, other = (
        ViewFrame.of(values, (0.1, 0.1)).normalised(values, (0, 0))
        for values in (image, 9 * image + 300)
    )
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_cells_at_the_edge_of_a_view_that_they_do_not_divide():
    frame = ViewFrame.of(a_breast(321, 250), (0.1, 0.1))
    assert frame.breast.shape == (-(-321 // CELL), -(-250 // CELL))
    assert frame.breast_pixels((0, 0), (321, 250)).shape == (321, 250)
