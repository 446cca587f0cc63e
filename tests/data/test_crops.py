import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import SHAPE, VIEWS, memory, random_studies

from mmv_jax.data.crops import (
    COARSER,
    DRAWS,
    NOMINAL_EXTENT_MM,
    OVERSAMPLING,
    Geometry,
    View,
    check_views,
    draw_crops,
    expand,
    most_tokens,
    uniforms,
    whole_crops,
)
from mmv_jax.data.occupancy import count_tokens, kept_tokens
from mmv_jax.errors import UserError
from mmv_jax.store.layout import CELLS, cell_edges, pack_occupancy, unpack_occupancy

PATCH = SHAPE["patch"]
GRIDS = {2: (8, 64, 64), 3: (16, 48, 48)}


def crops_of(store, seed=0, epoch=0, views=VIEWS):
    geometry = Geometry.of(store.index)
    most = max(len(expand(listed)) for listed in views.values())
    return geometry, draw_crops(
        geometry, views, PATCH, uniforms(seed, epoch, 0, len(store.index), most)
    )


@given(st.integers(0, 50), st.integers(0, 1000), st.integers(1, 9))
def test_the_numbers_of_a_line_do_not_depend_on_the_lines_asked_for_with_it(first, epoch, views):
    assert np.array_equal(
        uniforms(3, epoch, 0, first + 7, views)[first:], uniforms(3, epoch, first, 7, views)
    )


def test_epochs_and_seeds_draw_other_crops():
    draws = [uniforms(seed, epoch, 0, 4, 2) for seed in (0, 1) for epoch in (0, 1)]
    assert len({d.tobytes() for d in draws}) == 4


@pytest.mark.parametrize("ndim", (2, 3))
def test_a_box_takes_its_share_of_the_study_at_its_voxels(ndim):
    store = memory([s for s in random_studies(400) if (s[0].shape[0] == 1) == (ndim == 2)])
    geometry, crops = crops_of(store, views={ndim: [View("v", 1, (32, 64, 64), (0.3, 0.6), True)]})
    size = crops.tokens * PATCH * crops.spacing_mm[..., None]
    share = (size[:, 0, 3 - ndim :] / geometry.extent_mm[:, 3 - ndim :]).prod(axis=1)
    assert (share >= 0.3 - 1e-6).all()  # a box is grown to whole patches, never cut
    voxels = crops.tokens[:, 0] * PATCH
    assert (voxels[:, 3 - ndim :] <= np.array((32, 64, 64))[3 - ndim :]).all()
    # one side is full
    full = (
        voxels[:, 3 - ndim :]
        > np.array((32, 64, 64))[3 - ndim :] / COARSER - np.array(PATCH)[3 - ndim :]
    ).any(axis=1)
    finest = geometry.spacing_mm[:, 1:].min(axis=1) / OVERSAMPLING[2]
    assert (crops.spacing_mm[:, 0] >= finest - 1e-9).all()
    # or its voxels are as fine as the study allows
    assert (full | (crops.spacing_mm[:, 0] <= finest * COARSER + 1e-9)).all()


def test_a_view_says_how_much_its_crops_are_stretched_and_coarsened():
    store = memory([s for s in random_studies(60) if s[0].shape[0] == 1])

    def spacings(**jitter):
        view = View("v", 1, (32, 64, 64), (0.5, 0.5), True, **jitter)
        geometry, crops = crops_of(store, views={2: [view]})
        asked = (np.sqrt(0.5) * geometry.extent_mm[:, 1:] / 64).max(axis=1)
        finest = geometry.spacing_mm[:, 1:].min(axis=1) / OVERSAMPLING[2]
        return crops.spacing_mm[:, 0] / np.maximum(asked, finest)

    assert spacings(aspect=1.0, coarser=1.0) == pytest.approx(1)
    coarse = spacings(aspect=1.0, coarser=1.5)
    assert (coarse > 1).all() and (coarse < 1.5).all() and coarse.std() > 0.05
    assert spacings(aspect=1.4, coarser=1.0).std() > 0.01
    with pytest.raises(UserError, match="must be at least 1"):
        check_views({2: [View("v", 1, (8, 64, 64), (0.5, 1.0), True, aspect=0.9)]}, PATCH)


