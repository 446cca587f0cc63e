"""One slice, or a block of slices, that does not fit the rest of a volume."""

import numpy as np
import pytest
from made import body, nifti, slices
from test_case_files import code_of, told

from mmv_jax.readers.odd_slices import odd_slices
from mmv_jax.readers.read import read_study


def trunk(count: int = 16, side: int = 48) -> np.ndarray:
    """HU `[slices, y, x]`: a body off the middle, a lung and a bone that move along it, noise."""
    z, y, x = np.mgrid[:count, :side, :side].astype(np.float32)
    hu = np.full((count, side, side), -1000.0)
    hu[((y - 0.55 * side) / 0.36) ** 2 + ((x - 0.45 * side) / 0.4) ** 2 < side**2] = 40
    lung = (y - 0.5 * side) ** 2 + (x - 0.3 * side) ** 2 < (0.1 * side + 0.5 * z) ** 2
    hu[lung] = -800
    bone = (y - 0.75 * side) ** 2 + (x - 0.4 * side - 0.8 * z) ** 2 < (0.07 * side) ** 2
    hu[bone] = 700
    noise = np.random.default_rng(0).normal(0, 6, hu.shape)
    return np.rint(hu + noise).astype(np.int16)


def in_slice(change, *where: int):
    def changed(hu: np.ndarray) -> np.ndarray:
        hu = hu.copy()
        for k in where:
            hu[k] = change(hu[k].astype(np.float32))
        return hu

    return changed


def moved(hu: np.ndarray) -> np.ndarray:
    return np.roll(hu, (5, 3), (0, 1))


def exchanged(hu: np.ndarray) -> np.ndarray:
    return hu[[*range(7), 8, 7, *range(9, 16)]]


def copied(hu: np.ndarray) -> np.ndarray:
    return hu[[*range(8), 7, *range(9, 16)]]


DEFECTS = {
    "left to right": in_slice(np.fliplr, 7),
    "top to bottom": in_slice(np.flipud, 7),
    "180 degrees": in_slice(lambda one: one[::-1, ::-1], 7),
    "turned": in_slice(np.rot90, 7),
    "the first": in_slice(np.fliplr, 0),
    "the last": in_slice(np.flipud, 15),
    "three of them": in_slice(np.fliplr, 3, 7, 11),
    "every second": in_slice(np.fliplr, *range(0, 16, 2)),
    "a block": in_slice(np.fliplr, *range(8, 16)),
    "slope": in_slice(lambda one: 2 * (one + 1024) - 1024, 7),
    "less slope": in_slice(lambda one: 0.5 * (one + 1024) - 1024, 7),
    "slope of HU": in_slice(lambda one: 2 * one, 7),
    "slope of the first": in_slice(lambda one: 2 * (one + 1024) - 1024, 0),
    "slope of a block": in_slice(lambda one: 2 * (one + 1024) - 1024, *range(8, 16)),
    "offset": in_slice(lambda one: one + 200, 7),
    "offset of the last": in_slice(lambda one: one + 400, 15),
    "inverted": in_slice(lambda one: 40 - one, 7),
    "moved": in_slice(moved, 7),
    "moved, a block": in_slice(moved, *range(8, 16)),
    "exchanged": exchanged,
    "copied": copied,
    "a block in reverse": lambda hu: hu[[*range(5), *range(9, 4, -1), *range(10, 16)]],
    "the first in reverse": lambda hu: hu[[*range(7, -1, -1), *range(8, 16)]],
    "the last in reverse": lambda hu: hu[[*range(8), *range(15, 7, -1)]],
    "two blocks exchanged": lambda hu: hu[[*range(8, 16), *range(8)]],
    "a block moved": lambda hu: hu[[*range(4), 7, 8, 9, 4, 5, 6, *range(10, 16)]],
}


def test_a_volume_without_defects_is_not_told(tmp_path):
    hu = trunk()
    assert odd_slices(hu) == ()
    # nor one that is its own mirror image along its slices, or has few slices, or is noise
    assert odd_slices(np.concatenate([hu, hu[-2::-1]])) == ()
    assert odd_slices(hu[:3]) == ()
    for side in (8, 16, 64):
        assert odd_slices(np.random.default_rng(side).normal(0, 1, (24, side, side))) == ()
    z, y, x = np.mgrid[-12:13, -24:24, -24:24]
    ball = (z**2 + y**2 + x**2 < 12**2).astype(np.float32)
    rod = ((y - z) ** 2 + (x + z) ** 2 < 25).astype(np.float32)
    ramp = (100 * z + 10 * y + x).astype(np.float32)
    assert odd_slices(ball) == odd_slices(rod) == odd_slices(ramp) == ()
    # each slice twice: resampled by the nearest neighbour
    assert odd_slices(np.repeat(hu, 2, axis=0)) == ()


@pytest.mark.parametrize("name", DEFECTS)
def test_slices_that_do_not_fit_are_told(name):
    hu = DEFECTS[name](trunk())
    assert [code for code, _ in odd_slices(hu)] == ["odd_slices"]
    assert [code for code, _ in odd_slices(0.37 * hu.astype(np.float32))] == ["odd_slices"]


def test_files_are_told_or_refused(tmp_path):
    hu = np.moveaxis(DEFECTS["left to right"](trunk()), 0, 2)
    assert told(read_study(nifti(tmp_path / "a.nii", hu), unit="HU")) == ["odd_slices"]
    assert told(read_study(nifti(tmp_path / "b.nii", hu))) == ["odd_slices"]
    hu = np.moveaxis(trunk(), 0, 2)
    assert told(read_study(nifti(tmp_path / "c.nii", hu), unit="HU")) == []
    bodies = [body(48, k) for k in range(12)]
    flipped = slices(tmp_path / "d", 12, stored=lambda k: bodies[k][:, :: -1 if k == 5 else 1])
    assert told(read_study(flipped)) == ["odd_slices"]
    slope = {"RescaleSlope": lambda k: 1 + (k == 5)}
    scaled = slices(tmp_path / "e", 12, stored=lambda k: bodies[k], **slope)
    assert told(read_study(scaled)) == ["odd_slices"]
    shifted = slices(tmp_path / "f", 12, stored=lambda k: bodies[k] + 600 * (k == 5))
    assert code_of(shifted) == "bad_slice"
