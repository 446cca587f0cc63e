"""The projection head: cosines with prototypes."""

from functools import partial

import jax
import numpy as np
import pytest

from mmv_jax.models.projection import ProjectionHead, unit

HEAD = ProjectionHead(prototypes=20, hidden=32, bottleneck=8)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@partial(jax.jit, static_argnames="head")
def scores(params, x, head=HEAD):
    return head.scores(*head.apply(params, x))


@pytest.fixture(scope="module")
def params():
    zeros = np.zeros((1, 16), np.float32)
    return jax.device_get(jax.jit(HEAD.init)(jax.random.key(0), zeros))


def test_scores_are_cosines_computed_by_hand(params):
    x, weights = normal(1, 4, 16), params["params"]
    y = x.astype(float)
    for name in ("first", "second"):
        y = y @ weights[name]["kernel"] + weights[name]["bias"][None]
        # GELU by a hyperbolic tangent
        y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    y = y @ weights["bottleneck"]["kernel"] + weights["bottleneck"]["bias"][None]
    cosines = (y / np.linalg.norm(y, axis=-1, keepdims=True)) @ (
        weights["prototypes"] / np.linalg.norm(weights["prototypes"], axis=-1, keepdims=True)
    ).T
    np.testing.assert_allclose(scores(params, x), cosines, atol=1e-4)


def test_any_batch_axes_will_do(params):
    x = normal(2, 2, 4, 16)
    found = np.asarray(scores(params, x))
    np.testing.assert_allclose(found[1], scores(params, x[1]), atol=1e-5)


def test_a_longer_prototype_scores_the_same(params):
    x = normal(3, 4, 16)
    longer = {"params": {**params["params"], "prototypes": params["params"]["prototypes"] * 7}}
    np.testing.assert_allclose(scores(longer, x), scores(params, x), atol=1e-5)


def test_the_gradient_of_an_empty_place_is_finite(params):
    def summed(x, features):
        return scores(params, x).sum() + unit(features).sum()

    zeros = np.zeros((1, 16), np.float32), np.zeros(4, np.float32)
    for grad in jax.jit(jax.grad(summed, argnums=(0, 1)))(*zeros):
        assert np.isfinite(grad).all()


def test_bfloat16_scores_come_back_in_float32(params):
    x = normal(4, 4, 16)
    rounded = scores(params, x, HEAD.clone(dtype="bfloat16"))
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, scores(params, x), atol=0.05)
