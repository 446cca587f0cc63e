"""Devices to compile for: those of a topology, which need not be here, and virtual ones of this
machine's processor.
"""

import contextlib
import os
from importlib.util import find_spec
from pathlib import Path

import jax
from jax.experimental import topologies

from mmv_jax.errors import UserError
from mmv_jax.train.chips import Topology

# openxla/xla, xla/backends/gpu/target_config/specs/h100_sxm.txtpb
H100 = Path(__file__).with_name("h100.txtpb")
# No metadata server is asked what machine this is, several processes may compile at a time, and the
# compiler's own words stay out of ours. The type stands for a machine that is not there: what is
# compiled for is the topology.
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
        os.environ.setdefault(name, value)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=place.name).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"--topology {place.name}: the compiler knows no such slice"
            f" ({str(error).splitlines()[0]})."
        ) from error


def _h100s(place: Topology) -> list:
    if find_spec("jax_cuda12_plugin") is None:
        raise UserError(
            f"--topology {place.name} needs the GPU's compiler, which is not installed: pip install"
            f" jax-cuda12-plugin=={jax.__version__} jax-cuda12-pjrt=={jax.__version__}"
            " nvidia-cuda-nvcc-cu12"
        )
    shape = f"1x1x{place.devices}"
    return list(
        topologies.get_topology_desc(
            platform="cuda", topology_name="h100", topology=shape, target_config=H100.read_text()
        ).devices
    )


def virtual_devices(number: int) -> list:
    """So many devices on this machine's processor.

    Raises:
      UserError: this process has started with fewer.
    """
    with contextlib.suppress(RuntimeError):  # too late: devices exist already, and may be enough
        jax.config.update("jax_num_cpu_devices", number)
    found = jax.devices("cpu")
    if len(found) < number:
        raise UserError(
            f"--devices {number}: this process has started with {len(found)} devices. Start another"
            " one."
        )
    return found[:number]
