"""The encoder: one kernel for planar and volumetric studies, and no study sees another."""

from functools import cache

import jax
import numpy as np
import pytest
from flax import traverse_util
from nano import drawn_weights

from mmv_jax.models.blocks import Block, segment_survives
from mmv_jax.models.sizes import make_encoder
from mmv_jax.ops.rotary import rotary_tables

PATCH = (2, 4, 4)


@cache  # one object for one encoder, so that it is traced once
def nano(**options):
    return make_encoder("nano", PATCH, **{"registers": 1, **options})


@pytest.fixture(scope="module")
def rows(packed):
    return packed([40, 50, 20])


@pytest.fixture(scope="module")
def params(rows):
    # Layer scales of 1 make the blocks count for as much as they ever will.
    return init(nano(layer_scale=1.0), rows)


def init(encoder, rows):
    """Drawn by NumPy: nothing is compiled for them."""
    return drawn_weights(jax.eval_shape(encoder.init, jax.random.key(0), *rows))


@cache
def jitted(encoder):
    return jax.jit(encoder.apply, static_argnames="train")


def apply(params, rows, encoder=None, **kwargs):
    return jax.device_get(jitted(encoder or nano(layer_scale=1.0))(params, *rows, **kwargs))


def test_a_planar_patch_is_embedded_as_one_slice_repeated_through_the_depth(rows, params):
    plane = np.random.default_rng(1).normal(size=(1, 128, 1, 16)).astype(np.float32)
    repeated = np.broadcast_to(plane, (1, 128, 2, 16)).reshape(1, 128, 32)
    embedded = apply(params, rows._replace(patches=repeated))["embedded"]
    patch = params["params"]["embed"]["patch"]
    kernel = patch["kernel"].reshape(2, 16, -1).sum(0)
    by_hand = plane[0, :, 0] @ kernel + patch["bias"]
    shown = np.asarray(rows.kinds)[0] == 100
    np.testing.assert_allclose(embedded[0, shown], by_hand[shown], atol=1e-5)


def test_cls_and_registers_are_learned_vectors_whatever_the_voxels(rows, params):
    embedded = apply(params, rows._replace(patches=np.ones_like(rows.patches)))["embedded"][0]
    learned = params["params"]["embed"]["learned"]
    np.testing.assert_array_equal(embedded[0], learned[0])
    np.testing.assert_array_equal(embedded[41], learned[1])
    np.testing.assert_array_equal(embedded[110:], np.zeros((18, 64)))


def test_padding_is_exactly_zero_and_the_rest_is_not(rows, params):
    tokens = apply(params, rows)["tokens"][0]
    assert np.all(tokens[110:] == 0)
    assert np.all(np.abs(tokens[:110]).sum(-1) > 0)


@pytest.mark.parametrize("attention", ["dense", "blocked"])
def test_features_do_not_change_by_one_bit_when_the_other_studies_do(
    packed, rows, params, attention
):
    encoder = nano(layer_scale=1.0, attention=attention)
    mine = slice(40, 90)
    before = apply(params, rows, encoder)["tokens"][:, mine]
    # other studies, other lengths; ours stays where it is, with another id
    others = packed([13, 27, 50, 30], seed=7)
    ours = np.zeros((1, 128), bool)
    ours[:, mine] = True
    changed = [
        np.where(ours.reshape(ours.shape + (1,) * (a.ndim - 2)), a, b) for a, b in zip(rows, others)
    ]
    changed[3] = np.where(ours, np.int32(3), others.segment_ids)
    np.testing.assert_array_equal(apply(params, changed, encoder)["tokens"][:, mine], before)


@pytest.mark.parametrize("attention", ["dense", "blocked"])
def test_features_do_not_change_by_one_bit_when_the_rest_becomes_padding(
    packed, rows, params, attention
):
    encoder = nano(layer_scale=1.0, attention=attention)
    before = apply(params, rows, encoder)["tokens"][:, :40]
    alone = packed([40])
    alone = [
        np.where((np.arange(128) < 40).reshape(1, 128, *(1,) * (a.ndim - 2)), a, b)
        for a, b in zip(rows, alone)
    ]
    np.testing.assert_array_equal(apply(params, alone, encoder)["tokens"][:, :40], before)


def test_no_gradient_crosses_from_one_study_to_another(rows, params):
    encoder = nano(layer_scale=1.0)

    def second(patches, params):
        seen = encoder.apply(params, *rows._replace(patches=patches))
        return (seen["tokens"][:, 40:90] ** 3).sum()

    grad = np.abs(jax.jit(jax.grad(second))(rows.patches, params)).sum(-1)[0]
    assert np.all(grad[:40] == 0)
    assert np.all(grad[90:] == 0)
    assert np.all(grad[42:90] > 0)
    assert np.all(grad[40:42] == 0)  # CLS and the register have no voxels


def test_moving_a_study_through_space_changes_nothing_but_turning_its_order_does(rows, params):
    before = apply(params, rows)["tokens"]
    along = np.array([160.0, -32.0, 7.5], np.float32)
    moved = apply(params, rows._replace(coords_mm=np.asarray(rows.coords_mm) + along))["tokens"]
    np.testing.assert_allclose(moved, before, atol=1e-3)
    turned = apply(params, rows._replace(coords_mm=np.asarray(rows.coords_mm)[..., ::-1]))["tokens"]
    assert np.abs(turned - before).max() > 0.1


