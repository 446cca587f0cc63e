"""Percentiles and occupancy maps against slow definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmv_jax.store.intensity import foreground_percentiles, occupancy, to_int16
from mmv_jax.store.layout import CELLS, pack_occupancy, unpack_occupancy

GRIDS = st.one_of(
    st.tuples(st.just(1), st.integers(1, 50), st.integers(1, 50)),
    st.tuples(st.integers(2, 20), st.integers(1, 30), st.integers(1, 30)),
)
SEEDS = st.integers(0, 2**32)


def cell_of_voxel(v: int, voxels: int, cells: int) -> int:
    """The definition: cell c is what lies between the fractions c / cells and (c + 1) / cells, in
    whole voxels.
    """
    return max(c for c in range(cells) if c * voxels // cells <= v)


def slow_occupancy(values: np.ndarray, unit: str, cells: tuple) -> np.ndarray:
    """Cell by cell: the voxels of a cell, or for a cell without any those of the cell that holds
    the voxel in which it lies.
    """
    occupied = np.zeros(cells, bool)
    owners = [
        np.array([cell_of_voxel(v, n, c) for v in range(n)]) for n, c in zip(values.shape, cells)
    ]
    low, high = (np.percentile(values, p, method="inverted_cdf") for p in (0.5, 99.5))
    for cell in np.ndindex(*cells):
        owner = [o[c * n // k] for o, c, n, k in zip(owners, cell, values.shape, cells)]
        inside = values[np.ix_(*(np.flatnonzero(o == w) for o, w in zip(owners, owner)))]
        above = {"shape": 0.0, "HU": -900.0, "raw": low + 0.02 * (high - low)}[unit]
        if unit == "shape":
            occupied[cell] = (inside > above).any()
        else:
            occupied[cell] = np.percentile(inside, 99, method="inverted_cdf") > above
            occupied[cell] |= unit == "raw" and inside.std() > 0.01 * (high - low)
    return occupied if occupied.any() else np.ones(cells, bool)


def patchy(grid: tuple, unit: str, seed: int) -> np.ndarray:
    """Regions of air, of specks and of tissue."""
    rng = np.random.default_rng(seed)
    level = np.kron(rng.integers(0, 3, [-(-n // 6) for n in grid]), np.ones((6, 6, 6), int))[
        tuple(slice(n) for n in grid)
    ]
    if unit == "shape":
        return ((level == 2) & (rng.random(grid) < 0.05)).astype(np.uint8)
    specks = np.where(rng.random(grid) < 0.008, 500, 0)
    return (
        np.choose(level, [-1000, -1000 + specks, rng.integers(-200, 300, grid)])
        + rng.integers(0, 2, grid)
    ).astype(np.int16)


@given(GRIDS, st.sampled_from(["HU", "raw", "shape"]), SEEDS)
def test_occupancy_is_what_it_says(grid, unit, seed):
    values = patchy(grid, unit, seed)
    ndim = 2 if grid[0] == 1 else 3
    np.testing.assert_array_equal(
        occupancy(to_int16(values), unit, ndim),
        slow_occupancy(values.astype(float), unit, CELLS[ndim]),
    )


@given(GRIDS, SEEDS)
def test_percentiles_are_those_of_the_voxels_in_occupied_cells(grid, seed):
    values = patchy(grid, "HU", seed)
    ndim = 2 if grid[0] == 1 else 3
    occupied = np.random.default_rng(seed).random(CELLS[ndim]) < 0.5
    owners = [
        np.array([cell_of_voxel(v, n, c) for v in range(n)]) for n, c in zip(grid, CELLS[ndim])
    ]
    inside = values[occupied[np.ix_(*owners)]]
    if inside.size:
        expected = tuple(
            float(np.percentile(inside, p, method="inverted_cdf")) for p in (0.5, 99.5)
        )
        assert foreground_percentiles(to_int16(values), occupied, (0.5, 99.5)) == expected


def test_occupancy_of_a_scaled_study_is_that_of_its_true_values():
    hu = np.full((16, 16, 16), -1000.25, np.float32)
    hu[8:, :, :] = 40.125
    stored = to_int16(hu)
    assert stored.slope != 1.0
    assert occupancy(stored, "HU", 3).sum() == 256


def test_a_collimator_is_background_and_dark_lung_is_not():
    rng = np.random.default_rng(0)
    picture = np.zeros((1, 160, 160), np.uint8)
    picture[0, 20:140, 20:140] = rng.integers(60, 250, (120, 120))
    picture[0, 40:80, 40:80] = rng.integers(0, 12, (40, 40))  # dark, but with texture
    occupied = occupancy(to_int16(picture), "raw", 2)[0]
    assert occupied.sum() == 144
    assert occupied[2:14, 2:14].all()


def test_a_bright_letter_in_the_dark_carries_something():
    picture = np.zeros((1, 160, 160), np.uint8)
    picture[0, 80:, :] = 200
    picture[0, 4:7, 4:7] = 255
    assert occupancy(to_int16(picture), "raw", 2)[0, 0].tolist() == [True] + [False] * 15


def test_a_study_of_air_has_tokens_all_the_same():
    assert occupancy(to_int16(np.full((10, 10, 10), -1000, np.int16)), "HU", 3).all()


@given(SEEDS, st.sampled_from([2, 3]))
def test_occupancy_survives_packing(seed, ndim):
    occupied = np.random.default_rng(seed).random(CELLS[ndim]) < 0.5
    np.testing.assert_array_equal(unpack_occupancy(pack_occupancy(occupied), ndim), occupied)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error(bad):
    with pytest.raises(ValueError, match="finite"):
        to_int16(np.array([[[0.0, bad, 1.0]]]))
