"""Schedules by hand, and what weight decay touches."""

import jax
import numpy as np
import optax
import pytest
from nano import nano_config

from mmv_jax.errors import UserError
from mmv_jax.train.loop import make_parts
from mmv_jax.train.optimizer import (
    kernels,
    make_ema,
    make_learning_rate,
    make_optimizer,
    make_teacher_temperature,
)


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth():
    # Four times the rows: twice the peak.
    rate = make_learning_rate(steps=100, rows=32, peak_lr=1e-3, at_rows=8, warmup=0.1)
    expected = {0: 0.0, 5: 1e-3, 10: 2e-3, 55: (2e-3 + 2e-5) / 2, 100: 2e-5, 200: 2e-5}
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5, atol=1e-12)


def test_a_constant_rate_falls_at_the_end_and_is_that_of_a_longer_run_until_then():
    same = {"rows": 8, "peak_lr": 2e-3, "at_rows": 8}
    rate = make_learning_rate(100, warmup=0.1, decay=0.2, **same)
    # Half of the way down, a root of a half is gone.
    middle = 2e-3 * (1 - 0.99 * 0.5**0.5)
    expected = {0: 0.0, 5: 1e-3, 10: 2e-3, 80: 2e-3, 90: middle, 100: 2e-5, 200: 2e-5}
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5, atol=1e-12)
    longer = make_learning_rate(200, warmup=0.05, decay=0.1, **same)
    np.testing.assert_array_equal(*(jax.jit(jax.vmap(of))(np.arange(81)) for of in (rate, longer)))


@pytest.mark.parametrize("decay", [0.0, 0.95, -0.1, 2.0])
def test_a_decay_that_is_no_share_of_the_steps_after_the_warm_up_is_refused(decay):
    with pytest.raises(UserError, match="from 1 to 90 after the warm-up"):
        make_learning_rate(100, 8, peak_lr=1e-3, at_rows=8, warmup=0.1, decay=decay)


@pytest.mark.parametrize("steps, warmup", [(0, 0.1), (1, 0.1), (10, 1.0)])
def test_a_run_that_is_all_warm_up_is_refused(steps, warmup):
    config = nano_config()
    config.steps, config.optimizer.warmup = steps, warmup
    with pytest.raises(
        UserError, match=rf"config.steps is {steps}.*--config.steps to {max(2, steps + 1)} or more"
    ):
        make_parts(config)


@pytest.mark.parametrize(
    "steps, rows, start, values",
    [
        (1000, 16, 0.9, {0: 0.81, 500: 0.905, 1000: 1.0, 2000: 1.0}),  # twice the rows: the square
        (1000, 4, 0.81, {0: 0.9}),  # half the rows: the root
        # a short run: 20 / steps at least is taken from the student
        (100, 8, 0.996, {0: 0.8, 50: 0.9}),
        (10, 8, 0.996, {0: 0.0}),
    ],
)
def test_the_teachers_momentum(steps, rows, start, values):
    momentum = make_ema(steps, rows, start=start, at_rows=8)
    for step, value in values.items():
        np.testing.assert_allclose(momentum(step), value, atol=1e-6)


def test_the_teachers_temperature_rises_for_three_tenths_of_the_run():
    temperature = make_teacher_temperature(100)
    for step, value in {0: 0.04, 15: 0.055, 30: 0.07, 90: 0.07}.items():
        np.testing.assert_allclose(temperature(step), value, rtol=1e-6)


@pytest.fixture(scope="module")
def params(batch):
    student, _ = jax.eval_shape(make_parts(nano_config())[0].init, jax.random.key(0), batch)
    return jax.tree.map(lambda x: np.ones(x.shape, x.dtype), student)


def test_only_kernels_of_dense_layers_decay(params):
    decayed = jax.tree_util.tree_leaves_with_path(kernels(params))
    assert {path[-1].key for path, yes in decayed if yes} == {"kernel"}
    assert {path[-1].key for path, yes in decayed if not yes} >= {
        "bias",
        "scale",
        "learned",
        "mask_token",
        "prototypes",
        "attention_scale",
    }


def test_weight_decay_takes_its_share_and_nothing_else_moves_without_a_gradient(params):
    tx = make_optimizer(100, 8, peak_lr=1e-2, at_rows=8, warmup=0.02, weight_decay=0.1)
    state, nothing = jax.jit(tx.init)(params), jax.tree.map(np.zeros_like, params)
    update = jax.jit(tx.update)
    for rate in (0.0, 5e-3):  # the warm-up's first two steps
        updates, state = update(nothing, state, params)
        for path, found in jax.tree_util.tree_leaves_with_path(jax.device_get(updates)):
            np.testing.assert_allclose(
                found, -rate * 0.1 if path[-1].key == "kernel" else 0.0, rtol=1e-5
            )


