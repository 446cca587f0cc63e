import numpy as np
import pytest
from memory_store import memory, random_studies
from PIL import Image
from scipy import ndimage

from mmv_jax.data import resample
from mmv_jax.data.crops import Crops, Geometry, whole_crops
from mmv_jax.data.resample import read_crop, read_crop_mask, resample_axis

PATCH = (8, 16, 16)


def smooth(shape, seed=0, sigma=3.0):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 100, shape), sigma).astype(
        np.float32
    )


def one(voxels, spacing, masks=None):
    store = memory([(voxels, spacing, "CT", "HU")], masks=masks)
    return store, Geometry.of(store.index)


@pytest.mark.parametrize("size", ((64, 48), (400, 300), (150, 120)), ids=str)
def test_it_is_what_pillow_does(size):
    """Up, down and beside: the whole image on another grid, as Image.resize with BILINEAR."""
    image = smooth((150, 120))
    y = resample_axis(0.0, 150 / size[0], size[0], 1.0, 150)
    x = resample_axis(0.0, 120 / size[1], size[1], 1.0, 120)
    ours = y.weights @ image[y.first : y.first + y.read, x.first : x.first + x.read] @ x.weights.T
    pillow = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    # at the edge Pillow's triangle is cut, ours stands on the last voxel
    inner = (slice(2, -2), slice(2, -2))
    assert np.abs(ours - pillow)[inner].max() < 1e-3
    assert np.abs(ours - pillow).max() < 0.02 * np.ptp(image)


def test_a_finer_box_of_a_volume_is_linear_interpolation():
    voxels = smooth((20, 40, 50))
    store, geometry = one(voxels, (2.5, 0.8, 0.7))
    crop = Crops(np.array([11.0, 5.0, 8.0]), np.array(0.6), np.array([2, 1, 1]), PATCH)
    ours, inside = read_crop(store, geometry, 0, crop)
    points = [
        (start + (np.arange(n) + 0.5) * 0.6) / s - 0.5
        for start, n, s in zip(crop.start_mm, (16, 16, 16), (2.5, 0.8, 0.7))
    ]
    expected = ndimage.map_coordinates(
        voxels, np.meshgrid(*points, indexing="ij"), order=1, mode="nearest"
    )
    assert inside.all()
    assert np.allclose(ours, expected, atol=1e-3)


def test_a_coarser_box_is_antialiased():
    # as fine as the grid can hold
    stripes = np.tile(np.array([100.0, -100.0], np.float32), (8, 64, 64))
    store, geometry = one(stripes, (1.0, 1.0, 1.0))
    ours, inside = read_crop(
        store, geometry, 0, Crops(np.zeros(3), np.array(4.0), np.array([1, 1, 2]), PATCH)
    )
    assert np.abs(ours[inside]).max() < 10


def test_a_constant_stays_itself_up_to_the_edge():
    store, geometry = one(np.full((5, 30, 31), -700.0, np.float32), (3.0, 1.1, 0.9))
    crops = whole_crops(geometry, {3: (16, 32, 32)}, PATCH)
    ours, _ = read_crop(store, geometry, 0, crops[0])
    assert np.allclose(ours, -700, atol=1e-3)


def test_what_lies_outside_the_study_is_marked():
    store, geometry = one(np.ones((10, 20, 20), np.float32), (1.0, 1.0, 1.0))
    _, inside = read_crop(
        store,
        geometry,
        0,
        Crops(np.array([-3.0, -4.0, 12.0]), np.array(1.0), np.array([2, 1, 1]), PATCH),
    )
    z, y, x = (np.arange(16) - 3, np.arange(16) - 4, np.arange(16) + 12)
    expected = ((z >= 0) & (z < 10))[:, None, None] & (y >= 0)[:, None] & (x < 20)
    assert np.array_equal(inside, expected)


@pytest.mark.parametrize("corner", ((100.0, 5.0, 5.0), (-100.0, 5.0, 5.0)))
def test_a_box_that_misses_the_study_is_all_outside(corner):
    store, geometry = one(np.ones((10, 20, 20), np.float32), (1.0, 1.0, 1.0))
    _, inside = read_crop(
        store, geometry, 0, Crops(np.array(corner), np.array(0.5), np.array([1, 1, 1]), PATCH)
    )
    assert not inside.any()


def test_only_the_voxels_near_the_box_are_read():
    store, geometry = one(np.ones((60, 200, 200), np.float32), (1.0, 1.0, 1.0))
    boxes = []
    read = store.read_box
    store.read_box = lambda i, start, shape, level: (
        boxes.append((start, shape)) or read(i, start, shape)
    )
    read_crop(
        store,
        geometry,
        0,
        Crops(np.array([20.0, 50.0, 60.0]), np.array(1.0), np.array([1, 1, 1]), PATCH),
    )
    (start, shape), *others = boxes
    assert not others
    assert all(
        low - 2 <= a and a + n <= low + side + 2
        for low, side, a, n in zip((20, 50, 60), (8, 16, 16), start, shape)
    )


def test_slabs_change_nothing(monkeypatch):
    store, geometry = one(smooth((70, 64, 64)), (1.0, 1.0, 1.0))
    crop = whole_crops(geometry, {3: (32, 32, 32)}, PATCH)[0]
    at_once, _ = read_crop(store, geometry, 0, crop)
    monkeypatch.setattr(resample, "SLAB_BYTES", 7 * 4 * 64 * 64)
    in_slabs, _ = read_crop(store, geometry, 0, crop)
    assert np.array_equal(at_once, in_slabs)


def test_a_mask_keeps_its_labels_and_lies_where_the_image_lies():
    labels = np.zeros((20, 40, 40), np.int32)
    labels[5:15, 10:30, 12:20] = 7
    store, geometry = one(labels.astype(np.float32), (2.0, 1.0, 1.0), masks={0: labels})
    crop = Crops(np.array([3.0, 4.0, 2.0]), np.array(1.3), np.array([3, 2, 2]), PATCH)
    mask = read_crop_mask(store, geometry, 0, crop, "organ")
    image, inside = read_crop(store, geometry, 0, crop)
    assert set(np.unique(mask)) == {0, 7}
    assert not mask[~inside].any()
    clear = inside & ((image < 0.5) | (image > 6.5))
    assert np.array_equal(mask[clear] == 7, image[clear] > 3.5)


def test_a_planar_study_is_one_slice():
    store = memory(random_studies(1))
    geometry = Geometry.of(store.index)
    voxels, inside = read_crop(
        store, geometry, 0, whole_crops(geometry, {2: (8, 64, 64), 3: (8, 16, 16)}, PATCH)[0]
    )
    assert voxels.shape[0] == inside.shape[0] == 1
