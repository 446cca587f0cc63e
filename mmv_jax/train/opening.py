"""The lines that a run prints before its first step."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from mmv_jax.train.learning import Learning
from mmv_jax.train.room import Peak
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
    learning: Learning,
    peak: Peak,
    cost: StepCost,
) -> str:
    """Devices, parameters and paths of a run, one line each.

    Args:
      config: of the run, as plain dicts.
      state: arrays, or their shapes.
      first: the first step of this start.
      patients: number of training patients.
      learning: which parameters are trained.
      peak: the expected peak memory of a device.
    """
    rows = config["rows"]
    begins = f"goes on at {first} of" if first else "0 to"
    lines = {
        "devices": devices_in_words(mesh),
        "parameters": parameters_in_words(state, learning),
        "memory": str(peak),
        "store": f"{config['data']['store']}, {patients} patients to train on",
        "workdir": f"{workdir} (metrics.jsonl, tensorboard/, checkpoints/)",
        "steps": f"{begins} {config['steps']}, of {rows['per_step']} rows of {rows['length']}"
        " tokens",
        "mfu": mfu_in_words(cost),
    }
    return in_lines(lines)


def in_lines(lines: Mapping[str, str]) -> str:
    """Names and texts, one line each, with the texts aligned."""
    return "\n".join(f"{name:<11} {words}" for name, words in lines.items())


def devices_in_words(mesh: Mesh) -> str:
    """Number and kind of the devices, and the axes that they are split over."""
    # An axis of size 1 splits nothing.
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    processes = jax.process_count()
    return (
        f"{mesh.size} × {mesh.devices.flat[0].device_kind}"
        + (f" ({axes})" if axes else "")
        + (f" of {processes} processes" if processes > 1 else "")
    )


def parameters_in_words(state: TrainState, learning: Learning) -> str:
    """Number of trained parameters, in total and by module, and of those that are not."""
    sizes = {
        name: sum(math.prod(x.shape) for x in jax.tree.leaves(module))
        for name, module in learning.shapes(state.student).items()
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    total = sum(math.prod(x.shape) for x in jax.tree.leaves(state.student))
    frozen = total - sum(sizes.values())
    told = f"; {frozen:,} are frozen" if frozen else ""
    return f"{sum(sizes.values()):,} that are trained ({parts}){told}"


def mfu_in_words(cost: StepCost) -> str:
    """The peak that the logged utilisation refers to, or why no utilisation is logged."""
    if cost.peak is None:
        return f"not logged: {cost.why}"
    return f"logged, of {cost.peak / 1e12:,.0f} TFLOP/s; a full step is {cost.flops:.3g} FLOPs"
