import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_store import memory, to_voxels

from mmv_jax.data.crops import Crops, Geometry, whole_crops
from mmv_jax.data.tokens import RowShape, choose_visible, to_patches, token_coordinates

PATCH = (8, 16, 16)


def ramp(shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_patches_are_cut_in_the_order_z_y_x():
    voxels = ramp((16, 32, 48))
    patches = to_patches(voxels, np.ones((2, 2, 3), bool), PATCH)
    for n, (z, y, x) in enumerate(np.ndindex(2, 2, 3)):
        assert np.array_equal(
            patches[n].reshape(PATCH),
            voxels[8 * z : 8 * z + 8, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16],
        )


def test_a_planar_crop_is_repeated_through_the_patchs_depth():
    voxels = ramp((1, 32, 32))
    patches = to_patches(voxels, np.ones((1, 2, 2), bool), PATCH).reshape(4, *PATCH)
    assert np.array_equal(patches[1], np.broadcast_to(voxels[:, :16, 16:], PATCH))


@given(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), st.integers(0, 100))
def test_voxels_come_back_from_patches(tokens, seed):
    rng = np.random.default_rng(seed)
    kept = rng.random(tokens) < 0.7
    voxels = rng.normal(size=np.array(tokens) * PATCH).astype(np.float32)
    back = to_voxels(to_patches(voxels, kept, PATCH), kept, PATCH, fill=9.0)
    shown = np.kron(kept, np.ones(PATCH, bool))
    assert np.array_equal(back[shown], voxels[shown])
    assert (back[~shown] == 9.0).all()


def positions(shape, spacing, crop):
    """Coordinates of all tokens of a crop of a study of ones."""
    geometry = Geometry.of(memory([(np.ones(shape, np.float32), spacing, "CT", "HU")]).index)
    return token_coordinates(crop, geometry.extent_mm[0], np.ones(crop.tokens, bool), "mm")


def test_planar_and_volumetric_tokens_at_one_place_have_one_coordinate():
    planar = whole_crops(
        Geometry.of(
            memory([(np.ones((1, 256, 256), np.float32), (np.nan, 1.0, 1.0), "CXR", "raw")]).index
        ),
        {2: (8, 64, 64)},
        PATCH,
    )[0]
    volume = whole_crops(
        Geometry.of(
            memory([(np.ones((40, 128, 128), np.float32), (0.8, 2.0, 2.0), "CT", "HU")]).index
        ),
        {3: (8, 64, 64)},
        PATCH,
    )[0]
    assert planar.spacing_mm == volume.spacing_mm == 4.0
    flat, deep = (
        positions((1, 256, 256), (np.nan, 1.0, 1.0), planar),
        positions((40, 128, 128), (0.8, 2.0, 2.0), volume),
    )
    assert np.allclose(flat, deep)  # the volume is one patch deep, about its centre
    assert np.allclose(flat[1:, 0], 0)


def test_coordinates_are_measured_from_the_studys_centre():
    crop = Crops(np.array([0.0, 0.0, 0.0]), np.array(2.0), np.array([1, 1, 2]), PATCH)
    points = positions((50, 50, 50), (1.0, 1.0, 1.0), crop)
    assert np.allclose(points, np.array([[8, 16, 32], [8, 16, 16], [8, 16, 48]]) - 25.0)


def test_grid_coordinates_know_nothing_of_millimetres():
    kept = np.ones((1, 2, 2), bool)
    crops = [
        Crops(np.array([5.0, 1.0, 2.0]), np.array(h), np.array([1, 2, 2]), PATCH)
        for h in (1.0, 3.0)
    ]
    fine, coarse = (
        token_coordinates(crop, np.array([9.0, 9.0, 9.0]), kept, "grid") for crop in crops
    )
    assert np.array_equal(fine, coarse)
    assert fine.tolist() == [[0, 0, 0], [0, -8, -8], [0, -8, 8], [0, 8, -8], [0, 8, 8]]


@given(st.integers(1, 60), st.floats(0.05, 1.0), st.integers(0, 5), st.integers(0, 100))
def test_visible_tokens_are_the_special_ones_and_the_share_of_the_others(
    patches, share, registers, seed
):
    shape = RowShape(512, 512, 8, PATCH, registers, visible_share=share)
    visible = choose_visible(np.random.default_rng(seed), 100, patches, shape)
    assert visible[: shape.special].tolist() == list(range(100, 100 + shape.special))
    assert (np.diff(visible) > 0).all()
    assert visible[-1] < 100 + shape.special + patches
    assert len(visible) == shape.special + int(np.ceil(share * patches - 1e-9))


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8), st.floats(0.05, 1.0), st.integers(0, 5)
)
def test_the_visible_tokens_of_a_row_always_fit(crops, share, registers):
    full = sum(crops) + len(crops) * (1 + registers)
    shape = RowShape(full, full, len(crops), PATCH, registers, visible_share=share)
    assert (
        sum(len(choose_visible(np.random.default_rng(0), 0, n, shape)) for n in crops)
        <= shape.visible
    )


@pytest.mark.parametrize(
    "options",
    ({}, {"visible_share": 0.25}, {"mask_tokens": True}),
    ids=("plain", "visible", "masked"),
)
def test_an_empty_batch_has_the_shapes_that_were_promised(options):
    shape = RowShape(64, 32, 4, PATCH, 2, **options)
    batch, spec = shape.empty(3), shape.spec(3)
    assert {name: (a.shape, a.dtype) for name, a in batch.items()} == {
        name: (s.shape, s.dtype) for name, s in spec.items()
    }
    assert not batch["kinds"].any()
    assert (batch["study"] == -1).all()
    assert ("visible_index" in batch) == ("visible_share" in options)
    assert ("masked" in batch) == ("mask_tokens" in options)
