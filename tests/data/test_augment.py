import numpy as np
import pytest

from mmv_jax.data.augment import Augmentation, distort, mirrored_axes, normalise
from mmv_jax.errors import UserError


def rngs(n):
    return [np.random.default_rng(i) for i in range(n)]


@pytest.mark.parametrize(
    "hu, value",
    [(-1000, -1.0), (-2000, -1.0), (-300, 0.0), (400, 1.0), (3000, 1.0), (50, 0.5)],
    ids=["air", "outside", "middle", "top", "metal", "tissue"],
)
def test_hounsfield_units_have_one_window(hu, value):
    assert normalise(np.full((1, 1, 1), hu, np.float32), "HU", 0.0, 1.0) == pytest.approx(value)


def test_raw_values_are_scaled_by_their_percentiles_and_clipped_mildly():
    values = np.array([[[20.0, 70.0, 120.0, 125.0, 500.0]]], np.float32)
    assert normalise(values, "raw", 20.0, 120.0)[0, 0] == pytest.approx([-1, 0, 1, 1.1, 1.2])


def test_a_study_of_one_value_stays_finite():
    assert np.isfinite(normalise(np.full((1, 2, 2), 7.0, np.float32), "raw", 7.0, 7.0)).all()


def test_a_shape_is_never_jittered():
    values = np.array([[[0.0, 1.0]]], np.float32)
    assert normalise(values, "shape", 0.0, 1.0, np.random.default_rng(0))[0, 0].tolist() == [-1, 1]


def test_the_window_jitter_is_mild_and_centred():
    values = np.linspace(-900, 300, 100, dtype=np.float32).reshape(1, 10, 10)
    plain = normalise(values, "HU", 0.0, 1.0)
    jittered = np.stack([normalise(values, "HU", 0.0, 1.0, rng) for rng in rngs(400)])
    assert np.abs(jittered - plain).max() < 0.25
    assert np.abs(jittered.mean(axis=0) - plain).max() < 0.02
    assert jittered.std(axis=0).min() > 0.01


def test_distortions_keep_the_order_of_tissues():
    steps = np.repeat(np.linspace(-1, 1, 8, dtype=np.float32), 64).reshape(8, 8, 8)
    for rng in rngs(200):
        means = distort(steps, rng)[2:-2].mean(axis=(1, 2))
        assert (np.diff(means) > 0).all()


def test_distortions_are_drawn_as_often_as_they_say():
    flat = np.zeros((1, 32, 32), np.float32)
    edge = np.where(np.arange(32) < 16, -0.5, 0.5).astype(np.float32) * np.ones(
        (1, 32, 1), np.float32
    )
    noisy = np.mean([distort(flat, rng).std() > 1e-6 for rng in rngs(1000)])
    blurred = np.mean(
        [
            np.abs(np.diff(np.median(distort(edge, rng)[0], axis=0)) > 0.1).sum() > 1
            for rng in rngs(1000)
        ]
    )
    assert 0.45 < noisy < 0.55
    assert 0.15 < blurred < 0.25


def test_a_planar_crop_is_not_blurred_through_its_one_slice():
    image = np.random.default_rng(0).normal(0, 0.1, (1, 16, 16)).astype(np.float32)
    assert all(distort(image, rng).shape == image.shape for rng in rngs(20))


@pytest.mark.parametrize(
    "modality, extent, axes",
    [
        ("CXR", (0.0, 400.0, 350.0), set()),
        ("CXR", (0.0, 60.0, 60.0), set()),
        ("CT", (300.0, 350.0, 350.0), set()),
        ("CT", (30.0, 31.0, 31.0), {0, 1, 2}),
        ("MG", (0.0, 240.0, 180.0), {2}),
        ("unheard of", (0.0, 240.0, 180.0), set()),
    ],
    ids=["radiograph", "small radiograph", "chest", "nodule", "breast", "unknown"],
)
def test_only_what_has_no_side_is_mirrored(modality, extent, axes):
    drawn = np.stack([mirrored_axes(rng, modality, np.array(extent)) for rng in rngs(64)])
    assert set(np.flatnonzero(drawn.any(axis=0))) == axes
    assert all(0.25 < drawn[:, axis].mean() < 0.75 for axis in axes)


NONE = Augmentation(*[0.0] * 8)


def test_at_zero_nothing_is_changed():
    values = np.linspace(-1200.0, 600.0, 60, dtype=np.float32).reshape(1, 6, 10)
    plain = normalise(values, "HU", 0.0, 1.0)
    for rng in rngs(20):
        seen = normalise(values, "HU", 0.0, 1.0, rng, NONE)
        assert np.array_equal(distort(seen, rng, NONE), plain)
        assert not mirrored_axes(rng, "MG", np.array([0.0, 60.0, 60.0]), NONE).any()


@pytest.mark.parametrize("name", ["window_shift", "window_scale", "gamma", "blur_voxels", "noise"])
def test_each_strength_changes_more_where_it_is_larger(name):
    x = np.random.default_rng(0).uniform(-800, 200, (1, 16, 16)).astype(np.float32)
    always = {"blur_share": 1.0} if name == "blur_voxels" else {"noise_share": 1.0}

    def change(value: float) -> float:
        strength = Augmentation(**dict.fromkeys(vars(NONE), 0.0) | always | {name: value})
        seen = [
            distort(normalise(x, "HU", 0.0, 1.0, rng, strength), rng, strength) for rng in rngs(40)
        ]
        return float(np.mean(np.abs(np.stack(seen) - normalise(x, "HU", 0.0, 1.0))))

    low = 0.8 if name == "blur_voxels" else 0.2  # a fifth of a voxel is not to be seen
    assert change(2 * low) > 1.3 * change(low) > 0


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("noise", -0.1, "must be 0 or more"),
        ("blur_share", 1.5, "at most 1"),
        ("window_scale", 1.0, "below 1"),
    ],
)
def test_an_impossible_strength_is_named(name, value, says):
    with pytest.raises(UserError, match=f"config.augment.{name} .*{says}"):
        Augmentation(**{name: value})
