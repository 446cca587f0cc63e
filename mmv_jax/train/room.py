"""The memory that a run is expected to take, told before its first step.

Nothing is compiled for it: it is the closed form of `memory.py`.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmv_jax.data.tokens import RowShape
from mmv_jax.errors import UserError
from mmv_jax.models.remat import remat_name
from mmv_jax.parallel import HOLD_ROWS, holders
from mmv_jax.train.advice import HEADROOM, Choice, suggest
from mmv_jax.train.memory import size, step_memory
from mmv_jax.train.objective import Objective
from mmv_jax.train.state import TrainState

# The closed form was up to 22 % above a compiler's figure, of a GPU (docs/performance.md). A run is
# refused only where it would not fit even so.
ABOVE = 0.25
CGROUP = Path("/sys/fs/cgroup/memory.max")  # of a container


@dataclass(frozen=True)
class Peak:
    """The expected peak memory of one device.

    Attributes:
      parts: bytes by kind of array; None where a part of the model does not say what it takes.
      held: bytes of the device; None where they are not known.
      advice: command-line options that would make the run fit, where it does not.
    """

    parts: Mapping[str, int] | None
    held: int | None
    advice: tuple[str, ...] = ()

    @property
    def expected(self) -> int:
        return sum((self.parts or {}).values())

    def __str__(self) -> str:
        if self.parts is None:
            return "not told: a part of the model does not say what it takes"
        largest = sorted(self.parts.items(), key=lambda pair: -pair[1])[:4]
        told = f"about {size(self.expected)} of a device at the peak"
        if self.held is not None:
            told += f", of its {size(self.held)}"
        told += f" ({', '.join(f'{name} {size(count)}' for name, count in largest)}, ...)"
        if self.held is not None and self.expected > (1 - HEADROOM) * self.held:
            told += f". It may not fit: {self._cure()}"
        return told

    def check(self) -> None:
        """Refuse a run that cannot fit.

        Raises:
          UserError: it does not, even if the closed form is too high.
        """
        if self.held is None or self.expected <= (1 + ABOVE) * self.held:
            return
        kind, most = max((self.parts or {}).items(), key=lambda pair: pair[1])
        raise UserError(
            f"This run does not fit: a step is expected to take {size(self.expected)} of a device"
            f" ({kind} {size(most)}), which has {size(self.held)}. {self._cure()}"
        )

    def _cure(self) -> str:
        if self.advice:
            return f"Try {' or '.join(self.advice)}, or train fewer weights (config.lora)."
        return "Use more devices or a smaller encoder, or train fewer weights (config.lora)."


def peak_of(
    config: ConfigDict, objective: Objective, state: TrainState, *, shape: RowShape, mesh: Mesh
) -> Peak:
    """The expected peak memory of a state and its step.

    Args:
      state: arrays or their shapes.
    """
    closed_form = closed_form_of(config, objective, state, shape)
    now, held = choice_of(config, objective), device_bytes(mesh)
    try:
        parts = closed_form(now)
    except NotImplementedError:  # a backbone or loss term of the user's own need not count them
        return Peak(None, held)
    found: list[Choice] = []
    room = (1 - HEADROOM) * (held or 0)
    if held is not None and sum(parts.values()) > room:
        sharing = holders(config.mesh.to_dict(), HOLD_ROWS)

        def takes(choice: Choice) -> float:
            return float(sum(closed_form(choice).values()))

        found = suggest(now, sharing, takes, room, remats=objective.encoder.remats)
    return Peak(parts, held, tuple(choice.overrides(now) for choice in found))


def closed_form_of(
    config: ConfigDict, objective: Objective, state: TrainState, shape: RowShape
) -> Callable[[Choice], dict[str, int]]:
    """The closed form of the memory of a device, as a function of what may be changed."""
    mesh = config.mesh.to_dict()
    sharing = holders(mesh, HOLD_ROWS)
    splits = {name: mesh.get(name, 1) for name in ("tensor", "sequence")}

    def closed_form(choice: Choice) -> dict[str, int]:
        rows, chosen = choice.per_step // sharing, replace(objective, parts=choice.accumulate)
        own: dict[str, Any] = {"rows": rows, "fsdp": choice.fsdp, "remat": choice.remat}
        return step_memory(chosen, state, shape, **own | splits)

    return closed_form


def choice_of(config: ConfigDict, objective: Objective) -> Choice:
    """What the config has, with the name of its policy where the encoder's policies have names."""
    remat = objective.encoder.remat
    named = isinstance(objective.encoder.remats[0], str)
    return Choice(
        remat=remat_name(remat) if named else remat,
        fsdp=config.mesh.get("fsdp", 1),
        per_step=config.rows.per_step,
        accumulate=objective.parts,
    )


def device_bytes(mesh: Mesh) -> int | None:
    """Bytes that a program may use of one of the mesh's devices; None where nobody says it."""
    device = mesh.local_devices[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # No container, or one without a limit, which is the word "max".
    with contextlib.suppress(OSError, ValueError):
        machine = min(machine, int(CGROUP.read_text()))
    # Virtual devices share the memory of the machine.
    return machine // len(jax.local_devices())
