"""Rows in parts: no row moves between devices, and all come back in their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.ops.parts import cut, in_parts, join
from mmv_jax.parallel import make_mesh, on_mesh, row_sharding


@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_join_to_the_rows_that_were_cut(count):
    x = np.arange(24, dtype=np.int32).reshape(8, 3)

    @jax.jit
    def run(x):
        return join(cut(x, count)), in_parts(lambda part, rows: {"twice": 2 * rows}, count, x)

    joined, doubled = run(x)
    np.testing.assert_array_equal(joined, x)
    np.testing.assert_array_equal(doubled["twice"], 2 * x)


def test_a_part_has_rows_of_every_device_and_moves_none():
    mesh = make_mesh(4, 2)
    rows = np.arange(64, dtype=np.float32).reshape(16, 4)
    x = jax.device_put(rows, row_sharding(mesh))
    with on_mesh(mesh):
        run = jax.jit(lambda x: in_parts(lambda part, own: own * own, 2, x))
        text = run.lower(x).compile().as_text()
        found, first = run(x), jax.jit(lambda x: cut(x, 2)[0])(x)
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
    np.testing.assert_array_equal(found, rows * rows)
    # Each of eight devices holds two rows, and gives the first of them.
    np.testing.assert_array_equal(np.asarray(first)[:, 0], np.arange(0, 16, 2) * 4)


def test_a_gradient_through_parts_is_that_of_all_rows():
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    w = np.linspace(0.5, 1, 5, dtype=np.float32)

    def loss(w, count):
        y = in_parts(lambda part, rows: jnp.tanh(rows * w[None]), count, jnp.asarray(x))
        return jnp.log(jnp.exp(y @ y.T).sum())  # every row with every other

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    found, expected = (grad(w, count) for count in (4, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