def test_a_burst_of_the_gradient_is_clipped():
    params = {"kernel": np.zeros((2, 2), np.float32)}
    tx = make_optimizer(100, 8, peak_lr=1e-2, at_rows=8, warmup=0.02, weight_decay=0.0, clip=3.0)
    burst = {"kernel": np.full((2, 2), 1e6, np.float32)}
    state = jax.jit(lambda params: tx.update(burst, tx.init(params), params)[1])(params)
    momentum = optax.tree_utils.tree_get(state, "mu")["kernel"]
    # a norm of 3 is 1.5 each; Adam takes a tenth of it
    np.testing.assert_allclose(momentum, 0.1 * 1.5, rtol=1e-5)


def moves(params, steps=1, **options):
    """By how much each parameter moves in each step, at a gradient of 1 and a rate of 1e-2."""
    encoder = make_parts(nano_config())[0].encoder
    base = {"peak_lr": 1e-2, "at_rows": 8, "warmup": 0.0, "weight_decay": 0.0, "decay": 0.9}
    tx = make_optimizer(10, 8, **{**base, "encoder": encoder, "clip": 1e9, **options})
    params = {name: params[name] for name in ("encoder", "dino_head")}
    ones, seen = jax.tree.map(np.ones_like, params), []
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(tx.init, params))
    update = jax.jit(tx.update)
    _, state = update(ones, state, params)  # the warm-up's step, at a rate of 0
    for _ in range(steps):
        updates, state = update(ones, state, params)
        leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(updates))
        seen.append({jax.tree_util.keystr(path): -1e2 * leaf for path, leaf in leaves})
    return seen


QKV = "['encoder']['blocks']['stack']['project']['qkv']['kernel']"
PATCH, LEARNED = "['encoder']['embed']['patch']['kernel']", "['encoder']['embed']['learned']"
NORM, PROTOTYPES = "['encoder']['norm']['scale']", "['dino_head']['prototypes']"


def test_layers_and_the_patch_kernel_have_rates_of_their_own(params):
    (found,) = moves(params, layer_decay=0.5, patch_rate=0.2)
    np.testing.assert_allclose(found[QKV][:, 0, 0], [0.25, 0.5], rtol=1e-3)  # two blocks
    np.testing.assert_allclose(found[LEARNED], 0.125, rtol=1e-3)
    np.testing.assert_allclose(found[PATCH], 0.025, rtol=1e-3)
    np.testing.assert_allclose(found[NORM], 1.0, rtol=1e-3)
    np.testing.assert_allclose(found[PROTOTYPES], 1.0, rtol=1e-3)


def test_prototypes_are_frozen_at_first_and_may_decay(params):
    found = moves(params, steps=3, frozen_prototypes=0.3)
    assert [bool(step[PROTOTYPES].any()) for step in found] == [False, False, True]
    assert all(step[QKV].all() for step in found)
    still = moves(params, weight_decay=0.5, decay_prototypes=True)[0]
    np.testing.assert_allclose(still[PROTOTYPES], 1.5, rtol=1e-3)


def test_the_weight_decay_rises_on_a_cosine(params):
    found = moves(params, steps=9, weight_decay=0.2, weight_decay_end=0.4)
    rate = [step[NORM][0] for step in found]
    decay = [step[QKV][0, 0, 0] / own - 1 for step, own in zip(found, rate)]
    expected = [0.4 - 0.1 * (np.cos(np.pi * step / 9) + 1) for step in range(1, 10)]
    np.testing.assert_allclose(decay, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"layer_decay": 0.0}, "layer_decay is 0.0. Set it above 0"),
        ({"patch_rate": 1.5}, "patch_rate is 1.5"),
        ({"frozen_prototypes": 1.0}, "frozen_prototypes is 1.0"),
    ],
)
def test_factors_out_of_their_range_are_refused(params, options, says):
    with pytest.raises(UserError, match=says):
        moves(params, **options)


def test_the_teachers_temperature_is_set_by_the_config():
    temperature = make_teacher_temperature(100, start=0.05, end=0.1, warmup=0.5)
    np.testing.assert_allclose([temperature(n) for n in (0, 25, 50, 99)], [0.05, 0.075, 0.1, 0.1])
    with pytest.raises(UserError, match="temperatures from 0.03 on"):
        make_teacher_temperature(100, start=0.01)
