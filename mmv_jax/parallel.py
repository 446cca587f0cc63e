"""The mesh, the one table of axis rules, and the start-up of processes.

No other file names a mesh axis.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmv_jax.errors import UserError

AXES = ("data", "fsdp", "sequence", "tensor")  # neighbours last: they communicate most
RULES = (  # what an axis means -> where it lives
    ("rows", ("data", "fsdp")),  # rows of a batch
    ("tokens", "sequence"),  # of a row, outside of attention
    ("heads", ("tensor", "sequence")),  # within attention: whole rows of some heads
    ("hidden", "tensor"),  # heads and the MLP's channels outside of attention
    ("width", None),
    ("places", ("tensor", "sequence")),  # tokens that a loss term picks out of a row
    # The one axis of a parameter that is spread (see `parameter_axes`). `tensor` is first, so that
    # a layer gathers no more than its own part of the hidden channels.
    ("parameter", ("tensor", "fsdp", "sequence")),
)
HOLD_STATE = ("fsdp", "sequence", "tensor")  # axes whose devices share one copy of the state
HOLD_ROWS = ("data", "fsdp")  # axes whose devices have rows of their own
# Parameters with fewer values are replicated: gathering them would cost more than their memory.
SPREAD_FROM = 2**14


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    devices: list | None = None,
    *,
    tensor: int = 1,
    sequence: int = 1,
) -> Mesh:
    """Make a mesh with the axes `data`, `fsdp`, `sequence` and `tensor`.

    The devices of a group of the later axes are neighbours, since they communicate most.

    Args:
      data: number of replicas.
      fsdp: number of devices that have rows of their own and share one copy of the state.
      devices: instead of all devices of this run, for example those of a topology.
      tensor: number of devices that share out the heads, and the hidden channels of the MLPs, of
        the same rows. They share the state too.
      sequence: number of devices that share out the tokens of the same rows, and within attention
        their heads. They share the state too.
    Raises:
      UserError: the product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(data=data, fsdp=fsdp, sequence=sequence, tensor=tensor)
    check_sizes(sizes, len(devices))
    shape, types = tuple(sizes.values()), (AxisType.Auto,) * len(AXES)
    # Explicit axes, jax.make_mesh's default, make matmuls refuse shardings that the compiler can
    # resolve by itself.
    try:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    except NotImplementedError:
        # No product of the slice's sides gives the mesh, as with 16 x 16 chips for 32 x 8: then a
        # side is split between two axes.
        return Mesh(
            mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True),
            AXES,
            axis_types=types,
        )


def check_sizes(sizes: Mapping[str, int], devices: int) -> None:
    """
    Raises:
      UserError: a size of the mesh is no number from 1 on, or their product is not the number of
        devices.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(
                f"config.mesh.{name} is {size!r}, but is a number of devices. Set a whole number"
                " from 1 on."
            )
    if math.prod(sizes.values()) == devices:
        return
    told = {name: n for name, n in sizes.items() if n > 1 or name in HOLD_ROWS}
    # The advice keeps the axes beside `data` from the last on, as long as they divide the devices.
    kept, left = dict(sizes), devices
    for name in reversed(AXES[1:]):
        kept[name] = sizes[name] if left % sizes[name] == 0 else (left if name == "fsdp" else 1)
        left //= kept[name]
    kept["data"] = left
    advice = " ".join(f"--config.mesh.{name}={kept[name]}" for name in told)
    mesh = " × ".join(f"{name}={n}" for name, n in told.items())
    raise UserError(
        f"config.mesh is {mesh} = {math.prod(sizes.values())} devices, but this run has {devices}."
        f" Set {advice}."
    )


def holders(mesh: Mesh | Mapping[str, int], axes: Sequence[str]) -> int:
    """The product of the sizes of some axes, such as `HOLD_ROWS`, of a mesh or a config's group."""
    sizes = mesh.shape if isinstance(mesh, Mesh) else mesh
    return math.prod(sizes.get(name, 1) for name in axes)


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """A context in which the models' logical axes are those of `mesh`; trace a step inside it."""
    # The mesh is for JAX, the rules are for Flax, which maps logical axes to mesh axes.
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield mesh


def parameter_axes(shape: tuple[int, ...], parts: int, hidden: int = 1) -> tuple[str | None, ...]:
    """Logical axes of a parameter: "parameter" is the one of its last two axes that is spread.

    Of a stack of kernels [depth, D, E] that is D, if `parts` divides it. Of other parameters it is
    the larger of the two that `parts` divides, and the last one if both are equal. Axes before the
    last two are never split, since they stack layers. A scan that slices a split axis would gather
    the whole stack in each step.

    Args:
      parts: devices that share one copy of the state.
      hidden: into which the mesh cuts hidden channels. If it does, kernels are spread along the
        larger axis too, so that a layer gathers its own channels alone.

    Example:
      >>> parameter_axes((24, 1024, 3072), parts=8)
      (None, 'parameter', None)
    """
    axes: list[str | None] = [None] * len(shape)
    # Axes whose length `parts` divides, so that every device has an equal share.
    candidates = [i for i in range(max(len(shape) - 2, 0), len(shape)) if shape[i] % parts == 0]
    if parts > 1 and candidates and np.prod(shape) >= SPREAD_FROM:
        # The TPU's compiler did not scatter a gradient along its last axis where the parts had 128
        # or 384 values, but summed all of it everywhere. Along the axis before it scatters all four
        # kernels of a block at once.
        stacked = len(shape) > 2 and hidden == 1
        largest = max(candidates, key=lambda i: (shape[i], i))
        axes[candidates[0] if stacked else largest] = "parameter"
    return tuple(axes)


