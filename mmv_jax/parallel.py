"""The mesh, ONE table of axis rules, and the start-up of processes. Nothing above this file names a
mesh axis.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmv_jax.errors import UserError

RULES = (  # what an axis means -> where it lives
    ("rows", ("data", "fsdp")),  # rows of a batch: every device has its own
    ("tokens", None),
    ("heads", None),
    ("width", None),
    ("hidden", None),
    ("parameter", "fsdp"),  # the one axis of a parameter that is spread (see `parameter_axes`)
)
# parameters with fewer values stay whole on every device: gathering them would cost more than they
# take
SPREAD_FROM = 2**14


def make_mesh(data: int = 1, fsdp: int = 1, devices: list | None = None) -> Mesh:
    """A mesh with the axes `data` (replicas) and `fsdp` (devices that share one copy of the state;
    neighbours, since it is spoken along most).

    Args:
      data: replicas.
      fsdp: devices that share one copy of the state.
      devices: instead of all of this run's; those of a topology, for example.
    Raises:
      UserError: data * fsdp is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if data * fsdp != len(devices):
        # The advice keeps fsdp where it divides the devices.
        fitting = fsdp if len(devices) % fsdp == 0 else len(devices)
        raise UserError(
            f"config.mesh is data={data} × fsdp={fsdp} = {data * fsdp} devices, but this run has"
            f" {len(devices)}. Set --config.mesh.data={len(devices) // fitting}"
            f" --config.mesh.fsdp={fitting}."
        )
    # Explicit axes are jax.make_mesh's default, and make matmuls refuse what the compiler can
    # resolve by itself.
    names, types = ("data", "fsdp"), (AxisType.Auto, AxisType.Auto)
    try:
        return jax.make_mesh((data, fsdp), names, axis_types=types, devices=devices)
    except NotImplementedError:
        # A slice of TPUs whose sides make neither number, as 16 x 16 chips for 32 x 8: a side is
        # then cut, and an axis goes round a part of it.
        return Mesh(
            mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True),
            names,
            axis_types=types,
        )


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Inside, the models' logical axes are those of `mesh`; trace a step in here."""
    # The mesh for JAX, the rules for Flax, which turns logical axes into those of the mesh.
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield mesh


def parameter_axes(shape: tuple[int, ...], parts: int) -> tuple[str | None, ...]:
    """Logical axes of a parameter: the larger of its last two dimensions that `parts` divides is
    "parameter", the last one where they are equal.

    Axes before the last two are never spread: they stack layers, and a scan that slices a spread
    axis would gather the whole stack each step.

    Example:
      >>> parameter_axes((24, 1024, 3072), parts=8)
      (None, None, 'parameter')
    """
    axes: list[str | None] = [None] * len(shape)
    # Axes whose length `parts` divides, so that every device has an equal share.
    candidates = [i for i in range(max(len(shape) - 2, 0), len(shape)) if shape[i] % parts == 0]
    if parts > 1 and candidates and np.prod(shape) >= SPREAD_FROM:
        axes[max(candidates, key=lambda i: (shape[i], i))] = "parameter"
    return tuple(axes)


def shard_params(tree, mesh: Mesh):
    """A NamedSharding for each array (or ShapeDtypeStruct) of `tree`; optimizer moments and
    teachers get that of their parameter, by its shape.
    """

    # By shape and not by name: moments and teachers have the shapes of their parameters.
    def sharding(leaf) -> NamedSharding:
        axes = parameter_axes(np.shape(leaf), mesh.shape["fsdp"])
        return nn.logical_to_mesh_sharding(PartitionSpec(*axes), mesh, RULES)

    return jax.tree.map(sharding, tree)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """For arrays [B, ...]: rows over all devices, everything else whole."""
    return nn.logical_to_mesh_sharding(PartitionSpec("rows"), mesh, RULES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def initialize_distributed() -> None:
    """Joins the other processes of this run, as the environment names them; does nothing on one
    machine alone, or the second time.

    Call it before anything asks for a device. It knows, in this order: JAX_COORDINATOR_ADDRESS
      (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID (in an indexed Kubernetes job
      JOB_COMPLETION_INDEX stands in for the last): anything, GKE with GPUs among it; SLURM, started
      by srun with more than one task: one task a GPU, as JAX expects; TPU virtual machines, of GKE
      or of Compute Engine, one slice: found by JAX itself.

    Raises:
      UserError: the variables contradict each other.
    """
    environment = os.environ
    if jax.distributed.is_initialized():
        return
    if "JAX_COORDINATOR_ADDRESS" in environment:
        address, processes, process = named_process(environment)
        if processes > 1:
            jax.distributed.initialize(address, processes, process)
    # A single SLURM task has these variables too, and nobody to wait for.
    elif int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        jax.distributed.initialize(cluster_detection_method="slurm")
    elif on_tpu_host(environment):
        jax.distributed.initialize()


def named_process(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """Coordinator, number of processes and this process, from variables that all have to be there
    once the first is.
    """
    process = environment.get("JAX_PROCESS_ID", environment.get("JOB_COMPLETION_INDEX"))
    processes = environment.get("JAX_NUM_PROCESSES")
    if (
        processes is None
        or process is None
        or not processes.isdigit()
        or not process.isdigit()
        or int(process) >= int(processes)
    ):
        raise UserError(
            "JAX_COORDINATOR_ADDRESS is set, so JAX_NUM_PROCESSES and JAX_PROCESS_ID must be"
            f" numbers with 0 <= id < number; they are {processes} and {process}. Set both for"
            " every process, or unset JAX_COORDINATOR_ADDRESS to run on one machine."
        )
    return environment["JAX_COORDINATOR_ADDRESS"], int(processes), int(process)


def on_tpu_host(environment: Mapping[str, str]) -> bool:
    """Whether this machine has TPU chips that JAX is allowed to use; libtpu alone does not say so,
    it compiles for TPUs anywhere.
    """
    allowed = environment.get("JAX_PLATFORMS", "tpu")
    return (
        "tpu" in allowed
        and find_spec("libtpu") is not None
        # Older TPUs are accel devices, newer ones come through VFIO.
        and any(Path(node).exists() for node in ("/dev/accel0", "/dev/vfio/0"))
    )
