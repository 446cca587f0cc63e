"""Advice for a step that does not fit: which config values to change, by the closed form."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

# Share of the memory that a run should leave free, for the runtime and for fragmentation.
HEADROOM = 0.15


@dataclass(frozen=True)
class Choice:
    """The config values that decide how much memory a device needs."""

    remat: bool
    fsdp: int
    per_step: int

    def overrides(self, before: "Choice") -> str:
        """The command-line options that change `before` into this choice.

        Example:
          >>> Choice(True, 8, 256).overrides(Choice(False, 8, 512))
          '--config.encoder.remat=True --config.rows.per_step=256'
        """
        words = {
            f"--config.encoder.remat={self.remat}": self.remat != before.remat,
            f"--config.mesh.fsdp={self.fsdp}": self.fsdp != before.fsdp,
            f"--config.rows.per_step={self.per_step}": self.per_step != before.per_step,
        }
        return " ".join(word for word, differs in words.items() if differs)


def suggest(
    now: Choice, devices: int, takes: Callable[[Choice], float], room: int | float
) -> list[Choice]:
    """Choices that fit: for each value that can be changed alone, the smallest change.

    Where no single change is enough, the smallest change of several values.

    Args:
      takes: bytes of a device under a choice.
      room: bytes that it may take.
    Returns:
      Empty where even one row a device, with the state spread over all devices, does not fit.
    """
    remats = [now.remat] if now.remat else [False, True]
    # A state is only spread over more devices: fewer would need more memory.
    fsdps = [n for n in range(now.fsdp, devices + 1) if devices % n == 0 and n % now.fsdp == 0]
    rows = [
        # From the most rows down; each device gets a whole number of rows.
        now.per_step // n
        for n in range(1, now.per_step // devices + 1)
        if now.per_step % n == 0 and now.per_step // n % devices == 0
    ]
    alone = (
        [replace(now, remat=remat) for remat in remats[1:]],
        [replace(now, fsdp=fsdp) for fsdp in fsdps[1:]],
        [replace(now, per_step=per_step) for per_step in rows[1:]],
    )
    found = [
        fitting[0]
        for ladder in alone
        if (fitting := [choice for choice in ladder if takes(choice) <= room])
    ]
    if found:
        return found
    # Rows last: fewer rows change the training, the other two only slow down the step.
    together = (
        Choice(remat, fsdp, per_step)
        for per_step, fsdp, remat in itertools.product(rows, fsdps, remats)
    )
    return list(itertools.islice((choice for choice in together if takes(choice) <= room), 1))
