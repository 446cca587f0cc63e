"""Masks of single organs of a CT that are mirrored, or of another study."""

import numpy as np
import pytest

from mmv_jax.readers.misplaced import misplaced
from mmv_jax.readers.odd_masks import odd_masks
from mmv_jax.study import Study

SHAPE = (20, 64, 64)
Z, Y, X = np.mgrid[:20, :64, :64]


def disc(y: float, x: float, radius: float, z: slice = slice(0, 20)) -> np.ndarray:
    within = (Y - y) ** 2 + (X - x) ** 2 < radius**2
    within[: z.start] = within[z.stop :] = False
    return within


BODY, LUNGS = disc(36, 32, 26), disc(24, 22, 7) | disc(24, 42, 7)
HEART, SPINE, SPOT = disc(40, 42, 5), disc(50, 32, 5), disc(40, 20, 4, slice(2, 6))
ORGANS = {"heart": HEART, "vertebrae": SPINE, "lungs": LUNGS, "left_lung": disc(24, 42, 7)}
ORGANS |= {"lesion": SPOT, "airways": disc(24, 32, 2)}


def chest() -> np.ndarray:
    """HU: a body off the middle, two lungs, a heart, a spine and an airway."""
    hu = np.full(SHAPE, -1000.0)
    hu[BODY], hu[LUNGS], hu[SPINE], hu[SPOT] = 30, -850, 400, 60
    hu[ORGANS["airways"]] = -1000
    return hu + np.random.default_rng(0).normal(0, 10, SHAPE)


def codes(name: str, mask: np.ndarray, hu: np.ndarray | None = None, unit: str = "HU") -> list[str]:
    study = Study(chest() if hu is None else hu, (5.0, 4.0, 4.0), 3, unit)
    return [code for code, _ in odd_masks(study, {name: mask.astype(np.int16)}, {})]


@pytest.mark.parametrize("name", ORGANS)
def test_organs_in_their_places_are_not_told(name):
    assert codes(name, ORGANS[name]) == []


@pytest.mark.parametrize(
    "name, axes", [("heart", (1,)), ("vertebrae", (1,)), ("lungs", (1,)), ("left_lung", (1,))]
)
def test_an_organ_on_values_that_it_cannot_have_is_told(name, axes):
    mirrored = np.flip(ORGANS[name], axes)
    assert codes(name, mirrored) == ["mask_misplaced"]
    # Without a unit, or a name that says the tissue, nothing is known.
    assert codes(name, mirrored, unit="raw") == codes("structure", mirrored) == []


def test_a_mask_in_the_air_around_the_body_is_told():
    assert codes("structure", disc(5, 5, 4)) == ["mask_misplaced"]
    assert codes("table", disc(5, 5, 4)) == []


def test_a_diseased_lung_or_bone_is_not_told():
    hu = chest()
    hu[ORGANS["left_lung"]] = 20  # white: an effusion, while the other lung is healthy
    assert codes("left_lung", ORGANS["left_lung"], hu) == []
    hu[LUNGS] = 20
    assert codes("lungs", LUNGS, hu) == []
    hu[SPINE] = 90
    assert codes("vertebrae", SPINE, hu) == []


def test_a_few_voxels_prove_nothing():
    mask = np.zeros(SHAPE, np.int16)
    mask[5, 2:5, 2:5] = 1
    assert misplaced(Study(chest(), (5.0, 4.0, 4.0), 3, "HU"), mask, {"heart"}) == ""


LIVER, SPLEEN = disc(36, 20, 12), disc(44, 50, 5)


def abdomen() -> np.ndarray:
    """HU: a body of fat and organs, as a tissue of one value beside the spine."""
    hu = np.full(SHAPE, -1000.0)
    hu[BODY], hu[LIVER], hu[SPLEEN] = -90, 60, 55
    return hu + np.random.default_rng(0).normal(0, 10, SHAPE)


@pytest.mark.parametrize(
    "name, mask",
    [
        ("liver", LIVER),
        ("spleen", SPLEEN),
        ("kidney_left", disc(46, 44, 4)),
        ("RightKidney", disc(46, 20, 4)),
        ("adrenal_gland_right", disc(40, 25, 2.5)),
        ("kidney_l", disc(46, 44, 4)),
    ],
)
def test_an_organ_on_the_other_side_is_told(name, mask):
    assert codes(name, mask, abdomen()) == []
    assert codes(name, np.flip(mask, 2), abdomen()) == ["mask_misplaced"]
    # Where the image cuts the body, nobody knows its middle.
    cut = abdomen()[:, :, 14:]
    assert codes(name, np.flip(mask, 2)[:, :, 14:], cut) == []


def test_structures_of_both_sides_or_near_the_middle_are_not_told():
    for name in ("kidneys", "left_right_kidney", "brachiocephalic_vein_left", "tumor"):
        assert codes(name, disc(40, 22, 4) | disc(40, 32, 3), abdomen()) == []


def test_a_lung_on_the_other_side_of_a_radiograph_is_told():
    picture = Study(chest()[:1] + 1000, (float("nan"), 1.0, 1.0), 2, "raw")
    mask = ORGANS["left_lung"][:1].astype(np.int16)
    assert not list(odd_masks(picture, {"left_lung": mask}, {}))
    found = list(odd_masks(picture, {"right lung": mask}, {}))
    assert [code for code, _ in found] == ["mask_misplaced"]
