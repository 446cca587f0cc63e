"""The projection head: cosines with prototypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.models.projection import ProjectionHead, unit

HEAD = ProjectionHead(prototypes=20, hidden=32, bottleneck=8)


def scores(params, x, head=HEAD):
    return head.scores(*head.apply(params, x))


@pytest.fixture(scope="module")
def params():
    return HEAD.init(jax.random.key(0), jnp.zeros((1, 16)))


def test_scores_are_cosines_computed_by_hand(params):
    x = jax.random.normal(jax.random.key(1), (5, 16))
    weights = jax.tree.map(np.asarray, params["params"])
    y = np.asarray(x)
    for name in ("first", "second"):
        y = np.asarray(jax.nn.gelu(y @ weights[name]["kernel"] + weights[name]["bias"][None]))
    y = y @ weights["bottleneck"]["kernel"] + weights["bottleneck"]["bias"][None]
    cosines = (y / np.linalg.norm(y, axis=-1, keepdims=True)) @ (
        weights["prototypes"] / np.linalg.norm(weights["prototypes"], axis=-1, keepdims=True)
    ).T
    np.testing.assert_allclose(scores(params, x), cosines, atol=1e-4)


def test_any_batch_axes_will_do(params):
    x = jax.random.normal(jax.random.key(2), (2, 3, 16))
    np.testing.assert_allclose(scores(params, x)[1, 2], scores(params, x[1, 2]), atol=1e-5)


def test_a_longer_prototype_scores_the_same(params):
    x = jax.random.normal(jax.random.key(3), (4, 16))
    longer = {"params": {**params["params"], "prototypes": params["params"]["prototypes"] * 7}}
    np.testing.assert_allclose(scores(longer, x), scores(params, x), atol=1e-5)


def test_the_gradient_of_an_empty_place_is_finite(params):
    grad = jax.jit(jax.grad(lambda x: scores(params, x).sum()))(jnp.zeros((1, 16)))
    assert jnp.all(jnp.isfinite(grad))
    assert jnp.all(jnp.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros(4))))


def test_bfloat16_scores_come_back_in_float32(params):
    x = jax.random.normal(jax.random.key(4), (4, 16))
    rounded = scores(params, x, HEAD.clone(dtype="bfloat16"))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, scores(params, x), atol=0.05)
