"""A checkpoint of one mesh under another: tensor, sequence, fsdp, one device."""

from functools import partial

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_meshes import run_config

from mmv_jax.checkpoint import Checkpoints
from mmv_jax.data.pipeline import BEGIN
from mmv_jax.parallel import make_mesh, on_mesh, shard_params
from mmv_jax.store.read import Store
from mmv_jax.train.feed import device_batches
from mmv_jax.train.loop import make_parts, make_rows
from mmv_jax.train.state import init_state, join_items, shapes_of_state, split_items
from mmv_jax.train.step import jit_step

SAVED = {"data": 2, "fsdp": 2, "tensor": 2}
OTHERS = {
    "sequence 2": {"fsdp": 4, "sequence": 2},
    "fsdp 8": {"fsdp": 8},
    "one device": {},
}
TRAINED, NEXT = 2, 2  # steps before the save, and after each restore


def mesh_of(axes):
    return make_mesh(**axes, devices=None if axes else jax.devices()[:1])


def train(config: ConfigDict, state, mesh, steps: range, batches) -> tuple:
    """The state after some steps, and their losses."""
    objective, tx, ema = make_parts(config)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    step, losses = jit_step(objective, tx, ema, shapes, mesh), []
    with on_mesh(mesh):
        for n in steps:
            state, metrics = step(state, batches(mesh, n))
            losses.append(float(metrics["loss"]))
    return state, losses


def on(mesh, shapes):
    """Shapes of a state as a mesh shares them out."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        shard_params(shapes, mesh),
    )


def restore(workdir, shapes):
    with Checkpoints(workdir, {}, every=1, keep=1) as checkpoints:
        step, items = checkpoints.restore_newest(split_items(shapes))
    assert step == TRAINED
    state = join_items(items)
    spread = jax.tree.map(lambda x, shape: x.sharding == shape.sharding, state, shapes)
    assert all(jax.tree.leaves(spread))
    return state


def save(workdir, state) -> None:
    with Checkpoints(workdir, {}, every=1, keep=1) as checkpoints:
        checkpoints.save_if_due(TRAINED, split_items(state))


@pytest.fixture(scope="module")
def run(store):
    config = run_config(store, mae=1.0)
    rows = make_rows(Store.open(store), config)
    objective, tx, _ = make_parts(config)
    return config, rows, shapes_of_state(objective, tx, rows.spec, mesh_of(SAVED), seed=0)


def test_a_state_saved_with_tensor_2_is_the_same_on_other_meshes(run, tmp_path):
    shapes, rng = run[2], np.random.default_rng(0)
    # Moments that are not zero, as after many steps.
    drawn = jax.tree.map(lambda x: (100 * rng.normal(size=x.shape)).astype(x.dtype), shapes)
    save(tmp_path, jax.tree.map(lambda x, shape: jax.device_put(x, shape.sharding), drawn, shapes))
    for name, axes in OTHERS.items():
        restored = jax.device_get(restore(tmp_path, on(mesh_of(axes), shapes)))
        jax.tree.map(partial(np.testing.assert_array_equal, err_msg=name), restored, drawn)


@pytest.mark.full
def test_a_run_goes_on_with_the_same_losses_on_another_mesh(run, tmp_path):
    config, rows, shapes = run
    objective, tx, _ = make_parts(config)

    def batches(mesh, n: int) -> dict:
        made = device_batches(rows, mesh, n, workers=0)
        batch = next(made)
        made.close()
        del batch[BEGIN]
        return batch

    mesh, later = mesh_of(SAVED), range(TRAINED, TRAINED + NEXT)
    state = init_state(objective, tx, rows.spec, mesh, seed=0)
    state, _ = train(config, state, mesh, range(TRAINED), batches)
    save(tmp_path, state)
    _, expected = train(config, state, mesh, later, batches)
    assert len(set(expected)) == NEXT
    for name, axes in OTHERS.items():
        mesh = mesh_of(axes)
        state = restore(tmp_path, on(mesh, shapes))
        _, losses = train(config, state, mesh, later, batches)
        apart = np.abs(np.array(losses) / expected - 1).max()
        print(name, apart, flush=True)  # pytest -s
        assert apart < 1e-5, name
