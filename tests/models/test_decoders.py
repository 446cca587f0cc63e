"""Reconstruction and segmentation: tokens back to voxels."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nano import drawn_weights

from mmv_jax.models.cnn import UNet
from mmv_jax.models.mae_decoder import MaeDecoder, place_tokens
from mmv_jax.models.segmentation import (
    GlobalLocalDecoder,
    LinearDecoder,
    MultiScaleDecoder,
    doublings,
    spread_out,
)


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


MAE = MaeDecoder(width=48, depth=1, heads=2, patch_voxels=32, layer_scale=1.0)


@pytest.fixture(scope="module")
def case(packed):
    rows = packed([30, 40], length=96)
    visible = np.concatenate([np.arange(0, 70, 3), [-1] * 8]).astype(np.int32)[None]
    encoded, visible = jnp.asarray(normal(0, (1, visible.shape[1], 64))), jnp.asarray(visible)
    args = (encoded, visible, rows.coords_mm, rows.kinds, rows.segment_ids)
    return args, drawn_weights(jax.eval_shape(MAE.init, jax.random.key(1), *args))


apply = jax.jit(MAE.apply)  # once, so that it is traced once


def decode(params, args):
    return jax.device_get(apply(params, *args))


def test_tokens_go_to_their_places_and_padding_nowhere():
    x, index = np.arange(1, 4, dtype=np.float32).reshape(1, 3, 1), np.array([[4, -1, 0]], np.int32)
    placed, filled = jax.device_get(jax.jit(place_tokens, static_argnums=2)(x, index, 5))
    assert placed[0, :, 0].tolist() == [3, 0, 0, 0, 1]
    assert filled[0].tolist() == [True, False, False, False, True]


def test_reconstruction_covers_the_whole_row_and_is_zero_at_padding(case):
    args, params = case
    voxels = decode(params, args)
    assert voxels.shape == (1, 96, 32)
    assert np.all(voxels[:, 70:] == 0)
    assert np.all(np.abs(voxels[:, :70]).sum(-1) > 0)


def test_the_order_of_visible_tokens_does_not_matter(case):
    (encoded, visible, *rest), params = case
    encoded, visible = np.asarray(encoded), np.asarray(visible)
    order = np.random.default_rng(2).permutation(visible.shape[1])
    np.testing.assert_allclose(
        decode(params, (encoded[:, order], visible[:, order], *rest)),
        decode(params, (encoded, visible, *rest)),
        atol=1e-6,
    )


def test_reconstruction_of_a_study_is_blind_to_the_others(case):
    (encoded, *rest), params = case

    def first(encoded):
        return (MAE.apply(params, encoded, *rest)[:, :30] ** 2).sum()

    grad = np.abs(jax.jit(jax.grad(first))(encoded)).sum(-1)[0]
    assert np.all(grad[:10] > 0)  # places 0 to 27
    assert np.all(grad[10:] == 0)  # the other study, and padding


def test_hidden_places_differ_by_position_alone(case):
    (encoded, visible, coords, *rest), params = case
    hidden = [1, 4]
    voxels = decode(params, (encoded, visible, coords, *rest))
    assert np.abs(voxels[0, hidden[0]] - voxels[0, hidden[1]]).max() > 1e-3
    coords = np.asarray(coords)
    together = coords.copy()
    together[:, hidden[1]] = coords[:, hidden[0]]
    voxels = decode(params, (encoded, visible, together, *rest))
    np.testing.assert_allclose(voxels[0, hidden[0]], voxels[0, hidden[1]], atol=1e-5)


DECODERS = {
    "linear": LinearDecoder(2),
    "multi-scale": MultiScaleDecoder(2, width=16),
    "global-local": GlobalLocalDecoder(2, width=16),
}
GRIDS = {"planar": ((1, 4, 4), (1, 16, 16)), "volumetric": ((2, 4, 4), (4, 16, 16))}


def fit(model, inputs, target, steps):
    """Trains `model` on one study; returns its Dice before and after."""

    def loss_fn(params):
        logits = model.apply(params, *inputs())
        return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean(), logits

    tx = optax.adam(1e-2)

    @jax.jit
    def step(params, opt_state):
        grads, logits = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, logits

    @jax.jit
    def init(key):
        params = model.init(key, *inputs())
        return params, tx.init(params)

    (params, opt_state), dice = init(jax.random.key(0)), []
    for _ in range(steps):
        params, opt_state, logits = step(params, opt_state)
        found = np.asarray(logits).argmax(-1)
        dice.append(2 * (found * target).sum() / (found.sum() + target.sum()))
    return dice[0], dice[-1]


def ball(voxels):
    """A ball that fills a good part of the grid, off its centre; flat enough along z for the
    coarsest decoder.
    """
    z, y, x = np.meshgrid(
        *(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in voxels), indexing="ij"
    )
    return ((z / 3) ** 2 + (y - 0.2) ** 2 + (x + 0.1) ** 2 < 0.35).astype(np.int32)[None]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", GRIDS)
def test_segmentation_decoders_answer_on_the_voxel_grid(name, kind):
    tokens, voxels = GRIDS[kind]
    levels, cls = (
        jnp.asarray(np.zeros(shape, np.float32)) for shape in ((3, 5, *tokens, 48), (5, 48))
    )
    logits, _ = jax.eval_shape(
        lambda key: DECODERS[name].init_with_output(key, levels, cls, voxels), jax.random.key(0)
    )
    assert logits.shape == (5, *voxels, 2)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("linear", "volumetric"),
        ("multi-scale", "planar"),
        # its short form is that of evaluate/test_segmentation_heads.py
        pytest.param("global-local", "planar", marks=pytest.mark.full),
    ],
)
def test_segmentation_decoders_can_learn_one_study(name, kind):
    tokens, voxels = GRIDS[kind]
    levels, cls = (jnp.asarray(normal(*x)) for x in ((1, (3, 1, *tokens, 48)), (2, (1, 48))))
    before, after = fit(DECODERS[name], lambda: (levels, cls, voxels), ball(voxels), steps=60)
    assert before < 0.75
    # one interpolated score a token cannot follow a curve closely
    assert after > (0.8 if name == "linear" else 0.95)


PLANAR = (3, 1, *GRIDS["planar"][0], 48)  # levels of a planar study


@cache
def looked_at(name):
    """What a fresh decoder answers; then how an answer that is not fresh depends on its inputs."""
    decoder, voxels = DECODERS[name], GRIDS["planar"][1]

    @jax.jit
    def run(levels, cls):
        params = decoder.init(jax.random.key(0), levels, cls, voxels)
        fresh = decoder.apply(params, levels, cls, voxels)
        # some are 0 at first, and pass nothing on
        params = jax.tree.map(lambda leaf: leaf + 0.01, params)
        grads = jax.grad(
            lambda levels, cls: (decoder.apply(params, levels, cls, voxels) ** 2).sum(),
            argnums=(0, 1),
        )(levels, cls)
        return fresh, grads

    return lambda *seen: jax.device_get(run(*seen))


@pytest.mark.parametrize(
    "name, reads_cls, reads_early",
    [("linear", False, False), ("multi-scale", False, True), ("global-local", True, True)],
)
def test_decoders_read_what_they_say(name, reads_cls, reads_early):
    _, (of_levels, of_cls) = looked_at(name)(normal(1, PLANAR), normal(2, (1, 48)))
    assert np.any(of_levels[-1] != 0)
    assert np.any(of_levels[:-1] != 0) == reads_early
    assert np.any(of_cls != 0) == reads_cls


def test_a_place_is_spread_over_its_own_children():
    x = np.arange(2 * 3 * 8, dtype=np.float32).reshape(1, 1, 2, 3, 8)
    found = jax.device_get(jax.jit(lambda x: spread_out(x, (1, 2, 2)))(x))
    assert found.shape == (1, 1, 4, 6, 2)
    np.testing.assert_array_equal(found[0, 0, 2:4, 4:6].reshape(-1), x[0, 0, 1, 2])


def test_a_global_local_fit_begins_without_an_exchange():
    """Another CLS changes nothing until the first step was taken."""
    levels = normal(1, PLANAR)
    np.testing.assert_array_equal(
        *(looked_at("global-local")(levels, normal(n, (1, 48)))[0] for n in (2, 3))
    )


def test_a_study_is_answered_alike_beside_a_larger_one():
    """Where a study has no tokens, attention finds none."""
    decoder, (tokens, _) = DECODERS["global-local"], GRIDS["planar"]
    alone, cls = normal(1, (1, 1, *tokens, 48)), normal(2, (1, 48))
    beside = np.pad(alone, ((0, 0),) * 4 + ((0, 4), (0, 0)))
    init = jax.jit(decoder.init, static_argnums=3)
    params = jax.device_get(init(jax.random.key(0), alone, cls, (1, 4, 4)))
    params = jax.tree.map(lambda leaf: leaf + np.float32(0.01), params)
    # At the grid of the tokens nothing is convolved, so that only attention could tell.
    own, other = (
        jax.jit(decoder.apply, static_argnums=3)(params, x, cls, (1, *x.shape[3:5]))
        for x in (alone, beside)
    )
    np.testing.assert_allclose(np.asarray(other)[..., :4, :], own, atol=1e-5)


def test_grids_double_until_each_axis_is_there():
    assert doublings((1, 8, 8), (1, 128, 128)) == [
        (1, 8, 8),
        (1, 16, 16),
        (1, 32, 32),
        (1, 64, 64),
        (1, 128, 128),
    ]
    assert doublings((4, 3, 3), (32, 42, 42)) == [
        (4, 3, 3),
        (8, 6, 6),
        (16, 12, 12),
        (32, 24, 24),
        (32, 42, 42),
    ]


@pytest.mark.parametrize("voxels", [(1, 37, 64), (5, 20, 30)], ids=["planar", "volumetric"])
def test_the_unet_takes_any_size(voxels):
    image = jnp.asarray(np.zeros((2, *voxels, 1), np.float32))
    logits, _ = jax.eval_shape(lambda key: UNet(3).init_with_output(key, image), jax.random.key(0))
    assert logits.shape == (2, *voxels, 3)


def test_the_unet_learns_one_study():
    target = ball((1, 16, 16))
    image = jnp.array(
        target[..., None] + 0.3 * np.random.default_rng(0).normal(size=(*target.shape, 1)),
        jnp.float32,
    )
    _, after = fit(UNet(2, width=8, depth=1), lambda: (image,), target, steps=30)
    assert after > 0.95
