"""A crop of much of a large study is made of its coarser levels, and is the same crop. Axes: z, y,
x.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import store_of
from scipy import ndimage

from mmv_jax.data.crops import Crops, Geometry
from mmv_jax.data.resample import level_for, read_crop, triangle
from mmv_jax.store import levels as levels_module
from mmv_jax.store.inspect import verify
from mmv_jax.store.levels import coarser, level_factors, level_scale
from mmv_jax.store.read import Store
from mmv_jax.study import Study

PATCH = (8, 16, 16)


@given(
    st.tuples(*[st.integers(1, 11)] * 3),
    st.tuples(*[st.sampled_from([1, 2])] * 3),
    st.integers(0, 2**32),
    st.sampled_from([2, 200, 2**15]),
)
def test_a_coarser_grid_holds_the_means_of_boxes(grid, factor, seed, size):
    """Also the second one, that is made of the first."""
    voxels = np.random.default_rng(seed).integers(-size, size, grid).astype(np.int16)
    gain, offset = level_scale(int(voxels.min()), int(voxels.max()))
    once = coarser(voxels, (1, 1, 1), factor, grid, gain, offset)
    fourfold = (factor[0], 2 * factor[1], 2 * factor[2])
    for level, own in ((once, factor), (coarser(once, factor, fourfold, grid), fourfold)):
        ours = level / gain + offset
        for place in np.ndindex(*ours.shape):
            box = voxels[tuple(slice(p * f, (p + 1) * f) for p, f in zip(place, own))]
            assert abs(ours[place] - box.mean()) <= min(1.0, size / 500) + 1e-2


def test_slabs_change_nothing(monkeypatch):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (31, 20, 17)).astype(np.int16)
    at_once = coarser(voxels, (1, 1, 1), (2, 2, 2), voxels.shape)
    monkeypatch.setattr("mmv_jax.store.intensity.SLAB_VOXELS", 3 * 20 * 17)
    assert np.array_equal(coarser(voxels, (1, 1, 1), (2, 2, 2), voxels.shape), at_once)


@given(st.tuples(*[st.integers(1, 3000)] * 3), st.tuples(*[st.floats(0.1, 10)] * 3))
def test_levels_end_where_a_grid_is_small_and_never_grow_coarser_than_they_must(grid, spacing):
    factors = [(1, 1, 1), *level_factors(grid, spacing)]
    sizes = [np.prod(-(-np.array(grid) // factor)) for factor in factors]
    assert sizes[-1] <= levels_module.LARGE
    assert all(size > levels_module.LARGE and size > after for size, after in zip(sizes, sizes[1:]))
    for before, after in zip(factors, factors[1:]):
        ratio = np.array(after) / before
        assert set(ratio) <= {1, 2}
        assert 2 in ratio


def test_small_studies_and_shapes_have_none(tmp_path):
    volume = np.random.default_rng(0).integers(0, 2, (120, 100, 100)).astype(np.uint8)
    store = store_of(
        tmp_path,
        [Study(volume, (1.0, 1.0, 1.0), 3, "shape"), Study(volume[:50], (1.0, 1.0, 1.0), 3, "raw")],
    )
    assert [store.levels(i).shape for i in (0, 1)] == [(0, 3), (0, 3)]
    geometry = Geometry.of(store.index)
    crop = Crops(np.zeros(3), np.array(4.0), np.array([1, 1, 1]), PATCH)
    ours, _ = read_crop(store, geometry, 1, crop)
    assert ours.mean() == pytest.approx(0.5, abs=0.02)


def test_counts_of_few_steps_keep_their_means(tmp_path):
    """One in ten is 1: rounded to whole steps nothing would be left."""
    voxels = (np.random.default_rng(0).random((128, 128, 128)) < 0.1).astype(np.uint8)
    store = store_of(tmp_path, [Study(voxels, (1.0, 1.0, 1.0), 3, "raw")])
    crop = Crops(np.zeros(3), np.array(6.0), np.array([2, 1, 1]), PATCH)
    ours, inside = read_crop(store, Geometry.of(store.index), 0, crop)
    assert len(store.levels(0)) == 1
    assert ours[inside].mean() == pytest.approx(0.1, abs=0.002)


def test_unknown_spacings_are_alike():
    assert level_factors((1, 2000, 2000), (float("nan"),) * 3) == [(1, 2, 2)]
    assert level_factors((1, 2000, 2000), (float("nan"), 2.0, float("nan"))) == [(1, 2, 2)]


@given(st.floats(1, 40), st.sampled_from([1, 2, 4, 8]))
def test_means_and_the_triangle_over_them_are_as_wide_as_the_triangle_alone(step, factor):
    base = triangle(step, factor)
    if base:
        assert (factor**2 - 1) / 12 + (base * factor) ** 2 / 6 == pytest.approx(step**2 / 6)


@pytest.mark.parametrize(
    ("step", "level"),
    [((4.7, 6.7, 6.7), 1), ((5.2, 6.7, 6.7), 2), ((2.0, 6.7, 6.7), 0), ((40.0, 40.0, 40.0), 3)],
    ids=["2", "4", "1", "8"],
)
def test_a_level_is_read_where_it_is_as_sharp_along_every_axis(step, level):
    assert (
        level_for(np.array(step), np.array(level_factors((300, 512, 512), (1.0, 0.7, 0.7))))
        == level
    )


def test_a_study_without_levels_is_read_itself():
    assert level_for(np.full(3, 9.0), np.empty((0, 3), np.int64)) == 0


def levelled(folder, voxels, spacing, *, levels=True, unit="HU"):
    """A study in a store, with the levels that ingest gives it or with none."""
    store = store_of(folder, [Study(voxels, spacing, 2 if len(voxels) == 1 else 3, unit)])
    if not levels:
        # as it was written before there were levels
        index = store.index.drop(columns=["level_factors", "level_blocks"])
        store = Store(store.path, index, store.key_fingerprint)
    return store, Geometry.of(store.index)


@pytest.mark.parametrize(
    ("shape", "spacing", "corner", "spacing_mm"),
    [
        ((121, 131, 143), (1.0, 0.7, 0.7), (3.0, 2.0, 5.0), 3.3),
        ((121, 211, 383), (1.0, 0.7, 0.7), (-5.0, -7.0, 41.0), 5.6),
        ((33, 301, 290), (5.0, 0.7, 0.7), (0.0, 10.0, 10.0), 5.0),
        ((1, 1301, 1111), (1.0, 0.14, 0.14), (0.0, 3.0, 4.0), 0.9),
    ],
    ids=["a level", "two levels", "thick slices", "planar"],
)
def test_a_crop_from_a_level_is_that_from_the_study(tmp_path, shape, spacing, corner, spacing_mm):
    """Within 5 % of what varies, for structure as large as the crop's voxels; and in far fewer
    voxels.
    """
    noise = np.random.default_rng(0).normal(0, 5000, shape)
    voxels = np.rint(
        ndimage.gaussian_filter(noise, [0.7 * spacing_mm / s for s in spacing])
    ).astype(np.int16)
    crop = Crops(np.array(corner), np.array(spacing_mm), np.array([2, 4, 4]), PATCH)
    (with_levels, geometry), (without, _) = (
        levelled(tmp_path / str(levels), voxels, spacing, levels=levels) for levels in (True, False)
    )
    read = {}
    for name, store in (("levels", with_levels), ("none", without)):
        boxes, reader = [], store.read_box
        store.read_box = lambda *args, reader=reader, boxes=boxes, **kwargs: (
            boxes.append(args[2]) or reader(*args, **kwargs)
        )
        read[name] = read_crop(store, geometry, 0, crop), sum(map(np.prod, boxes))
    ((ours, inside), few), ((expected, also_inside), many) = read["levels"], read["none"]
    assert np.array_equal(inside, also_inside)
    assert few < many / 3
    assert np.sqrt(np.mean((ours - expected)[inside] ** 2)) < 0.05 * expected[inside].std()


@pytest.mark.parametrize(("step", "level"), [(3.0, 1), (5.0, 2), (10.0, 2)])
def test_a_level_lies_where_its_study_lies(tmp_path, step, level):
    """A ramp is itself on every level, a pixel of shift would be seen; the study ends with fewer
    rows than a voxel of the coarsest level covers.
    """
    y, x = np.meshgrid(*map(np.arange, (2603, 2500)), indexing="ij")
    store, geometry = levelled(
        tmp_path, (4 * y - 2 * x)[None].astype(np.int16), (1.0, 1.0, 1.0), unit="raw"
    )
    monotone = Crops(
        np.array([0.0, 2600 - 32 * step, 40.0]), np.array(step), np.array([1, 2, 1]), PATCH
    )
    assert level_for(np.full(3, step), store.levels(0)) == level
    ours, _ = read_crop(store, geometry, 0, monotone)
    points = [
        start + (np.arange(n) + 0.5) * step - 0.5
        for n, start in zip((32, 16), monotone.start_mm[1:])
    ]
    expected = 4 * points[0][:-2, None] - 2 * points[1]  # the last ones stand on the study's end
    assert np.abs(ours[0, :-2] - expected).max() < 0.05 * step * 4


def test_a_last_slice_weighs_no_more_than_it_is(tmp_path):
    """One bright slice at the odd end of a volume: in a level it is a voxel of its own, which
    stands for one slice and not for two.
    """
    voxels = np.zeros((505, 64, 64), np.int16)
    voxels[-1] = 3000
    (ours, inside), (expected, _) = (
        read_crop(
            *levelled(tmp_path / str(levels), voxels, (1.0, 1.0, 1.0), levels=levels),
            0,
            Crops(np.array([345.0, 0, 0]), np.array(4.0), np.array([5, 1, 1]), PATCH),
        )
        for levels in (True, False)
    )
    assert ours[inside].max() == pytest.approx(expected[inside].max(), rel=0.3)


def test_a_damaged_level_is_noticed(tmp_path):
    store, _ = levelled(
        tmp_path,
        np.random.default_rng(0).integers(0, 1000, (1, 1100, 1000)).astype(np.int16),
        (1.0, 0.1, 0.1),
    )
    assert verify(tmp_path) == []
    blocks = 9 * 8  # of the study: those of the level follow
    assert int(store.index["level_blocks"][0][0]) == blocks
    (shard,) = (path for path in tmp_path.glob("parts/*/blocks/c/**/*") if path.is_file())
    content = bytearray(shard.read_bytes())
    # of the first block of the level, in the shard's directory
    offset = int.from_bytes(content[-4 - 16 * (1024 - blocks) :][:8], "little")
    content[offset + 20] ^= 1
    shard.write_bytes(content)
    assert len(verify(tmp_path)) == 1
    assert Store.open(tmp_path).read_study(0).voxels.shape == (1, 1100, 1000)
