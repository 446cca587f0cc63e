"""A loop that is spread over rows: the same sums, and one exchange of gradients, not one a turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.ops.spread import over_rows
from mmv_jax.parallel import make_mesh, on_mesh, replicated, row_sharding
from mmv_jax.preflight import hlo

TURNS = 4


def scored(x, weights):
    """Parts of x [B, TURNS, D] in turn, each with all of the weights [D, K]."""
    return jax.lax.map(lambda part: jnp.tanh(part @ weights).sum(-1), x.swapaxes(0, 1)).swapaxes(
        0, 1
    )


def loss(x, weights):
    return jnp.square(over_rows(scored, (x,), (weights,))).sum()


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, TURNS, 6)).astype(np.float32), rng.normal(size=(6, 16)).astype(
        np.float32
    )


def test_rows_that_are_spread_give_the_same_gradients_and_send_one_sum(arrays):
    expected = jax.jit(jax.grad(loss, argnums=(0, 1)))(*arrays)
    mesh = make_mesh(data=4, fsdp=2, devices=jax.devices()[:8])
    placed = (
        jax.device_put(arrays[0], row_sharding(mesh)),
        jax.device_put(arrays[1], replicated(mesh)),
    )
    with on_mesh(mesh):
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*placed).compile()
    for found, wanted in zip(compiled(*placed), expected):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    sent = hlo.count(compiled.as_text()).sent
    assert set(sent) == {"all-reduce"}
    assert sent["all-reduce"] <= 2 * arrays[1].nbytes  # a ring sends an array not quite twice


def test_rows_that_the_mesh_does_not_divide_are_not_spread(arrays):
    with on_mesh(make_mesh(data=4, fsdp=2, devices=jax.devices()[:8])):
        found = jax.jit(loss)(arrays[0][:3], arrays[1])
    np.testing.assert_allclose(found, jax.jit(loss)(arrays[0][:3], arrays[1]), rtol=1e-5)
