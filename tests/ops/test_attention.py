"""Every backend against the definition, forward and backward, and no way from one segment to another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.ops.attention import segment_attention

LAYOUTS = {"equal": [64] * 4, "mixed": [5, 120, 49, 1], "one token": [1], "one segment": [256], "all padding": []}


def row_of(lengths, total=256):
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return jnp.asarray(np.pad(ids, (0, total - len(ids)))[None], jnp.int32)


def draw(shape, n=3):
    return tuple(jax.random.normal(jax.random.key(i), shape) for i in range(n))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_blocked_equals_dense(layout):
    ids = row_of(layout)
    q, k, v, g = draw((1, 256, 2, 32), 4)
    ours, pull = jax.vjp(lambda *x: segment_attention(*x, ids, backend="blocked"), q, k, v)
    dense, dense_pull = jax.vjp(lambda *x: segment_attention(*x, ids, backend="dense"), q, k, v)
    np.testing.assert_allclose(ours, dense, atol=1e-5)
    for a, b in zip(pull(g), dense_pull(g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
