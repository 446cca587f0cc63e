"""What travels to the devices, and what they make of it."""

from functools import partial

import jax
import numpy as np
import pytest
from memory_store import make

from mmv_jax.data.wire import PARTS, SCALE, decode, encode, to_steps

ROWS = make(clean=True)


def on_grid(x):
    """The nearest values that travel."""
    return to_steps(x).astype(np.float32) / np.float32(SCALE)


@pytest.fixture(scope="module")
def raw():
    """A batch before it travels: the step's rows with other values in every patch."""
    batch = ROWS.batch(0)
    rng = np.random.default_rng(0)
    for name in ("patches", "clean_patches"):
        there = batch[name].any(axis=-1, keepdims=True)
        deep = ROWS.shape.patch[0]
        tokens = batch[name].shape[1]
        slices = batch[name].reshape(4, tokens, deep, -1)
        # What is the same in every slice stays so, since only a planar patch may be repeated.
        same = (slices == slices[:, :, :1]).all(axis=(2, 3), keepdims=True)
        noise = rng.normal(0, 0.7, slices.shape).astype(np.float32)
        slices = np.where(same, noise[:, :, :1], noise)
        batch[name] = slices.reshape(batch[name].shape) * there
    return batch


def test_a_device_makes_the_batch_that_the_host_rounds(raw):
    sent = encode(raw, ROWS.shape)
    on_device = jax.jit(partial(decode, shape=ROWS.shape))(sent)
    for batch in (decode(sent, ROWS.shape), on_device):
        assert set(batch) == set(raw)
        for name, array in raw.items():
            expected = on_grid(array) if name.endswith("patches") else array
            assert np.asarray(batch[name]).dtype == array.dtype
            np.testing.assert_array_equal(np.asarray(batch[name]), expected, err_msg=name)


def test_what_travels_is_less_than_half():
    sent, batch = ROWS.sent(0), ROWS.batch(0)
    slices, most = sent["slices"], batch["patches"].shape[1] * ROWS.shape.patch[0]
    assert slices.dtype == np.int16 and slices.shape[1] % -(-most // PARTS) == 0
    assert slices.nbytes < batch["patches"].nbytes / 2


def test_values_that_do_not_travel_are_cut_to_those_that_do():
    found = on_grid(np.float32([0.1, -1.0, 4.5, -9.0]))
    np.testing.assert_allclose(found, [0.1, -1.0, 4 - 2**-13, -4.0], atol=2**-14)
