import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.bac.model import (
    INPUTS,
    PixelConv,
    make_model,
    segmentation_loss,
    to_channels,
    to_pixels,
)
from mmv_jax.bac.tiles import Tile, pack
from mmv_jax.errors import UserError


@pytest.fixture(scope="module")
def model():
    config = {
        # a list, as JSON has it
        "encoder": dict(size="nano", depth=1, patch=[1, 8, 8], registers=1),
        "head": dict(channels=4),
        "tiles": dict(tile=32, overlap=8, per_row=2),
    }
    module, shape = make_model(config)
    row = shape.empty(1)
    params = jax.jit(lambda key, inputs: module.init(key, *inputs)["params"])(
        jax.random.key(0), [row[name] for name in INPUTS]
    )
    return jax.jit(lambda *inputs: module.apply({"params": params}, *inputs)), shape


def tile(seed: int, breast: np.ndarray) -> Tile:
    return Tile(
        np.random.default_rng(seed).normal(size=(32, 32)).astype(np.float32),
        breast,
        (0, 0),
        (0.1, 0.1),
    )


def test_a_tile_is_blind_to_the_other_tile_of_its_row(model):
    apply, shape = model
    whole = np.ones((32, 32), bool)
    logits = [
        np.asarray(apply(*(pack([tile(0, whole), other], shape, 1)[name] for name in INPUTS)))
        for other in (tile(1, whole), tile(2, whole))
    ]
    np.testing.assert_array_equal(logits[0][0, 0], logits[1][0, 0])
    assert (logits[0][0, 1] != logits[1][0, 1]).any()


def test_logits_of_a_tile_do_not_depend_on_dropped_patches_of_another(model):
    apply, shape = model
    whole, half = np.ones((32, 32), bool), np.arange(32)[:, None] < np.full((32, 32), 16)
    first = apply(*(pack([tile(1, half), tile(0, whole)], shape, 1)[name] for name in INPUTS))[0, 1]
    second = apply(*(pack([tile(1, whole), tile(0, whole)], shape, 1)[name] for name in INPUTS))[
        0, 1
    ]
    np.testing.assert_allclose(first, second, atol=2e-5)


def test_a_pixel_convolution_is_a_convolution():
    x = jax.random.normal(jax.random.key(1), (2, 7, 7, 3))
    module = PixelConv(4)
    params = module.init(jax.random.key(0), x)
    kernel = params["params"]["kernel"]["kernel"].reshape(3, 3, 3, 4)
    wanted = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(module.apply(params, x), wanted, atol=1e-5)


def test_patches_that_no_halving_of_pixels_leads_to_are_refused():
    for patch in ([1, 8, 16], [1, 12, 12], [1, 1, 1]):
        config = {
            "encoder": dict(size="nano", depth=1, patch=patch, registers=1),
            "head": dict(channels=4),
            "tiles": {},
        }
        with pytest.raises(UserError, match=r"config.encoder.patch is .*one power of 2"):
            make_model(config)


def test_blocks_of_pixels_as_channels_and_back():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(jnp.float32)
    as_channels = to_channels(x)
    np.testing.assert_array_equal(as_channels[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(to_pixels(as_channels), x)


def test_the_loss_is_cross_entropy_and_dice_over_what_counts():
    rng = np.random.default_rng(0)
    logits, truth = (
        rng.normal(size=(1, 2, 8, 8)).astype(np.float32),
        (rng.random((1, 2, 8, 8)) < 0.2).astype(np.float32),
    )
    counted = (rng.random((1, 2, 8, 8)) < 0.7).astype(np.float32)
    entropy, dice = segmentation_loss(*map(jnp.asarray, (logits, truth, counted)))
    p, t = (1 / (1 + np.exp(-logits)))[counted > 0], truth[counted > 0]
    assert float(entropy) == pytest.approx(
        -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p)), rel=1e-5
    )
    assert float(dice) == pytest.approx(
        1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1), rel=1e-5
    )
