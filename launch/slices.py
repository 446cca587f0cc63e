"""TPU slices: which ones there are, and what they are called elsewhere."""

import argparse
import math
from dataclasses import dataclass

CHIPS_PER_HOST = 4  # of a slice that has more than one host
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")  # and multiples of four, see `is_offered`


@dataclass(frozen=True)
class Generation:
    """What a generation of TPUs is called elsewhere.

    Attributes:
      node_label: value of the label cloud.google.com/gke-tpu-accelerator of its nodes.
      accelerator_type: of `gcloud --accelerator-type`, with {chips} or {cores}; None where virtual
        machines are not offered under such a name.
      runtime: the virtual machine's software, `gcloud --version`.
      slices: the topologies that are offered by name; of three sides larger ones too.
      most: chips of the largest slice.
      devices: that JAX sees of one chip.
    """

    node_label: str
    accelerator_type: str | None
    runtime: str | None
    slices: tuple[str, ...]
    most: int
    devices: int = 1


# Sources: cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus,
# docs.cloud.google.com/tpu/docs/runtimes and .../tpu/docs/{v4,v5e,v5p,v6e,tpu7x}. v4 and v5p are
# named by their cores.
GENERATIONS = {
    "v4": Generation("tpu-v4-podslice", "v4-{cores}", "tpu-ubuntu2204-base", CUBES, most=4096),
    "v5e": Generation(
        "tpu-v5-lite-podslice", "v5litepod-{chips}", "v2-alpha-tpuv5-lite", FLAT, most=256
    ),
    "v5p": Generation("tpu-v5p-slice", "v5p-{cores}", "v2-alpha-tpuv5", CUBES, most=6144),
    "v6e": Generation("tpu-v6e-slice", "v6e-{chips}", "v2-alpha-tpuv6e", FLAT, most=256),
    "tpu7x": Generation("tpu7x", None, None, CUBES, most=9216, devices=2),
}


@dataclass(frozen=True)
class Slice:
    """A TPU slice by the name that `mmv preflight --topology` takes, such as v5p:4x4x8."""

    generation: Generation
    topology: str
    chips: int

    @classmethod
    def parse(cls, name: str) -> "Slice":
        """
        Raises:
          argparse.ArgumentTypeError: there is no such slice; it says which ones there are.
        """
        generation, _, topology = name.partition(":")
        sides = topology.split("x")
        if generation not in GENERATIONS or not all(
            side.isdigit() and int(side) > 0 for side in sides
        ):
            raise argparse.ArgumentTypeError(
                f"{name!r} is no TPU slice: write a generation ({', '.join(GENERATIONS)}) and a"
                " topology, as v5p:4x4x8"
            )
        known = GENERATIONS[generation]
        if not is_offered(known, topology):
            larger = " and larger ones whose sides are multiples of 4, the smallest first, up to"
            more = f"{larger} {known.most} chips" if known.slices is CUBES else ""
            raise argparse.ArgumentTypeError(
                f"{name!r} is not offered: slices of {generation} are {', '.join(known.slices)}"
                f"{more}"
            )
        return cls(known, topology, math.prod(map(int, sides)))

    @property
    def hosts(self) -> int:
        return max(1, self.chips // CHIPS_PER_HOST)

    @property
    def devices(self) -> int:
        """That JAX sees of all chips."""
        return self.chips * self.generation.devices

    @property
    def accelerator_type(self) -> str | None:
        name = self.generation.accelerator_type
        return name and name.format(chips=self.chips, cores=2 * self.chips)


def is_offered(generation: Generation, topology: str) -> bool:
    """Whether a slice can be had.

    Example:
      >>> [is_offered(GENERATIONS["v5p"], name) for name in ("4x4x8", "3x5x7", "8x4x4")]
      [True, False, False]
    """
    if topology in generation.slices:
        return True
    sides = [int(side) for side in topology.split("x")]
    # 64 chips are a cube with links of its own; larger slices are made of whole cubes.
    return (
        generation.slices is CUBES
        and len(sides) == 3
        and all(side % 4 == 0 for side in sides)
        and sides == sorted(sides)
        and math.prod(sides) <= generation.most
    )