def shard_params(tree, mesh: Mesh):
    """A NamedSharding for each array (or ShapeDtypeStruct) of `tree`.

    Optimizer moments and teachers get that of their parameter, since they have its shape.
    """

    # By shape and not by name: moments and teachers have the shapes of their parameters.
    def sharding(leaf) -> NamedSharding:
        axes = parameter_axes(
            np.shape(leaf), holders(mesh, HOLD_STATE), mesh.shape.get("tensor", 1)
        )
        return nn.logical_to_mesh_sharding(PartitionSpec(*axes), mesh, RULES)

    return jax.tree.map(sharding, tree)


def shards_of(axis: str) -> int:
    """The number of parts that the mesh and the rules in force cut a logical axis into; 1 without
    them, or inside a shard_map.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules() or AxisType.Manual in mesh.axis_types:
        return 1
    found = nn.logical_to_mesh_axes((axis,))
    name = found[0] if found else None
    return holders(mesh.shape, (name,) if isinstance(name, str) else name or ())


def as_stored(kernel: jax.Array) -> jax.Array:
    """A layer's kernel [..., E], said to be spread as it is stored, and so is its gradient.

    Without it the compiler may sum a gradient on every device, and cut it only where the layers'
    gradients are stacked. So it leaves by an all-reduce of the whole and not by a reduce-scatter.
    """
    # One of a stack.
    axes = parameter_axes((1, *kernel.shape), shards_of("parameter"), shards_of("hidden"))[1:]
    return nn.with_logical_constraint(kernel, axes) if "parameter" in axes else kernel


def row_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays [B, ...]: rows over the devices that have rows of their own, other
    axes whole.
    """
    return nn.logical_to_mesh_sharding(PartitionSpec("rows"), mesh, RULES)


def devices_here(mesh: Mesh) -> Mesh:
    """This process's own devices: the axis `rows` in the order of their rows in a batch, and the
    axis `copies` of devices that have the same rows.
    """
    count = holders(mesh, HOLD_ROWS)
    spans = row_sharding(mesh).addressable_devices_indices_map((count,))
    rows: dict[int, list] = {}
    for device, index in spans.items():
        if index:
            rows.setdefault(index[0].indices(count)[0], []).append(device)
    # Every row of the grid has as many devices: a process's devices are a box of the mesh.
    grid = np.array([rows[start] for start in sorted(rows)])
    return Mesh(grid, ("rows", "copies"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def first_says(words: str) -> str:
    """What process 0 passed, in every process; all must call it."""
    return all_say(words)[0]


def all_say(words: str) -> list[str]:
    """What each process passed, by its number; all must call it."""
    if jax.process_count() == 1:
        return [words]
    mine = np.frombuffer(words.encode(), np.uint8)
    # Arrays of one shape alone can be gathered, so the lengths go first.
    sizes = multihost_utils.process_allgather(np.array(len(mine), np.int32))
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: len(mine)] = mine
    gathered = multihost_utils.process_allgather(padded)
    return [bytes(line[:size]).decode() for line, size in zip(gathered, sizes)]


def initialize_distributed() -> None:
    """Join the other processes of this run, as the environment names them.

    It does nothing on a single machine, or the second time. Call it before anything asks for a
    device. It looks for these, in this order:

    - JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID, on any system, GKE
      with GPUs included. In an indexed Kubernetes job JOB_COMPLETION_INDEX replaces the last one.

    - SLURM, started by srun with more than one task: one task a GPU, as JAX expects.

    - TPU virtual machines of GKE or Compute Engine, one slice: JAX finds the processes itself.

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
    # A single SLURM task has these variables too, but no other process to join.
    elif int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        jax.distributed.initialize(cluster_detection_method="slurm")
    elif on_tpu_host(environment):
        jax.distributed.initialize()


def named_process(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """Coordinator, number of processes and index of this process, from the environment.

    Raises:
      UserError: one variable is set and the others are not, or they contradict each other.
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
    """Whether this machine has TPU chips that JAX may use.

    An installed libtpu is not enough, since it compiles for TPUs anywhere.
    """
    allowed = environment.get("JAX_PLATFORMS", "tpu")
    return (
        "tpu" in allowed
        and find_spec("libtpu") is not None
        # Older TPUs are accel devices, newer ones come through VFIO.
        and any(Path(node).exists() for node in ("/dev/accel0", "/dev/vfio/0"))
    )
