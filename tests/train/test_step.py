"""One step: it learns, its teacher follows, and a value that is not finite touches nothing."""

import jax
import numpy as np
import pytest
from nano import nano_config

from mmv_jax.parallel import make_mesh, on_mesh
from mmv_jax.train.health import Health
from mmv_jax.train.loop import make_parts
from mmv_jax.train.state import join_items, shapes_of_state, split_items
from mmv_jax.train.step import jit_step

STEPS = 30


@pytest.fixture(scope="module")
def run(batch, drawn):
    """(a fresh state's maker, the step): all objectives on one device. A state is copied to where
    it lives, so one program serves all.
    """
    config = nano_config()
    config.steps = STEPS
    mesh = make_mesh(devices=jax.devices()[:1])
    objective, tx, ema = make_parts(config)
    spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    shapes = shapes_of_state(objective, tx, spec, mesh, seed=0)
    # Moments and counters begin at 0. The parameters are shared with test_objective.py.
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    begun = zeros.replace(student=drawn[0][0], teacher=drawn[0][1])
    jitted = jit_step(objective, tx, ema, shapes, mesh)
    where = jax.tree.map(lambda x: x.sharding, shapes)

    def step(state, batch):
        with on_mesh(mesh):
            return jitted(jax.device_put(state, where, may_alias=False), batch)

    return lambda: begun, step


@pytest.fixture(scope="module")
def fitted(run, batch):
    """The metrics of a run on the same two rows again and again."""
    fresh, step = run
    state, seen = fresh(), []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        seen.append(jax.device_get(metrics))
    return state, seen


@pytest.mark.parametrize(
    "term, share", [("loss", 0.8), ("mae", 0.75), ("dino", 0.85), ("ibot", 0.85)]
)
def test_a_few_rows_are_learnt_by_heart(fitted, term, share):
    values = [metrics[term] for metrics in fitted[1]]
    assert np.isfinite(values).all()
    assert np.mean(values[-5:]) < share * values[0], (values[0], values[-5:])


def test_a_healthy_run_is_silent(fitted):
    health, words = Health({"dino": 1.0, "prototypes": 32}), []
    for n, metrics in enumerate(fitted[1]):
        health.add(metrics["features"])
        if n % 10 == 0:
            words += health.verdict(
                {name: float(x) for name, x in metrics.items() if np.ndim(x) == 0}, health.figures()
            )
    assert words == []
    assert health.figures()["rank"] > 3


def test_padding_is_not_counted_as_tokens(fitted, batch):
    assert fitted[1][0]["tokens"] == (batch["kinds"] > 0).sum() < batch["kinds"].size


def test_the_teacher_is_a_moving_average_of_the_student(run, batch):
    fresh, step = run
    before = jax.device_get(step(fresh(), batch)[0])  # the first step's learning rate is 0
    after, metrics = jax.device_get(step(before, batch))
    assert set(before.teacher) == {"encoder", "dino_head", "ibot_head"}
    momentum = metrics["momentum"]
    student = {name: after.student[name] for name in before.teacher}
    expected = jax.tree.map(
        lambda old, new: momentum * old + (1 - momentum) * new, before.teacher, student
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.teacher, expected)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), after.student["encoder"], before.student["encoder"]
    )
    assert all(jax.tree.leaves(moved))


def test_a_nan_changes_nothing_but_the_counter(run, batch):
    fresh, step = run
    before = jax.device_get(step(fresh(), batch)[0])
    broken = batch | {
        "patches": np.where(np.arange(128)[None, :, None] == 5, np.float32("nan"), batch["patches"])
    }
    after, metrics = jax.device_get(step(before, broken))
    assert metrics["skipped"] == 1
    assert not np.isfinite(metrics["loss"])
    assert after.step == before.step + 1
    for name in ("student", "teacher", "opt_state", "key"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))


def test_the_items_of_a_checkpoint_join_to_the_same_state(run):
    state = run[0]()
    items = split_items(state)
    assert set(items) == {"encoder", "state"}
    assert jax.tree.structure(join_items(items)) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, join_items(items), state)
