"""Shared code of the launchers: the `mmv` command after `--`, TPU slices by name, and templates."""

import argparse
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

CHIPS_PER_HOST = 4  # of a slice that has more than one host


@dataclass(frozen=True)
class Generation:
    """The names of a generation of TPUs in Google Cloud.

    Attributes:
      node_label: value of the label cloud.google.com/gke-tpu-accelerator of its nodes.
      accelerator_type: of `gcloud --accelerator-type`, with {chips} or {cores}; None if virtual
        machines are not offered under such a name.
      runtime: the virtual machine's software, `gcloud --version`.
    """

    node_label: str
    accelerator_type: str | None
    runtime: str | None


# Sources: cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus,
# docs.cloud.google.com/tpu/docs/runtimes. v4 and v5p are named by their cores.
GENERATIONS = {
    "v4": Generation("tpu-v4-podslice", "v4-{cores}", "tpu-ubuntu2204-base"),
    "v5e": Generation("tpu-v5-lite-podslice", "v5litepod-{chips}", "v2-alpha-tpuv5-lite"),
    "v5p": Generation("tpu-v5p-slice", "v5p-{cores}", "v2-alpha-tpuv5"),
    "v6e": Generation("tpu-v6e-slice", "v6e-{chips}", "v2-alpha-tpuv6e"),
    "tpu7x": Generation("tpu7x", None, None),
}


@dataclass(frozen=True)
class Slice:
    """A TPU slice, by its name in `mmv preflight --topology`, such as v5p:4x4x8."""

    generation: Generation
    topology: str
    chips: int

    @classmethod
    def parse(cls, name: str) -> "Slice":
        generation, _, topology = name.partition(":")
        sides = topology.split("x")
        if generation not in GENERATIONS or not all(
            side.isdigit() and int(side) > 0 for side in sides
        ):
            raise argparse.ArgumentTypeError(
                f"{name!r} is no TPU slice: write a generation ({', '.join(GENERATIONS)}) and a"
                " topology, such as v5p:4x4x8"
            )
        return cls(GENERATIONS[generation], topology, math.prod(map(int, sides)))

    @property
    def hosts(self) -> int:
        return max(1, self.chips // CHIPS_PER_HOST)

    @property
    def accelerator_type(self) -> str | None:
        name = self.generation.accelerator_type
        return name and name.format(chips=self.chips, cores=2 * self.chips)


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own options, and the words of the `mmv` command after `--`."""
    cut = argv.index("--") if "--" in argv else len(argv)
    args, command = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    if not command:
        parser.error(
            "what to start is missing: end with -- and an mmv command, such as: -- pretrain"
            " --config experiments/X.py --workdir DIR"
        )
    return args, command


def render(template: str, **values) -> str:
    """The text of a file in launch/templates with `values` filled in.

    The filter `quote` makes a value one word of the shell. A missing value is an error.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment.get_template(template).render(values)


def write(out: Path, text: str, submit: str) -> None:
    """Write the rendered file and print how to submit it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(f"{out} is written; nothing has been started. Look at it, then: {submit}")