def test_a_box_lies_in_its_study_but_for_what_it_was_grown_by():
    geometry, crops = crops_of(memory(random_studies(200)))
    patch_mm = np.array(PATCH) * crops.spacing_mm[..., None]
    low, high = crops.start_mm, crops.start_mm + crops.tokens * patch_mm
    there = crops.tokens[..., :1] > 0
    # half a patch at each side
    outside = np.maximum(-low, high - geometry.extent_mm[:, None]) - patch_mm / 2 > 1e-6
    assert not (outside & there)[..., 1:].any()


def test_whole_crops_show_the_whole_study_without_chance():
    store = memory(random_studies(60))
    geometry = Geometry.of(store.index)
    crops = whole_crops(geometry, GRIDS, PATCH)
    size = crops.tokens * PATCH * crops.spacing_mm[:, None]
    assert (crops.start_mm <= 1e-9).all()
    assert (crops.start_mm + size >= geometry.extent_mm - 1e-6).all()
    assert np.allclose(crops.start_mm + size / 2, geometry.extent_mm / 2)


def test_a_square_image_on_a_square_grid_is_exactly_its_patches():
    crops = whole_crops(
        Geometry.of(
            memory([(np.ones((1, 512, 512), np.float32), (np.nan, 0.7, 0.7), "CXR", "raw")]).index
        ),
        GRIDS,
        PATCH,
    )
    assert crops.tokens.tolist() == [[1, 4, 4]]
    assert crops.spacing_mm[0] == pytest.approx(512 * 0.7 / 64)


def test_an_unknown_planar_spacing_assumes_the_nominal_width():
    geometry = Geometry.of(
        memory([(np.ones((1, 100, 200), np.float32), (np.nan, np.nan, np.nan), "CXR", "raw")]).index
    )
    assert geometry.extent_mm[0].tolist() == [0, NOMINAL_EXTENT_MM / 2, NOMINAL_EXTENT_MM]


@pytest.mark.parametrize("ndim", (2, 3))
def test_the_cells_of_the_index_are_the_bits_of_the_geometry(ndim):
    cells = np.random.default_rng(0).random(CELLS[ndim]) < 0.5
    shape = (1, 40, 50) if ndim == 2 else (9, 40, 50)
    geometry = Geometry.of(
        memory([(np.ones(shape, np.float32), (1.0, 1.0, 1.0), "X", "raw", cells)]).index
    )
    assert np.array_equal(unpack_occupancy(pack_occupancy(cells), ndim), cells)
    slabs = cells.reshape((16, 16) if ndim == 2 else (8, 64))
    expected = [sum(int(bit) << n for n, bit in enumerate(slab)) for slab in slabs]
    assert geometry.cells[0, : len(expected)].tolist() == expected


