"""The loop on eight devices: what it refuses, how it ends, and that its checkpoints fit one
device.
"""

import shutil

import jax
import numpy as np
import pytest
from nano import draw_begin, loss_alone, nano_config

from mmv_jax.checkpoint import STEPS, Checkpoints, restore_encoder
from mmv_jax.data.pipeline import BEGIN
from mmv_jax.errors import UserError
from mmv_jax.parallel import make_mesh, on_mesh
from mmv_jax.store.read import Store
from mmv_jax.train import feed, loop
from mmv_jax.train.log import read_metrics
from mmv_jax.train.state import join_items, shapes_of_state, split_items
from mmv_jax.train.step import jit_step


def on_eight(store, **weights):
    config = nano_config(store, **weights)
    config.rows.per_step = 8
    config.mesh = {"data": 2, "fsdp": 4}
    return config


# Self-distillation has all that a state holds but a decoder, and compiles in half the time.
TERMS = {"self-distillation": {"dino": 1.0}, "all of them": {}}


@pytest.fixture(
    scope="module",
    params=["self-distillation", pytest.param("all of them", marks=pytest.mark.full)],
)
def eight(store, tmp_path_factory, request):
    """A finished run of four steps on data=2, fsdp=4: its workdir and its last state."""
    workdir = tmp_path_factory.mktemp("eight")
    config = on_eight(store, **TERMS[request.param])
    config.update({"steps": 4, "checkpoint": {"every": 2}})
    config.encoder.mlp = "swiglu"
    with pytest.MonkeyPatch.context() as patch:
        draw_begin(patch)
        return config, workdir, loop.pretrain(config, workdir)


def test_large_parameters_stay_spread(eight):
    spread = [
        x
        for x in jax.tree.leaves(eight[2])
        if np.prod(x.sharding.shard_shape(x.shape)) * 4 == x.size
    ]
    assert len(spread) >= 4 * 3  # of student, teacher and both moments
    assert all(x.size >= 2**14 for x in spread)


def test_one_device_goes_on_where_eight_stopped(eight, tmp_path):
    config, workdir, _ = eight
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / STEPS / "4")
    mesh = make_mesh(devices=jax.devices()[:1])
    rows = loop.make_rows(Store.open(config.data.store), config)
    objective, tx, ema = loop.make_parts(config)
    shapes = shapes_of_state(objective, tx, rows.spec, mesh, seed=config.seed)
    make, steps = (jit_step, 2) if config.objective.mae else (loss_alone, 1)
    step_fn = make(objective, tx, ema, shapes, mesh)
    with Checkpoints(tmp_path / "run", {}, every=100, keep=1) as checkpoints:
        first, items = checkpoints.restore_newest(split_items(shapes))
    assert first == 2
    state, losses = join_items(items), []
    with on_mesh(mesh):
        for _, batch in zip(range(steps), loop.device_batches(rows, mesh, first, 0)):
            del batch[BEGIN]
            state, metrics = step_fn(state, batch)
            losses.append(float(metrics["loss"]))
    # Eight devices add up the rows in another order: a few units in the last place of float32.
    np.testing.assert_allclose(
        losses, [line["loss"] for line in read_metrics(workdir)[2 : 2 + steps]], rtol=3e-6
    )


def test_a_checkpoint_says_what_it_was_trained_with(eight):
    config, workdir, state = eight
    params, carried = restore_encoder(workdir)
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(state.teacher["encoder"]))
    assert carried["encoder"]["mlp"] == "swiglu"
    assert carried["pretraining"]["key_fingerprint"] == "0123"
    assert carried["pretraining"]["patients"] == sorted(
        f"{ndim}{i:015x}" for ndim in (2, 3) for i in range(4)
    )
    rows = loop.make_rows(Store.open(config.data.store), config)
    assert carried["pretraining"]["studies"] == rows.digest
    assert carried["pretraining"]["begin"] == [*rows.plan.begin_of(3)]  # of the last of four steps
    assert carried["pretraining"]["begin"][0] > 0


@pytest.mark.parametrize(
    "name, value, was",
    [
        ("optimizer.peak_lr", 1e-4, "0.003"),
        ("encoder.registers", 2, "1"),
        ("seed", 7, "0"),
        ("steps", 8, "4"),
    ],
)
def test_another_config_in_the_same_workdir_is_refused_by_name(eight, name, value, was):
    config, workdir, _ = eight
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=f"{name} was {was} and is now {value}"):
        loop.pretrain(config, workdir)


def test_a_run_does_not_go_on_with_other_studies(eight, tmp_path, monkeypatch):
    """One study of the store has been ingested anew, with another background; nothing of it could
    be seen in the config.
    """
    config, workdir, _ = eight
    opened = Store.open

    def mended(path):
        store = opened(path)
        store.index.loc[3, "occupancy"] = bytes(len(store.index.loc[3, "occupancy"]))
        return store

    monkeypatch.setattr(Store, "open", mended)
    with pytest.raises(UserError, match="no longer those that this run began with"):
        loop.pretrain(config, workdir)


def test_a_finished_run_says_so_and_does_nothing(eight, capsys, monkeypatch):
    config, workdir, state = eight
    # no second state is made beside the one that is restored
    monkeypatch.delattr(loop, "init_state")
    again = loop.pretrain(config, workdir)
    assert "All 4 steps are done" in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), jax.device_get(state))


@pytest.mark.parametrize("rows, better", [(12, 16), (0, 8)])
def test_rows_that_cannot_be_shared_out_are_refused(store, tmp_path, rows, better):
    config = on_eight(store)
    config.rows.per_step = rows
    with pytest.raises(UserError, match=rf"per_step is {rows}.*8 devices.*per_step={better}\."):
        loop.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_process_reads_the_rows_of_its_own_devices():
    sharding = loop.row_sharding(make_mesh(2, 4))
    assert feed.rows_of_this_process(sharding, 16) == list(range(16))


WRONG = {
    "config.optimizer: got an unexpected keyword argument 'wieght_decay'": (
        lambda c: c.optimizer.update(wieght_decay=0.1)
    ),
    "config.encoder.depht does not exist": lambda c: c.encoder.update(depht=3),
    "config.encoder.patch is \\(8, 8\\), but has three sides": lambda c: c.encoder.update(
        patch=(8, 8)
    ),
    "config.checkpoint.every is 0, but must be a whole number": lambda c: c.checkpoint.update(
        every=0
    ),
    "config.health.every is 0, but must be a whole number": lambda c: c.health.update(every=0),
}


@pytest.mark.parametrize("message, change", WRONG.items(), ids=WRONG.keys())
def test_a_mistake_in_a_group_is_told_before_anything_is_written(store, tmp_path, message, change):
    config = on_eight(store)
    change(config)
    with pytest.raises(UserError, match=message):
        loop.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
