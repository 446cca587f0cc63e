"""Each change of nnU-Net's against its definition; mirrors move masks, and only where asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mmv_jax.evaluate.finetune import native_intensity as changes
from mmv_jax.evaluate.finetune.native_changes import change

KEY = jax.random.key(0)


def image(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 12, 15), (6, 9, 8)], ids=["planar", "volume"])
def test_the_blur_is_a_gaussian_along_each_axis(shape):
    x, sigma = image(*shape), (0.5, 0.8, 1.0)
    expected = x
    for axis in range(3):
        if shape[axis] > 1:
            expected = ndimage.gaussian_filter1d(
                expected, sigma[axis], axis, mode="mirror", radius=3
            )
    np.testing.assert_allclose(changes.blur(x, jnp.array(sigma)), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 0.63, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1, 13, 16), (7, 9, 11)], ids=["planar", "volume"])
def test_a_coarser_grid_is_that_of_pytorch(shape, scale):
    torch = pytest.importorskip("torch")
    x = image(*shape)
    sides = [side for side in shape if side > 1]
    mode = {2: "bilinear", 3: "trilinear"}[len(sides)]
    given = torch.from_numpy(x.reshape(1, 1, *sides))
    coarse = torch.nn.functional.interpolate(
        given, [round(side * scale) for side in sides], mode="nearest-exact"
    )
    expected = torch.nn.functional.interpolate(coarse, sides, mode=mode)[0, 0].numpy()
    found = changes.coarsen(x, jnp.array(scale))
    np.testing.assert_allclose(found, expected.reshape(shape), atol=1e-5)


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_bends_within_the_range_and_keeps_mean_and_spread(gamma):
    x = image(3, 6, 7)
    share = (x - x.min()) / np.ptp(x)
    bent = share**gamma * np.ptp(x) + x.min()
    expected = (bent - bent.mean()) / bent.std(ddof=1) * x.std(ddof=1) + x.mean()
    found = np.asarray(changes.bend(x, jnp.array(gamma)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.mean() == pytest.approx(x.mean(), abs=1e-5)
    assert np.isfinite(changes.bend(np.ones((1, 4, 4), np.float32), jnp.array(gamma))).all()


def test_half_of_the_gammas_are_below_one():
    drawn = np.asarray(changes.draw_gamma(KEY, 4000))
    assert 0.7 <= drawn.min() < 0.71 and 1.49 < drawn.max() <= 1.5
    assert np.mean(drawn < 1) == pytest.approx(0.5, abs=0.03)
    # Evenly within each half, whose widths differ.
    assert np.mean(drawn[drawn < 1]) == pytest.approx(0.85, abs=0.01)


def test_the_shares_of_patches_are_those_of_nnunet():
    x = np.repeat(image(1, 1, 8, 8), 4000, axis=0)
    found = np.asarray(changes.change_intensity(jnp.asarray(x), KEY))
    changed = np.abs(found - x).max(axis=(1, 2, 3)) > 1e-3
    # None of the four happens to a patch in (1 - p) of the cases each.
    kept = (1 - 0.1) * (1 - 0.125) * (1 - 0.1) * (1 - 0.3)
    # A scale of nearly 1 changes no voxel of such a small grid: round(8 s) = 8 from 15/16 on.
    kept += (1 - 0.1) * 0.125 / 8 * (1 - 0.1) * (1 - 0.3)
    assert np.mean(~changed) == pytest.approx(kept, abs=0.025)


def batch_of(n=64):
    voxels = jnp.asarray(image(n, 2, 6, 6))
    return {"voxels": voxels, "truth": voxels > 0.5, "label": jnp.arange(n)}


def test_masks_turn_with_their_image_along_every_axis():
    given, found = batch_of(), changes.mirror(batch_of(), KEY)
    np.testing.assert_array_equal(found["truth"], found["voxels"] > 0.5)
    np.testing.assert_array_equal(found["label"], given["label"])
    ways = set()
    for before, after in zip(np.asarray(given["voxels"]), np.asarray(found["voxels"])):
        which = [
            axes
            for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
            if np.array_equal(np.flip(before, axes), after)
        ]
        assert len(which) == 1
        ways.add(which[0])
    assert len(ways) == 8


@pytest.mark.parametrize("mirrored", [True, False])
def test_patches_are_mirrored_where_the_task_allows_it_alone(mirrored):
    """A ramp to the right stays one under every other change."""
    ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 16), (64, 1, 16, 16))
    found = change({"voxels": ramp}, KEY, mirrored=mirrored)["voxels"]
    right = found[..., 9:14].mean(axis=(1, 2, 3)) > found[..., 2:7].mean(axis=(1, 2, 3))
    share = float(right.mean())
    assert share == pytest.approx(0.5, abs=0.2) if mirrored else share == 1.0