def slowly_kept(store, i, crops):
    """The definition: a patch is kept where it overlaps a voxel of an occupied cell."""
    voxels, geometry = store.voxels[i], Geometry.of(store.index)
    cells = store.occupied[i]
    cell_of = [
        np.searchsorted(cell_edges(n, c), np.arange(n), side="right") - 1
        for n, c in zip(voxels.shape, cells.shape)
    ]
    occupied = cells[np.ix_(*cell_of)]
    kept = np.zeros(crops.tokens, bool)
    for t in np.ndindex(*kept.shape):
        step = np.array(PATCH) * crops.spacing_mm
        low = (crops.start_mm + t * step) / geometry.spacing_mm[i]
        high = low + step / geometry.spacing_mm[i]
        if geometry.planar[i]:
            low[0], high[0] = 0, 1
        box = tuple(
            slice(max(int(np.floor(a + 1e-6)), 0), max(int(np.ceil(b - 1e-6)), 0))
            for a, b in zip(low, high)
        )
        kept[t] = occupied[box].any()
    if not kept.any():
        kept[tuple(np.array(kept.shape) // 2)] = True
    return kept


def test_the_budget_without_voxels_is_the_definition_with_them():
    store = memory(random_studies(30, seed=5))
    geometry, crops = crops_of(store)
    counts = count_tokens(geometry, crops)
    fewer = 0
    for i in range(len(store.index)):
        for v in range(4):
            slow = slowly_kept(store, i, crops[i, v])
            fast = kept_tokens(geometry[[i]], crops[[i], v])[0]
            assert np.array_equal(fast, slow), (i, v)
            assert counts[i, v] == slow.sum()
            fewer += slow.sum() < slow.size
    assert fewer > 10  # background was dropped at all


def test_all_tokens_are_the_whole_grid_of_each_crop():
    store = memory(random_studies(30, seed=5))
    geometry, crops = crops_of(store)
    assert np.array_equal(count_tokens(geometry, crops, "all"), crops.tokens.prod(axis=-1))
    kept = kept_tokens(geometry, crops[:, 0], "all")
    for i, own in enumerate(crops.tokens[:, 0]):
        inside = tuple(map(slice, own))
        assert kept[i].sum() == kept[i][inside].sum() == own.prod()  # all of its grid, no more


def test_a_study_without_any_occupied_cell_keeps_one_token():
    store = memory(
        [
            (
                np.ones((1, 64, 64), np.float32),
                (np.nan, 1.0, 1.0),
                "CXR",
                "raw",
                np.zeros((1, 16, 16), bool),
            )
        ]
    )
    geometry = Geometry.of(store.index)
    assert kept_tokens(geometry, whole_crops(geometry, GRIDS, PATCH)).sum() == 1


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(0, 5))
def test_no_crop_exceeds_the_bound_of_its_study(seed, epoch):
    store = memory(random_studies(20, seed=1))
    geometry, crops = crops_of(store, seed, epoch)
    for ndim, listed in VIEWS.items():
        lines = geometry.planar == (ndim == 2)
        for v, view in enumerate(expand(listed)):
            assert (
                crops.tokens[lines, v].prod(axis=1) <= most_tokens(geometry, view, PATCH, ndim)
            ).all()


def test_the_bound_holds_for_views_of_whole_studies_too():
    """Their longer side is cut to the study, and the shorter one still shrinks."""
    store = memory([(np.ones((1, 100, 100), np.float32), (np.nan, 1.0, 1.0), "CXR", "raw")])
    view = View("whole", 1, (8, 96, 192), (1.0, 1.0), True)
    geometry = Geometry.of(store.index)
    most = most_tokens(geometry, view, PATCH, 2).item()
    u = np.random.default_rng(0).uniform(size=(500, 1, 1, DRAWS))
    drawn = [
        draw_crops(geometry, {2: [view]}, patch=PATCH, u=one).tokens.prod(axis=-1).item()
        for one in u
    ]
    assert max(drawn) <= most


def test_views_that_cannot_be_are_refused():
    good = View("g", 1, (8, 64, 64), (0.4, 1.0), True)
    for views, words in (
        ([View("g", 1, (8, 60, 64), (0.4, 1.0), True)], "multiple of the patch"),
        ([View("g", 1, (12, 64, 64), (0.4, 1.0), True)], "multiple of the patch"),
        ([View("g", 1, (8, 64, 64), (0.4, 1.2), True)], "scale"),
        ([View("l", 1, (8, 64, 64), (0.4, 1.0), False), good], "begin with a global view"),
        ([], "begin with a global view"),
    ):
        with pytest.raises(UserError, match=words):
            check_views({3: views}, PATCH)
    check_views({2: [View("g", 1, (1, 64, 64), (0.4, 1.0), True)], 3: [good]}, PATCH)