def test_masked_patches_hide_their_voxels_and_nothing_else_is_replaced(rows, params):
    masked = (np.arange(128) % 3 == 0)[None]
    before = apply(params, rows, masked=masked)
    other = np.where(masked[..., None], np.float32(5), rows.patches)
    np.testing.assert_array_equal(
        apply(params, rows._replace(patches=other), masked=masked)["tokens"], before["tokens"]
    )
    learned = params["params"]["embed"]["learned"]
    hidden = masked & (np.asarray(rows.kinds) == 100)
    np.testing.assert_array_equal(
        before["embedded"][hidden], np.broadcast_to(learned[-1], (hidden.sum(), 64))
    )
    np.testing.assert_array_equal(
        before["embedded"][~hidden], apply(params, rows)["embedded"][~hidden]
    )


def test_the_scanned_stack_equals_its_blocks_one_by_one(rows, params):
    out = apply(params, rows)
    x, tables = (
        out["embedded"],
        jax.jit(rotary_tables, static_argnums=1)(np.asarray(rows.coords_mm) / np.float32(16), 32),
    )
    block = jax.jit(Block(heads=2, layer_scale=1.0).apply)
    for layer in range(2):
        own = jax.tree.map(lambda p, layer=layer: p[layer], params["params"]["blocks"]["stack"])
        x, _ = block({"params": own}, x, None, tables, rows.segment_ids)
        np.testing.assert_allclose(out["blocks"][layer], x, atol=1e-5)


def test_layers_start_from_different_draws(params):
    for path, stacked in traverse_util.flatten_dict(params["params"]["blocks"]["stack"]).items():
        assert path[-1] != "kernel" or np.abs(stacked[0] - stacked[1]).max() > 0


@pytest.mark.full  # in short: test_remat.py
def test_recomputed_blocks_give_the_same_gradients(rows):
    options = {"mlp": "swiglu", "qk_norm": True, "attention_bias": False}
    params = init(nano(**options), rows)

    def grads(encoder):
        return jax.jit(
            jax.grad(lambda params: (encoder.apply(params, *rows)["tokens"] ** 3).sum())
        )(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
        grads(nano(**options)),
        grads(nano(remat=True, **options)),
    )


def test_blocks_take_no_memory_where_nobody_reads_them(packed):
    rows = packed([100], length=128, rows=4)
    encoder = nano(depth=32, attention="dense")
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), *rows)
    compiled = (
        jax.jit(lambda params: encoder.apply(params, *rows)["tokens"]).lower(shapes).compile()
    )
    every_block = 32 * 4 * 128 * 64 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < every_block


def test_bfloat16_computes_near_float32_and_keeps_parameters_in_float32(rows, params):
    encoder = nano(layer_scale=1.0, dtype="bfloat16")
    fresh = jax.eval_shape(encoder.init, jax.random.key(0), *rows)
    assert all(p.dtype == np.float32 for p in jax.tree.leaves(fresh))
    tokens, exact = apply(params, rows, encoder)["tokens"], apply(params, rows)["tokens"]
    assert tokens.dtype == np.float32
    error = np.abs(tokens - exact).max()
    assert 0 < error < 0.1, error


def test_stochastic_depth_draws_once_a_segment_and_keeps_the_mean():
    ids = np.repeat(np.arange(500, dtype=np.int32), 2)[None]
    drawn = jax.jit(segment_survives)(jax.random.key(0), np.float32(0.8), ids)
    factors = np.asarray(drawn)[0].reshape(500, 2)
    np.testing.assert_array_equal(factors[:, 0], factors[:, 1])
    assert set(np.unique(factors)) == {0.0, 1.25}
    # the standard deviation is 0.5
    assert abs(float(factors[:, 0].mean()) - 1) < 4 * 0.5 / 500**0.5


def test_stochastic_depth_rises_from_nothing_to_its_rate_over_the_scanned_blocks(packed):
    rows = packed([1] * 120, rows=8, registers=0)
    encoder = nano(depth=3, drop_path=0.5, layer_scale=1.0)
    params = init(encoder, rows)
    rngs = {"dropout": jax.random.key(1)}
    blocks = apply(params, rows, encoder, train=True, rngs=rngs)["blocks"][:, :, :120]
    np.testing.assert_array_equal(blocks[0], apply(params, rows, encoder)["blocks"][0, :, :120])
    for layer, rate in [(1, 0.25), (2, 0.5)]:
        # attention and MLP both dropped
        unchanged = np.all(blocks[layer] == blocks[layer - 1], axis=-1).mean()
        assert abs(float(unchanged) - rate**2) < 4 * (rate**2 * (1 - rate**2) / 960) ** 0.5


def test_stochastic_depth_repeats_with_its_key_and_sleeps_outside_of_training(rows, params):
    encoder = nano(drop_path=0.5, layer_scale=1.0)
    draw = [
        apply(params, rows, encoder, train=True, rngs={"dropout": jax.random.key(k)})["tokens"]
        for k in (1, 1, 2)
    ]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert np.any(draw[0] != draw[2])
    np.testing.assert_array_equal(
        apply(params, rows, encoder)["tokens"], apply(params, rows)["tokens"]
    )


def test_patches_of_another_size_are_refused(rows, params):
    with pytest.raises(ValueError, match="32 voxels"):
        jax.eval_shape(make_encoder("nano", (4, 4, 4), registers=1).apply, params, *rows)
