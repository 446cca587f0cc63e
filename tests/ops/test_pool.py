"""Pooling by segment and gathering by place, against loops."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmv_jax.ops.pool import gather_tokens, segment_mean

mean = jax.jit(segment_mean, static_argnums=2)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), max_size=5), st.integers(0, 2**16))
def test_segment_mean_equals_a_loop(lengths, seed):
    length, segments = 48, 6
    ids = np.zeros((1, length), np.int32)
    ids[0, : sum(lengths)] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    rng = np.random.default_rng(seed)
    x, where = rng.normal(size=(1, length, 3)).astype(np.float32), rng.random((1, length)) < 0.7
    got = np.asarray(mean(x, ids, segments, where))
    for s in range(segments):
        chosen = x[0][(ids[0] == s + 1) & where[0]]
        np.testing.assert_allclose(
            got[0, s], chosen.mean(0) if len(chosen) else np.zeros(3), atol=1e-5
        )


def test_segment_mean_of_one_segment_ignores_the_others_to_the_bit():
    ids = np.repeat(np.array([[1, 2, 0]], np.int32), 16, axis=1)
    x = np.random.default_rng(0).normal(size=(1, 48, 5)).astype(np.float32)
    other = x.copy()
    other[:, 16:] *= -1e4
    found, expected = (np.asarray(mean(each, ids, 2)) for each in (other, x))
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    assert np.any(found[:, 1] != expected[:, 1])


def test_gather_takes_tokens_by_place_and_zeros_for_none():
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    index = np.array([[4, -1, 0], [2, 2, -1]], np.int32)
    got = np.asarray(jax.jit(gather_tokens)(x, index))
    np.testing.assert_array_equal(got[0], np.stack([x[0, 4], np.zeros(3), x[0, 0]]))
    np.testing.assert_array_equal(got[1], np.stack([x[1, 2], x[1, 2], np.zeros(3)]))


def test_gather_sends_no_gradient_to_the_token_that_stands_in_for_none():
    grad = jax.jit(jax.grad(lambda x, index: gather_tokens(x, index).sum()))
    found = np.asarray(grad(np.ones((1, 3, 2), np.float32), np.array([[-1, 1]], np.int32)))
    np.testing.assert_array_equal(found[0, :, 0], [0, 1, 0])
