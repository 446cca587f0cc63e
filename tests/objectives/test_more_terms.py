"""CAN, DIET, latent targets, and MAE with clean targets and partial decoding: each beside SciPy
or NumPy, and all together on one batch.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nano import drawn_weights, nano_config, write_studies
from scipy.special import log_softmax

from mmv_jax.errors import UserError
from mmv_jax.models.encoder import Encoder
from mmv_jax.objectives.can import contrast
from mmv_jax.objectives.diet import smoothed_cross_entropy
from mmv_jax.objectives.latent import latent_targets
from mmv_jax.objectives.mae import MaeTerm, draw_hidden, place_among
from mmv_jax.objectives.table import needs_of
from mmv_jax.objectives.term import CLEAN
from mmv_jax.parallel import make_mesh, on_mesh
from mmv_jax.store.read import Store
from mmv_jax.train.flops import expected_filling, step_flops
from mmv_jax.train.loop import make_parts, make_rows, make_views, row_shape
from mmv_jax.train.memory import stored_bytes
from mmv_jax.train.state import init_state
from mmv_jax.train.step import jit_step


def test_the_contrast_of_two_views_is_simclrs():
    rng = np.random.default_rng(0)
    x, study = rng.normal(size=(9, 5)).astype(np.float32), np.array([3, 7, 1, 7, 1, 3, 4, -1, -1])
    unit = (x / np.linalg.norm(x, axis=-1, keepdims=True))[:7]
    logits = unit @ unit.T / 0.1
    np.fill_diagonal(logits, -np.inf)
    pairs = [5, 3, 4, 1, 2, 0]  # the other view of the first six; one has none
    expected = -log_softmax(logits[:6], axis=-1)[np.arange(6), pairs].mean()
    found, slope = jax.device_get(jax.jit(jax.value_and_grad(contrast))(x, study))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(slope).all() and not slope[7:].any()


def test_the_cross_entropy_of_diet_is_smoothed_and_leaves_out_what_is_not_there():
    rng = np.random.default_rng(1)
    logits, label = rng.normal(size=(6, 11)), np.array([0, 10, 3, 3, -1, 5])
    there = label >= 0
    # a fifth of the weight is the true image's, the rest is spread over all eleven
    target = 0.2 * np.eye(11)[label[there]] + 0.8 / 11
    expected = -(target * log_softmax(logits[there], axis=-1)).sum(axis=-1).mean()
    loss = jax.jit(partial(smoothed_cross_entropy, smoothing=0.8))
    found = loss(logits.astype(np.float32), label, there)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_latent_targets_are_layer_norms_of_a_mean_of_layer_norms():
    blocks = np.random.default_rng(2).normal(2, 3, size=(4, 2, 5, 8))

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    expected = norm(norm(blocks).mean(axis=0))
    found, pull = jax.vjp(jax.jit(latent_targets), blocks.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (slope,) = pull(np.ones_like(found))
    assert not np.asarray(slope).any()


def test_hidden_tokens_are_drawn_and_placed_among_the_visible_ones():
    hidden = np.array([[0, 1, 1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]], bool)
    visible = np.array([[0, 3, -1], [0, 1, 2]], np.int32)

    @jax.jit
    def draw(hidden, visible):
        chosen = draw_hidden(jax.random.key(0), hidden, 3)
        return chosen, *place_among(visible, chosen, 8)

    chosen, order, index = jax.device_get(draw(hidden, visible))
    assert (np.sort(chosen[1]) == [-1, -1, 3]).all()
    assert len(set(chosen[0].tolist())) == 3 and set(chosen[0].tolist()) <= {1, 2, 4, 5}
    for b in (0, 1):
        there = order[b][order[b] >= 0]
        assert (np.diff(there) > 0).all() and (order[b][len(there) :] == -1).all()
        both = {*visible[b].tolist(), *chosen[b].tolist()} - {-1}
        assert set(there.tolist()) == both
        seen = visible[b] >= 0
        np.testing.assert_array_equal(order[b][index[b][seen]], visible[b][seen])
    assert index[0, 2] == -1


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A config of all terms here, its rows, and the shape of a step."""
    store = write_studies(tmp_path_factory.mktemp("terms") / "store")
    config = nano_config(store, mae=1.0, can=0.2, diet=0.2, latent=0.5)
    config.objective.update({"diet_classes": 16, "can_hidden": 32, "can_width": 16})
    config.objective.update({"clean_targets": True, "decode_share": 0.4, "latent_blocks": 2})
    return config, make_rows(Store.open(store), config)


