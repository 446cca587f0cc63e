"""The table of chips that a run may be sent to, with their makers' figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One device as JAX sees it; the peak figures are the maker's.

    Attributes:
      flops: a second, products of bfloat16 with float32 sums.
      hbm_bytes: device memory that a program may use. A TPU's runtime keeps 1 to 3 % of it for
        itself. On a GPU JAX takes three quarters, unless XLA_PYTHON_CLIENT_MEM_FRACTION says
        otherwise.
      hbm_bandwidth: bytes a second.
      interconnect: bytes a second that a device sends to its neighbours: half of the makers'
        bidirectional figure.
      devices: that JAX sees of one chip.
      sides: number of sides in the name of a slice; 0 for chips without slices, which are counted
        on one host.
      kinds: `device_kind` of the devices with this peak.
      host_devices: devices of one host, of a slice with several hosts.
      host_cores: vCPUs of such a host; None where its maker does not state them.
    """

    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    interconnect: float
    devices: int = 1
    sides: int = 2
    kinds: tuple[str, ...] = ()
    host_devices: int = 4
    host_cores: int | None = None


GIB = 2**30
# Sources. v5e: docs.cloud.google.com/tpu/docs/v5e. v5p, v6e and TPU7x:
# docs.cloud.google.com/tpu/docs/tpu7x, "key specifications"; a 7x is two devices. vCPUs of hosts
# with four chips: the pages of v5e and v5p. H100: NVIDIA's
# data sheet of the SXM form (bfloat16 without sparsity, NVLink), its memory by XLA's device
# description (h100.txtpb).
CHIPS = {
    "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, kinds=("TPU v5 lite", "TPU v5e"), host_cores=112),
    "v5p": Chip(
        *(459e12, 95 * GIB, 2765e9, 600e9),
        sides=3,
        kinds=("TPU v5", "TPU v5p"),
        host_cores=208,
    ),
    "v6e": Chip(918e12, 32 * GIB, 1638e9, 400e9, kinds=("TPU v6 lite", "TPU v6e")),
    "tpu7x": Chip(
        *(1153.5e12, 96 * GIB, 3690e9, 300e9),
        devices=2,
        sides=3,
        kinds=("TPU7x",),
        host_devices=8,
    ),
    # An H200 has the same peak and more memory; the PCIe and NVL forms have a lower peak.
    "h100": Chip(
        *(989e12, 84_942_979_072 * 3 // 4, 3352e9, 450e9),
        sides=0,
        kinds=("NVIDIA H100 80GB HBM3", "NVIDIA H200"),
        host_devices=8,
    ),
}


def peak_flops(device_kind: str) -> float | None:
    """FLOPs a second of a device, products of bfloat16, by its JAX name; None if it is not in the
    table.

    Example:
      >>> peak_flops("TPU v6 lite") / 1e12, peak_flops("cpu")
      (918.0, None)
    """
    return next((chip.flops for chip in CHIPS.values() if device_kind in chip.kinds), None)
