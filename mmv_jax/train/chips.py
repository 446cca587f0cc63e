"""What the chips that a run may be sent to can do, and what their slices are called."""

import math
from dataclasses import dataclass

from mmv_jax.errors import UserError


@dataclass(frozen=True)
class Chip:
    """One device as JAX sees it; the peak figures are the maker's.

    Attributes:
      flops: a second, products of bfloat16 with float32 sums.
      hbm_bytes: memory of the device that a program may have. A TPU's runtime keeps a little of it
        (1 to 3 %) for itself; of a GPU JAX takes three quarters, where
        XLA_PYTHON_CLIENT_MEM_FRACTION does not say otherwise.
      hbm_bandwidth: bytes a second.
      interconnect: bytes a second that a device sends to its neighbours: half of what makers call
        bidirectional.
      devices: that JAX sees of one chip.
      sides: how many sides the name of a slice has; 0 where there are no slices, but a number of
        chips on one host.
    """

    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    interconnect: float
    devices: int = 1
    sides: int = 2


GIB = 2**30
# Sources. v5e: docs.cloud.google.com/tpu/docs/v5e. v5p, v6e and TPU7x:
# docs.cloud.google.com/tpu/docs/tpu7x, "key specifications"; a 7x is two devices. H100: NVIDIA's
# data sheet of the SXM form (bfloat16 without sparsity, NVLink), its memory by XLA's device
# description (h100.txtpb).
CHIPS = {
    "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, sides=3),
    "v6e": Chip(918e12, 32 * GIB, 1638e9, 400e9),
    "tpu7x": Chip(1153.5e12, 96 * GIB, 3690e9, 300e9, devices=2, sides=3),
    "h100": Chip(989e12, 84_942_979_072 * 3 // 4, 3352e9, 450e9, sides=0),
}
EXAMPLES = "v5e:4x4, v5p:4x4x8, v6e:16x16, tpu7x:2x2x1 or h100:8"


@dataclass(frozen=True)
class Topology:
    """A slice of TPUs, or H100s of one host.

    Attributes:
      kind: a name of `CHIPS`.
      devices: that JAX sees of it.
    """

    name: str
    kind: str
    devices: int

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]


def parse_topology(name: str) -> Topology:
    """A topology by its name: a generation, a colon, and the sides of the slice or, for GPUs, how
    many.

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
    if len(sides) != max(chip.sides, 1):
        wanted = f"{chip.sides} sides" if chip.sides else "a number of GPUs"
        raise UserError(
            f"--topology {name!r}: what follows {kind} has {len(sides)} sides, but it should be"
            f" {wanted}, as in {EXAMPLES}."
        )
    return Topology(name, kind, math.prod(map(int, sides)) * chip.devices)
