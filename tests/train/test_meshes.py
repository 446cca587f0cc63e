"""One device's losses on every mesh: rows, state, heads and tokens are shared out, and nothing else
changes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nano import drawn_state, nano_config

from mmv_jax.data.pipeline import BEGIN
from mmv_jax.errors import UserError
from mmv_jax.parallel import make_mesh, on_mesh
from mmv_jax.store.read import Store
from mmv_jax.train.feed import device_batches
from mmv_jax.train.flops import work_of
from mmv_jax.train.loop import make_parts, make_rows, row_shape
from mmv_jax.train.shares import check_split
from mmv_jax.train.state import init_state, shapes_of_state
from mmv_jax.train.step import jit_step

MESHES = {
    "data 8": {"data": 8},
    "fsdp 8": {"fsdp": 8},
    "data 2, fsdp 4": {"data": 2, "fsdp": 4},
    "data 2, fsdp 2, tensor 2": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp 4, sequence 2": {"fsdp": 4, "sequence": 2},
    "data 2, tensor 2, sequence 2": {"data": 2, "tensor": 2, "sequence": 2},
}
SHORT = "data 2, tensor 2, sequence 2"


def run_config(store, **weights):
    """Sides that two and four divide: heads, tokens of each kind of row."""
    config = nano_config(store, **weights)
    config.rows.update({"per_step": 8, "prefix": 64, "visible_share": 0.5})
    config.encoder.update({"depth": 2, "heads": 4, "drop_path": 0.2})
    config.objective.update({"decoder_width": 64, "decoder_heads": 4})
    return config


def losses(config, mesh, steps):
    """The losses of a run's first steps, and the devices' rows of the first batch."""
    objective, tx, ema = make_parts(config)
    rows = make_rows(Store.open(config.data.store), config)
    shapes = shapes_of_state(objective, tx, rows.spec, mesh, seed=0)
    state = init_state(objective, tx, rows.spec, mesh, seed=0)
    step, found, batches = jit_step(objective, tx, ema, shapes, mesh), [], []
    made = device_batches(rows, mesh, 0, workers=0)
    with on_mesh(mesh):
        for _, batch in zip(range(steps), made):
            del batch[BEGIN]
            batches.append(jax.device_get(batch))
            state, metrics = step(state, batch)
            found.append(float(metrics["loss"]))
    made.close()
    return np.array(found), batches[0]


def check(config, names, steps):
    expected, rows = losses(config, make_mesh(devices=jax.devices()[:1]), steps)
    assert np.isfinite(expected).all() and len(set(expected)) == steps
    apart = {}
    for name in names:
        found, own = losses(config, make_mesh(**MESHES[name]), steps)
        jax.tree.map(np.testing.assert_array_equal, own, rows)
        apart[name] = float(np.abs(found / expected - 1).max())
        print(name, apart[name], flush=True)  # pytest -s
    assert max(apart.values()) < 1e-5, apart


def loss_and_gradient(config, mesh):
    """The first loss, and the norm of the gradient of each parameter."""
    objective, tx, _ = make_parts(config)
    rows = make_rows(Store.open(config.data.store), config)
    state = drawn_state(shapes_of_state(objective, tx, rows.spec, mesh, seed=0))
    made = device_batches(rows, mesh, 0, workers=0)

    @jax.jit
    def compute(student, batch):
        given = {"teacher": {}, "batch": batch, "key": jax.random.key(1), "step": jnp.int32(0)}
        loss, gradient = jax.value_and_grad(lambda x: objective.loss(x, **given)[0])(student)
        return {"loss": loss, "norms": jax.tree.map(jnp.linalg.norm, gradient)}

    with on_mesh(mesh):
        batch = next(made)
        made.close()
        del batch[BEGIN]
        return jax.device_get(compute(state.student, batch))


def test_a_mesh_of_three_axes_gives_the_loss_and_the_gradient_of_one_device(store):
    config = run_config(store, mae=1.0)
    found, expected = (
        loss_and_gradient(config, mesh)
        for mesh in (make_mesh(**MESHES[SHORT]), make_mesh(devices=jax.devices()[:1]))
    )
    assert expected["loss"] > 0 and all(x > 0 for x in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)


@pytest.mark.full
def test_six_meshes_give_the_losses_of_one_device_for_twenty_steps(store):
    config = run_config(store)
    config.encoder.attention = (
        "blocked"  # a shard_map over heads, which the dense definition is not
    )
    check(config, MESHES, 20)


@pytest.mark.parametrize(
    "mesh, change, advice",
    [
        ({"tensor": 8}, {}, "tensor=8 does not divide the 4 heads of config.encoder.*tensor=4"),
        (
            {"tensor": 2, "sequence": 4},
            {},
            "sequence=4 × tensor=2 does not divide the 4 heads of config.encoder.*sequence=2",
        ),
        (
            {"data": 2, "sequence": 4},
            {"length": 126},
            "sequence=4 does not divide the 126 tokens of config.rows.length.*=3",
        ),
        (
            {"data": 4, "tensor": 2},
            {"heads": 3},
            "tensor=2 does not divide the 3 heads of config.obj",
        ),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused_with_what_to_set(mesh, change, advice):
    config = run_config("store", mae=1.0, dino=1.0)
    config.rows.length = change.get("length", 128)
    heads = change.get("heads", 4)
    config.objective.update({"decoder_heads": heads, "decoder_width": 16 * heads})
    objective = make_parts(config)[0]
    with pytest.raises(UserError, match=f"config.mesh.{advice}"):
        check_split(objective, work_of(objective, row_shape(config), rows=1), make_mesh(**mesh))


@pytest.mark.parametrize(
    "sizes, advice",
    [
        ({"data": 8, "tensor": 2}, "data=8 × fsdp=1 × tensor=2 = 16.*data=4.*fsdp=1.*tensor=2"),
        ({"tensor": 3}, "--config.mesh.data=8.*--config.mesh.tensor=1"),
        ({"data": 0}, "config.mesh.data is 0.*whole number"),
        ({"sequence": -1}, "config.mesh.sequence is -1.*whole number"),
    ],
)
def test_a_mesh_of_another_number_of_devices_says_which_would_fit(sizes, advice):
    with pytest.raises(UserError, match=advice):
        make_mesh(**sizes)
