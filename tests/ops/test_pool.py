"""Pooling by segment and gathering by place, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmv_jax.ops.pool import gather_tokens, segment_mean


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), max_size=5), st.integers(0, 2**16))
def test_segment_mean_equals_a_loop(lengths, seed):
    length, segments = 48, 6
    ids = np.zeros((1, length), np.int32)
    ids[0, : sum(lengths)] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    rng = np.random.default_rng(seed)
    x, where = rng.normal(size=(1, length, 3)).astype(np.float32), rng.random((1, length)) < 0.7
    got = segment_mean(jnp.array(x), jnp.array(ids), segments, jnp.array(where))
    for s in range(segments):
        chosen = x[0][(ids[0] == s + 1) & where[0]]
        np.testing.assert_allclose(
            got[0, s], chosen.mean(0) if len(chosen) else np.zeros(3), atol=1e-5
        )


def test_segment_mean_of_one_segment_ignores_the_others_to_the_bit():
    ids = jnp.repeat(jnp.array([[1, 2, 0]]), 16, axis=1)
    x = jax.random.normal(jax.random.key(0), (1, 48, 5))
    other = x.at[:, 16:].set(jax.random.normal(jax.random.key(1), (1, 32, 5)) * 1e4)
    np.testing.assert_array_equal(segment_mean(x, ids, 2)[:, 0], segment_mean(other, ids, 2)[:, 0])


def test_gather_takes_tokens_by_place_and_zeros_for_none():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    got = gather_tokens(x, jnp.array([[4, -1, 0], [2, 2, -1]]))
    np.testing.assert_array_equal(got[0], np.stack([x[0, 4], np.zeros(3), x[0, 0]]))
    np.testing.assert_array_equal(got[1], np.stack([x[1, 2], x[1, 2], np.zeros(3)]))


def test_gather_sends_no_gradient_to_the_token_that_stands_in_for_none():
    grad = jax.grad(lambda x: gather_tokens(x, jnp.array([[-1, 1]])).sum())(jnp.ones((1, 3, 2)))
    np.testing.assert_array_equal(grad[0, :, 0], [0, 1, 0])
