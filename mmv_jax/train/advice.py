"""Advice for a step that does not fit: which config values to change, by the closed form."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

# Share of the memory that a run should leave free, for the runtime and for fragmentation.
HEADROOM = 0.15


@dataclass(frozen=True)
class Choice:
    """The config values that decide how much memory a device needs."""

    remat: bool | str
    fsdp: int
    per_step: int
    accumulate: int = 1

    def overrides(self, before: "Choice") -> str:
        """The command-line options that change `before` into this choice.

        Example:
          >>> Choice(True, 8, 256).overrides(Choice(False, 8, 512))
          '--config.encoder.remat=True --config.rows.per_step=256'
        """
        words = {
            f"--config.encoder.remat={self.remat}": self.remat != before.remat,
            f"--config.rows.accumulate={self.accumulate}": self.accumulate != before.accumulate,
            f"--config.mesh.fsdp={self.fsdp}": self.fsdp != before.fsdp,
            f"--config.rows.per_step={self.per_step}": self.per_step != before.per_step,
        }
        return " ".join(word for word, differs in words.items() if differs)


def suggest(
    now: Choice,
    devices: int,
    takes: Callable[[Choice], float],
    room: int | float,
    remats: Sequence[bool | str] = (False, True),
) -> list[Choice]:
    """Choices that fit: for each value that can be changed alone, the smallest change.

    Where no single change is enough, the smallest change of several values.

    Args:
      devices: that share out the rows.
      remats: the encoder's policies, from the most memory to the least.
      takes: bytes of a device under a choice.
      room: bytes that it may take.
    Returns:
      Empty where even one row a device, with the state spread over all devices, does not fit.
    """
    remats = remats[remats.index(now.remat) :] if now.remat in remats else [now.remat]
    # A state is only spread over more devices: fewer would need more memory.
    fsdps = [n for n in range(now.fsdp, devices + 1) if devices % n == 0 and n % now.fsdp == 0]
    rows = [
        # From the most rows down; each device gets a whole number of rows.
        now.per_step // n
        for n in range(1, now.per_step // devices + 1)
        if now.per_step % n == 0 and now.per_step // n % devices == 0
    ]
    own = now.per_step // devices
    parts = [n for n in range(now.accumulate, own + 1) if own % n == 0]
    alone = (
        [replace(now, remat=remat) for remat in remats[1:]],
        [replace(now, accumulate=n) for n in parts[1:]],
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
    # Rows last: fewer rows change the training, the others only slow down the step.
    together = (
        Choice(remat, fsdp, per_step, n)
        for per_step, fsdp, remat in itertools.product(rows, fsdps, remats)
        for n in (parts if per_step == now.per_step else [1])
    )
    return list(itertools.islice((choice for choice in together if takes(choice) <= room), 1))


@dataclass(frozen=True)
class Proposal:
    """A change that makes the step faster, and fits.

    Attributes:
      overrides: the command-line options.
      saves: share of the FLOPs that the step does now.
      takes: bytes of a device, by the closed form.
    """

    overrides: str
    saves: float
    takes: float


def propose(
    now: Choice,
    remats: Sequence[bool | str],
    *,
    costs: Callable[[Choice], float],
    takes: Callable[[Choice], float],
    room: int | float,
) -> Proposal | None:
    """The policy, and the number of parts, that compute the least and fit; of several the one that
    takes the least memory. None where that is what the config has.

    Args:
      costs: FLOPs that a step does under a choice.
      takes: bytes of a device under a choice.
      room: bytes that it may take.
    """
    choices = [
        replace(now, remat=remat, accumulate=parts)
        for remat in remats
        for parts in range(1, now.accumulate + 1)
        if now.accumulate % parts == 0
    ]
    fitting = [choice for choice in choices if takes(choice) <= room]
    if not fitting:
        return None
    best = min(fitting, key=lambda choice: (costs(choice), takes(choice)))
    saves = 1 - costs(best) / costs(now)
    return Proposal(best.overrides(now), saves, takes(best)) if saves > 0 else None
