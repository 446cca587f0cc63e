"""What a run says of itself before its first step."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from mmv_jax.train.speed import StepCost
from mmv_jax.train.state import TrainState


def opening(
    config: Mapping[str, Any],
    workdir: Path,
    *,
    mesh: Mesh,
    state: TrainState,
    first: int,
    patients: int,
    cost: StepCost,
) -> str:
    """Devices, parameters and paths of a run, a line each.

    Args:
      config: of the run, as plain dicts.
      state: arrays, or their shapes.
      first: the step to go on from.
      patients: how many are trained on.
    """
    rows = config["rows"]
    begins = f"goes on at {first} of" if first else "0 to"
    lines = {
        "devices": devices_in_words(mesh),
        "parameters": parameters_in_words(state),
        "store": f"{config['data']['store']}, {patients} patients to train on",
        "workdir": f"{workdir} (metrics.jsonl, tensorboard/, checkpoints/)",
        "steps": f"{begins} {config['steps']}, of {rows['per_step']} rows of {rows['length']}"
        " tokens",
        "mfu": mfu_in_words(cost),
    }
    return in_lines(lines)


def in_lines(lines: Mapping[str, str]) -> str:
    """Names and words, a line each, the words below each other."""
    return "\n".join(f"{name:<11} {words}" for name, words in lines.items())


def devices_in_words(mesh: Mesh) -> str:
    """How many devices of which kind, and how they are shared out."""
    # An axis of size 1 shares nothing out.
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    processes = jax.process_count()
    return (
        f"{mesh.size} × {mesh.devices.flat[0].device_kind}"
        + (f" ({axes})" if axes else "")
        + (f" of {processes} processes" if processes > 1 else "")
    )


def parameters_in_words(state: TrainState) -> str:
    """How many parameters are trained, by module."""
    sizes = {
        name: sum(math.prod(x.shape) for x in jax.tree.leaves(module))
        for name, module in state.student.items()
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    return f"{sum(sizes.values()):,} that are trained ({parts})"


def mfu_in_words(cost: StepCost) -> str:
    """What the utilisation in the log is measured by, or why there is none."""
    if cost.peak is None:
        return f"not logged: {cost.why}"
    return f"logged, of {cost.peak / 1e12:,.0f} TFLOP/s; a full step is {cost.flops:.3g} FLOPs"