def test_a_batch_is_learnt_by_every_term(setting):
    config, rows = setting
    objective, batch = make_parts(config)[0], jax.tree.map(jnp.asarray, rows.batch(0))
    shapes = jax.eval_shape(objective.init, jax.random.key(0), batch)
    student, teacher = map(drawn_weights, shapes)
    loss = jax.value_and_grad(objective.loss, has_aux=True)

    @jax.jit
    def step(student, n):
        # Signs of gradients stand in for Adam, which is compiled for longer.
        (_, seen), grads = loss(student, teacher, batch, jax.random.key(n), n)
        return jax.tree.map(lambda x, g: x - 3e-3 * jnp.sign(g), student, grads), seen

    check_learnt(step, student, 30)


@pytest.mark.full
def test_a_run_learns_a_batch_by_every_term(setting):
    config, rows = setting
    config = config.copy_and_resolve_references()
    config.steps, config.optimizer.peak_lr = 30, 1e-2
    mesh = make_mesh(devices=jax.devices()[:1])
    objective, tx, ema = make_parts(config)
    state = init_state(objective, tx, rows.spec, mesh, seed=0)
    step, batch = jit_step(objective, tx, ema, state, mesh), rows.batch(0)
    with on_mesh(mesh):
        check_learnt(lambda state, n: step(state, batch), state, config.steps)


def check_learnt(step, state, steps):
    seen = []
    for n in range(steps):
        state, metrics = step(state, np.int32(n))
        seen.append({name: float(metrics[name]) for name in ("mae", "can", "diet", "latent")})
    for name in seen[0]:
        # DIET's smoothed labels leave it a high floor, and half of MAE's patches are noise.
        share = {"diet": 0.97, "mae": 0.95}.get(name, 0.8)
        assert np.mean([line[name] for line in seen[-3:]]) < share * seen[0][name], name


def test_clean_patches_are_what_is_there_before_distortion(setting):
    config, rows = setting
    batch = rows.batch(0)
    where = batch["kinds"][:, : config.rows.prefix] == 100
    front = batch["patches"][:, : config.rows.prefix]
    clean = batch["clean_patches"]
    own = np.abs(front - clean)[where].max(axis=1)
    assert (own > 0).mean() > 0.4  # local crops in the prefix have no clean patches to compare
    plain = make_rows(Store.open(config.data.store), config)
    settings = vars(plain.settings) | {"augment": False}
    plain = type(plain)(Store.open(config.data.store), **settings).batch(0)
    filled = plain["clean_patches"].any(axis=-1)
    np.testing.assert_array_equal(
        plain["clean_patches"][filled], plain["patches"][:, : config.rows.prefix][filled]
    )


def test_rows_hold_clean_patches_only_where_they_are_asked_for():
    assert CLEAN not in needs_of({"mae": 1.0})
    assert CLEAN in needs_of({"mae": 1.0, "clean_targets": True})
    assert CLEAN not in needs_of({"latent": 1.0, "clean_targets": True})


def test_preflight_counts_every_term(setting):
    config, _ = setting
    objective, _, _ = make_parts(config)
    shape = row_shape(config)
    flops = step_flops(objective, shape, 2, expected_filling(make_views(config.crops), shape))
    assert {"can head", "diet head", "latent decoder", "decoder"} <= set(flops)
    # The part that is decoded costs a part.
    assert flops["decoder"].attention < flops["latent decoder"].attention
    kept = stored_bytes(objective, shape, 2, False)
    assert {"can scores", "diet scores", "latent decoder's blocks"} <= set(kept)


def test_a_share_that_is_none_is_one_sentence():
    encoder = Encoder.make("nano", (4, 8, 8))
    with pytest.raises(UserError, match="decode_share"):
        MaeTerm(encoder, decoder_width=24, decoder_heads=2, decode_share=0.0)
