"""Breast and pectoral muscle of drawn views whose outlines are known. Lengths in mm."""

import numpy as np
import pytest
from scipy import ndimage

from mmv_jax.bac.anatomy import (
    AIR,
    BREAST,
    MUSCLE,
    Anatomy,
    anatomy_map,
    anatomy_scores,
    overlaps,
)
from mmv_jax.bac.judged import judge
from mmv_jax.bac.run import Found
from mmv_jax.bac.sources import Entry, read_mammogram
from mmv_jax.bac.view import ViewFrame
from mmv_jax.phantom.files import write_png

MM = 0.1
SPACING = (MM, MM)


def drawn(across=45.0, down=110.0, glands=0.5, seed=0, top=0.0):
    """(image, truth) of a left MLO view of 200 by 120 mm: glands are blobs of noise.

    The muscle's edge runs from `across` on the upper border to `down` on the chest wall; `top` mm
    of the film above it are bare and bright.
    """
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: int(200 / MM), : int(120 / MM)]
    y, x = y * MM, x * MM
    breast = (((y - 95) / 100) ** 2 + (x / 95) ** 2 < 1) | ((y < 60) & (x < 70 - 0.2 * y))
    muscle = (x / across + (y - top) / down < 1) & breast & (y >= top)
    blobs = ndimage.zoom(rng.random((20, 12)), 100, order=1)
    image = 100 + 1000 * breast + glands * 800 * blobs * breast * ((y > 50) & (x > 15))
    image = np.where(muscle, 2100, image) + rng.normal(0, 40, breast.shape)
    truth = np.where(muscle, MUSCLE, np.where(breast, BREAST, AIR)).astype(np.uint8)
    if top:
        image[: int(top / MM)], truth[: int(top / MM)] = 4000, AIR
    return np.clip(image, 0, 4095).astype(np.uint16), truth


def dice(truth, found):
    return {
        name: 2 * both / (a + b) if a + b else 1.0
        for name, (both, a, b) in overlaps(truth, found).items()
    }


@pytest.mark.parametrize("across, down", [(30.0, 80.0), (45.0, 110.0), (60.0, 150.0)])
@pytest.mark.parametrize("side", ["L", "R"])
def test_the_muscle_is_found_where_it_was_drawn(across, down, side):
    image, truth = drawn(across, down)
    if side == "R":
        image, truth = image[:, ::-1], truth[:, ::-1]
    scores = dice(truth, anatomy_map(image, SPACING, "MLO"))
    assert scores["muscle"] > 0.93 and scores["breast"] > 0.97


def test_light_above_a_film_moves_the_muscle_little():
    image, truth = drawn(top=3.0)
    assert dice(truth, anatomy_map(image, SPACING, "MLO"))["muscle"] > 0.9


def test_no_muscle_is_found_where_none_is():
    image, truth = drawn(across=1e-6)
    found = anatomy_map(image, SPACING, "MLO")
    assert not (found == MUSCLE).any() and dice(truth, found)["breast"] > 0.97
    # A CC view has its glands at the chest wall: muscle is not looked for.
    assert not (anatomy_map(drawn()[0], SPACING, "CC") == MUSCLE).any()
    assert not anatomy_map(np.zeros((400, 300), np.uint16), SPACING, "MLO").any()


def test_areas_are_in_mm2_and_calcium_on_the_muscle_is_told():
    shown = np.array([[AIR, BREAST, BREAST], [MUSCLE, MUSCLE, MUSCLE]], np.uint8)
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    assert Anatomy.of(3, shown, mask, (0.5, 0.2)) == Anatomy(
        3, breast_mm2=pytest.approx(0.2), muscle_mm2=pytest.approx(0.3),
        calcified_on_muscle_mm2=pytest.approx(0.1),
    )  # fmt: skip
    unknown = Anatomy.of(3, shown, mask, (np.nan, np.nan))
    assert np.isnan([unknown.breast_mm2, unknown.muscle_mm2]).all()


def test_scores_are_means_over_the_views_that_have_the_part():
    views = [
        ("a", {"breast": (4, 4, 4), "muscle": (0, 0, 2)}),
        ("b", {"breast": (2, 4, 4), "muscle": (2, 4, 4)}),
    ]
    scores = anatomy_scores(views)
    assert (scores["dice_breast"].value, scores["dice_muscle"].value) == (0.75, 0.5)
    assert scores["dice_muscle"].n == 1 and anatomy_scores([]) == {}


def test_a_true_map_of_unknown_values_is_told_and_not_compared(women, tmp_path):
    """255 for breast gave no figure and no word; the calcium of the view is still compared."""
    image = next((women / "breast").glob("*-LCC*.dcm"))
    told = dict[str, list[str]]()
    for name, breast in {"known": BREAST, "unknown": 255}.items():
        entry = Entry(7, image, masks={"anatomy": tmp_path / f"{name}.png"})
        m = read_mammogram(Entry(7, image))
        voxels = m.study.voxels[0]
        write_png(entry.masks["anatomy"], np.full(voxels.shape, breast, np.uint8))
        nothing = np.zeros(voxels.shape, bool)
        found = Found(
            mammogram=read_mammogram(entry),
            mask=nothing,
            sure_mm2=0.0,
            remark="",
            probability=nothing.astype(np.float32),
            frame=ViewFrame.of(voxels, m.spacing_mm),
        )
        told[name] = []
        judged = judge(found, found.result("w"), nothing, draw=False, warn=told[name].append)
        assert (judged.anatomy is None) == bool(told[name])
    assert told["known"] == []
    assert told["unknown"] == [
        "mammogram 7: its anatomy_mask has the value 255, and is not compared: use 0 air, 1"
        " breast, 2 muscle"
    ]
