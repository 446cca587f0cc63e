"""Topologies of the chips that a run may be sent to, by the names of their slices."""

import contextlib
import math
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import jax
from jax.experimental import topologies

from mmv_jax.chips import CHIPS, Chip
from mmv_jax.errors import UserError

EXAMPLES = "v5e:4x4, v5p:4x4x8, v6e:16x16, tpu7x:2x2x1 or h100:8"


@dataclass(frozen=True)
class Topology:
    """A slice of TPUs, or the H100s of one host.

    Attributes:
      kind: a name of `CHIPS`.
      devices: number of devices that JAX sees.
    """

    name: str
    kind: str
    devices: int

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]


def parse_topology(name: str) -> Topology:
    """A topology by its name: a chip, a colon, and the sides of the slice.

    For GPUs the number of GPUs follows the colon.

    Raises:
      UserError: there is no such chip, or its slices have another number of sides.

    Example:
      >>> parse_topology("v5p:4x4x8").devices
      128
    """
    kind, _, shape = name.partition(":")
    sides = shape.split("x")
    if kind not in CHIPS or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise UserError(
            f"--topology {name!r} is no topology: write a chip ({', '.join(CHIPS)}), a colon and"
            f" the slice, as {EXAMPLES}."
        )
    chip = CHIPS[kind]
    # A GPU has 0 sides, since it has no slices: its one number is the number of GPUs.
    if len(sides) != max(chip.sides, 1):
        wanted = f"{chip.sides} sides" if chip.sides else "a number of GPUs"
        raise UserError(
            f"--topology {name!r}: the part after {kind} has {len(sides)} sides, but it should be"
            f" {wanted}, as in {EXAMPLES}."
        )
    return Topology(name, kind, math.prod(map(int, sides)) * chip.devices)


# openxla/xla, xla/backends/gpu/target_config/specs/h100_sxm.txtpb
H100 = Path(__file__).with_name("h100.txtpb")
# JAX's plugins; one of them is installed: that of the extra `cuda13`, or an older one.
CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
# With these settings the compiler asks no metadata server about this machine, several processes may
# compile at a time, and its own messages are not printed. The type names a machine that is not
# there; the program is compiled for the topology.
NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def devices_of(place: Topology) -> list:
    """The devices of a topology.

    Raises:
      UserError: its compiler is not installed, or knows no such slice.
    """
    if place.kind == "h100":
        return _h100s(place)
    if find_spec("libtpu") is None:
        raise UserError(
            f"--topology {place.name} needs the TPU's compiler, libtpu, which is not installed."
            " Install the extra `preflight` (pip install 'mmv_jax[preflight]'), or use --devices"
            " 8: virtual devices of this machine's processor."
        )
    for name, value in NO_TPU_HERE.items():
        # The user's own settings are kept.
        os.environ.setdefault(name, value)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=place.name).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"--topology {place.name}: the compiler knows no such slice"
            f" ({str(error).splitlines()[0]})."
        ) from error


def _h100s(place: Topology) -> list:
    if not any(find_spec(plugin) for plugin in CUDA_PLUGINS):
        raise UserError(
            f"--topology {place.name} needs the GPU's compiler, which is not installed. Install the"
            " extra `preflight-h100` (pip install 'mmv_jax[preflight-h100]')."
        )
    shape = f"1x1x{place.devices}"
    return list(
        topologies.get_topology_desc(
            platform="cuda", topology_name="h100", topology=shape, target_config=H100.read_text()
        ).devices
    )


def virtual_devices(number: int) -> list:
    """`number` devices on this machine's processor.

    Raises:
      UserError: this process has started with fewer.
    """
    with contextlib.suppress(RuntimeError):  # too late: devices exist already, and may be enough
        jax.config.update("jax_num_cpu_devices", number)
    found = jax.devices("cpu")
    if len(found) < number:
        raise UserError(
            f"--devices {number}: this process has started with {len(found)} devices. Start another"
            " process."
        )
    return found[:number]
