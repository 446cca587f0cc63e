"""The mesh and its rules: the same numbers on eight devices as on one, with parameters spread and
rows apart.
"""

import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from mmv_jax.errors import UserError
from mmv_jax.models.sizes import make_encoder
from mmv_jax.parallel import (
    initialize_distributed,
    make_mesh,
    named_process,
    on_mesh,
    parameter_axes,
    replicated,
    row_sharding,
    shard_params,
)

ENCODER = make_encoder("nano", (2, 4, 4), registers=1)


@pytest.fixture(scope="module")
def rows():
    ids = np.repeat(np.array([1, 2, 3, 0], np.int32), [10, 30, 16, 8])
    kinds = np.where(ids > 0, 100, 0).astype(np.int32)
    kinds[[0, 10, 40]] = 1
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(8, 64, 32)).astype(np.float32)
    coords = rng.uniform(0, 300, (8, 64, 3)).astype(np.float32)
    return patches, coords, np.tile(kinds, (8, 1)), np.tile(ids, (8, 1))


def value_and_grad(params, rows):
    return jax.value_and_grad(lambda params: (ENCODER.apply(params, *rows)["tokens"] ** 3).mean())(
        params
    )


@pytest.mark.parametrize("data, fsdp", [(2, 4), pytest.param(8, 1, marks=pytest.mark.full)])
def test_eight_devices_compute_what_one_computes(rows, data, fsdp):
    shapes, rng = jax.eval_shape(ENCODER.init, jax.random.key(2), *rows), np.random.default_rng(2)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes)
    one = jax.jit(value_and_grad)(params, rows)
    mesh = make_mesh(data, fsdp)
    spread = jax.device_put(params, shard_params(params, mesh))
    with on_mesh(mesh):
        step = jax.jit(value_and_grad, out_shardings=(replicated(mesh), shard_params(params, mesh)))
        compiled = step.lower(spread, jax.device_put(rows, row_sharding(mesh))).compile()
        eight = compiled(spread, jax.device_put(rows, row_sharding(mesh)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5),
        one,
        jax.device_get(eight),
    )
    text = compiled.as_text()
    assert "all-to-all" not in text  # rows never change places
    assert ("all-gather" in text) == (fsdp > 1)  # weights, and nothing else:
    gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text)
    # no whole batch of activations
    assert not [
        shape for shape in gathered if np.prod([int(n) for n in shape.split(",")]) >= 8 * 64 * 64
    ]


def test_every_device_holds_its_share_of_the_large_parameters(rows):
    mesh = make_mesh(2, 4)
    shapes = jax.eval_shape(ENCODER.init, jax.random.key(2), *rows)
    shardings = shard_params(shapes, mesh)
    for shape, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings)):
        share = np.prod(sharding.shard_shape(shape.shape)) / np.prod(shape.shape)
        assert share == (1 / 4 if np.prod(shape.shape) >= 2**14 else 1), (shape.shape, sharding)


@pytest.mark.parametrize(
    "shape, parts, axes",
    [
        ((1024, 3072), 8, (None, "parameter")),
        # the stack of layers is never cut, though 8 divides 24
        ((24, 4096, 1024), 8, (None, "parameter", None)),
        # of a stack the axis of the inputs, though the other one is longer
        ((24, 1024, 4096), 8, (None, "parameter", None)),
        ((24, 1023, 4096), 8, (None, None, "parameter")),
        ((512, 512), 8, (None, "parameter")),
        ((1000, 1023), 8, ("parameter", None)),
        ((999, 1023), 8, (None, None)),
        ((1024, 3072), 1, (None, None)),
        ((64,), 8, (None,)),
        ((), 8, ()),
    ],
)
def test_a_parameter_is_cut_along_one_of_its_last_two_axes_that_divides(shape, parts, axes):
    assert parameter_axes(shape, parts) == axes


def test_a_mesh_that_splits_hidden_channels_cuts_kernels_along_the_longer_axis():
    for shape, axes in (
        ((24, 1024, 4096), (None, None, "parameter")),
        ((24, 4096, 1024), (None, "parameter", None)),
    ):
        assert parameter_axes(shape, 8, hidden=2) == axes


def test_moments_follow_their_parameters_by_shape():
    mesh = make_mesh(2, 4)
    params = {"kernel": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    state = {
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        "mu": params,
        "teacher": {"params": params},
    }
    shardings = shard_params(state, mesh)
    assert shardings["step"].spec == PartitionSpec()
    assert (
        shardings["mu"]["kernel"]
        == shardings["teacher"]["params"]["kernel"]
        == shard_params(params, mesh)["kernel"]
    )


def test_mesh_axes_are_left_to_the_compiler():
    assert make_mesh(4, 2).axis_types == (AxisType.Auto,) * 4


def test_rows_lie_on_all_devices_and_everything_else_is_whole():
    mesh = make_mesh(2, 4)
    assert row_sharding(mesh).shard_shape((16, 64, 32)) == (2, 64, 32)
    assert replicated(mesh).shard_shape((16, 64)) == (16, 64)


@pytest.mark.parametrize(
    "data, fsdp, fitting", [(3, 1, (8, 1)), (8, 4, (2, 4)), (1, 3, (1, 8)), (1, 16, (1, 8))]
)
def test_a_mesh_that_does_not_fit_says_which_one_would(data, fsdp, fitting):
    with pytest.raises(
        UserError, match=f"this run has 8.*data={fitting[0]} --config.mesh.fsdp={fitting[1]}"
    ):
        make_mesh(data, fsdp)


def test_one_machine_alone_joins_nobody(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    initialize_distributed()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    initialize_distributed()
    assert not jax.distributed.is_initialized()


def test_an_indexed_job_stands_in_for_the_process_id():
    environment = {
        "JAX_COORDINATOR_ADDRESS": "host:1234",
        "JAX_NUM_PROCESSES": "4",
        "JOB_COMPLETION_INDEX": "3",
    }
    assert named_process(environment) == ("host:1234", 4, 3)


@pytest.mark.parametrize(
    "processes, process", [(None, None), ("2", None), ("2", "2"), ("two", "0")]
)
def test_half_an_environment_is_the_users_to_mend(processes, process):
    named = {
        "JAX_COORDINATOR_ADDRESS": "host:1234",
        "JAX_NUM_PROCESSES": processes,
        "JAX_PROCESS_ID": process,
    }
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES and JAX_PROCESS_ID must be numbers"):
        named_process({name: value for name, value in named.items() if value is not None})


JOINED = """
import jax
from mmv_jax.parallel import initialize_distributed, make_mesh, row_sharding
initialize_distributed()
initialize_distributed()  # the second time does nothing
mesh = make_mesh(data=4)
own = jax.numpy.full((2, 3), jax.process_index() + 1.0)
rows = jax.make_array_from_process_local_data(row_sharding(mesh), own)
print("TOTAL", rows.shape, float(jax.jit(lambda x: x.sum())(rows)))
"""


def test_two_processes_join_through_their_environment():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", **address}
    command, pipe = [sys.executable, "-c", JOINED], subprocess.PIPE
    processes = [
        subprocess.Popen(
            command,
            env={**environment, "JAX_PROCESS_ID": str(i)},
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for i in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert "TOTAL (4, 3) 18.0" in out, err
