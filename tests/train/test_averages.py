"""Averages of the student, and which weights of a run are evaluated."""

import jax
import numpy as np
import pytest
from nano import drawn_state, nano_config

from mmv_jax.checkpoint import Checkpoints, restore_encoder
from mmv_jax.errors import UserError
from mmv_jax.parallel import make_mesh, on_mesh
from mmv_jax.released import restore_weights
from mmv_jax.train.loop import make_parts, row_shape
from mmv_jax.train.optimizer import make_ema
from mmv_jax.train.state import join_items, shapes_of_state, split_items
from mmv_jax.train.step import jit_step


@pytest.fixture(scope="module")
def run():
    """States after each of six steps on one batch, with two averages."""
    config = nano_config(koleo=1.0)  # the term that is compiled soonest
    config.ema.averages = (0.2, 0.1)
    shape, mesh = row_shape(config), make_mesh(1, 1, devices=jax.devices()[:1])
    objective, tx, ema = make_parts(config)
    rng = np.random.default_rng(0)
    batch = shape.empty(2)
    batch["patches"][:] = rng.normal(size=batch["patches"].shape)
    batch["segment_ids"][:, :64], batch["kinds"][:, :64] = 1, 100
    batch["kinds"][:, 0], batch["study"][:, 0], batch["is_global"][:, 0] = 1, (0, 1), True
    shapes = shapes_of_state(objective, tx, shape.spec(2), mesh, seed=0, averages=2)
    step = jit_step(objective, tx, ema=ema, state=shapes, mesh=mesh)
    state, states = drawn_state(shapes), []
    with on_mesh(mesh):
        for _ in range(6):
            state, _ = step(state, batch)
            states.append(jax.device_get(state))
    return ema, states


def test_an_average_is_even_at_first_and_then_covers_its_share(run):
    _, states = run
    kernels = [s.student["encoder"]["embed"]["patch"]["kernel"].astype(float) for s in states]
    for name, memory in (("0", 4), ("1", 2)):  # of 20 steps
        expected = 0.0
        for step, kernel in enumerate(kernels):
            weight = max(1 / (step + 1), 1 / memory)
            expected = (1 - weight) * expected + weight * kernel
        found = states[-1].averages[name]["embed"]["patch"]["kernel"]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_checkpoint_gives_back_each_of_the_weights(run, tmp_path):
    state = run[1][-1]
    with Checkpoints(tmp_path, {}, every=1, keep=1) as checkpoints:
        checkpoints.save_if_due(1, split_items(state), now=True)
    wanted = {
        "encoder": state.averages["0"],
        "average 2": state.averages["1"],
        "student": state.student["encoder"],
        "teacher": state.teacher["encoder"],
    }
    for name, tree in wanted.items():
        jax.tree.map(
            np.testing.assert_array_equal, restore_weights(tmp_path, name).trees["encoder"], tree
        )
    jax.tree.map(np.testing.assert_array_equal, restore_encoder(tmp_path)[0], wanted["encoder"])
    jax.tree.map(np.testing.assert_array_equal, join_items(split_items(state)), state)


def test_without_averages_the_teacher_is_evaluated_and_others_are_refused(run, tmp_path):
    state = run[1][-1].replace(averages={})
    items = split_items(state)
    assert items["encoder"] is state.teacher["encoder"]
    assert set(items["state"]) == {"step", "student", "teacher", "opt_state", "key"}
    assert join_items(items).averages == {}
    with Checkpoints(tmp_path, {}, every=1, keep=1) as checkpoints:
        checkpoints.save_if_due(1, items, now=True)
    jax.tree.map(
        np.testing.assert_array_equal,
        restore_weights(tmp_path, "teacher").trees["encoder"],
        items["encoder"],
    )
    with pytest.raises(UserError, match="'average 2', which the checkpoint does not have"):
        restore_weights(tmp_path, "average 2")


@pytest.mark.parametrize("averages", [(0.0,), (1.5,), (0.1, 0.2, 0.3)])
def test_a_share_that_is_none_is_one_sentence(averages):
    with pytest.raises(UserError, match="config.ema.averages"):
        make_ema(10, 1, start=0.9, at_rows=1, averages=averages)
