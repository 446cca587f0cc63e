"""Policies of what blocks store: the same numbers, less memory or fewer products."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.models.blocks import Blocks
from mmv_jax.models.cost import stack_bytes
from mmv_jax.models.remat import LADDER, recomputed_blocks, remat_name
from mmv_jax.models.sizes import make_encoder


def encoder(remat, **options):
    options = {"depth": 3, "attention": "dense", "drop_path": 0.5, "registers": 1} | options
    return make_encoder("nano", (2, 4, 4), remat=remat, **options)


@pytest.fixture(scope="module")
def rows():
    ids = np.repeat(np.array([1, 2, 0], np.int32), [9, 19, 4])
    kinds = np.where(ids > 0, 100, 0).astype(np.int32)
    kinds[[0, 9]] = 1
    # Drawn by JAX: the loss below is that of these rows.
    patches = jax.random.normal(jax.random.key(0), (2, 32, 32))
    coords = np.asarray(jax.random.uniform(jax.random.key(1), (2, 32, 3))) * 300
    made = patches, coords, np.tile(kinds, (2, 1)), np.tile(ids, (2, 1))
    return tuple(map(jnp.asarray, made))


def init(made, rows):
    return jax.jit(made.init)(jax.random.key(2), *rows)


@pytest.fixture(scope="module")
def params(rows):
    return init(encoder("products"), rows)


def gradients(made, params, rows):
    def loss(params):
        rngs = {"dropout": jax.random.key(3)}
        out = made.apply(params, *rows, train=True, rngs=rngs)
        return (out["tokens"] ** 3).mean() + out["blocks"].mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def expected(rows, params):
    return gradients(encoder("products"), params, rows)


# Of three blocks, "every_2" has a whole group and a rest, and "every_5" a rest alone.
@pytest.mark.parametrize(
    "remat",
    ["every_2", "full", *(pytest.param(x, marks=pytest.mark.full) for x in ("none", "every_5"))],
)
def test_every_policy_gives_the_same_gradients_and_draws(rows, params, expected, remat):
    found = gradients(encoder(remat), params, rows)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )


def test_weights_start_the_same_under_every_policy(rows, params):
    found = init(encoder("every_2"), rows)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_older_configs_name_two_policies_by_a_truth_value():
    assert [remat_name(value) for value in (False, True)] == ["products", "full"]
    assert encoder(True).stored_bytes(True) == encoder("full").stored_bytes("full")


@pytest.mark.parametrize(
    "name, near", [("ful", "full"), ("product", "products"), ("every_0", "every_2"), ("x", "none")]
)
def test_a_policy_that_does_not_exist_is_refused_with_the_nearest(name, near):
    with pytest.raises(UserError, match=f"config.encoder.remat is '{name}'.*{near}"):
        encoder(name)


@pytest.mark.parametrize("mlp, qk_norm", [("gelu", False), ("swiglu", True)])
def test_along_the_ladder_memory_falls_and_products_grow(mlp, qk_norm):
    made = [encoder(name, depth=12, mlp=mlp, qk_norm=qk_norm, dtype="bfloat16") for name in LADDER]
    held = [one.stored_bytes(one.remat) for one in made]
    assert held == sorted(held, reverse=True) and len(set(held)) == len(held)
    again = [one.training_flops(1000, 50_000).again for one in made]
    assert again == sorted(again)
    assert [recomputed_blocks(name, 12) for name in LADDER] == [0, 0, 3, 4, 6, 12]


@pytest.mark.parametrize("remat", ["none", "products"])
@pytest.mark.parametrize("mlp, qk_norm", [("gelu", False), ("gelu_exact", False), ("swiglu", True)])
def test_the_gradient_keeps_what_the_closed_form_says(mlp, qk_norm, remat):
    # A scale alone reads what the MLP gives; the closed form counts with it.
    options = {"layer_scale": 0.1, "dtype": "bfloat16", "attention": "blocked"}
    made = Blocks(2, 3, mlp, qk_norm=qk_norm, remat=remat, **options)
    x, ids = jnp.zeros((1, 128, 192)), jnp.ones((1, 128), jnp.int32)
    places = jnp.zeros((1, 128, 3))
    params = jax.eval_shape(lambda: made.init(jax.random.key(0), x, places, ids))

    def kept(params, x):
        return jax.vjp(lambda *given: made.apply(*given, places, ids)[0], params, x)[1]

    arrays = jax.tree.leaves(jax.eval_shape(kept, params, x))
    # What every block leaves is stacked, [depth, ...].
    held = sum(a.size * a.dtype.itemsize for a in arrays if a.shape[:1] == (2,) and 128 in a.shape)
    sized = SimpleNamespace(width=192, dtype="bfloat16", qk_norm=qk_norm)
    assert held / 128 == pytest.approx(stack_bytes(sized, mlp, depth=2, remat=remat), rel=0.05)


def test_draws_are_those_of_older_runs(expected):
    # The loss of these weights, rows and keys before the draws were written out.
    assert float(expected[0]) == pytest.approx(-0.03177893, rel=1e-5)
