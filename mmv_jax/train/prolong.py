"""Runs that are prolonged: what may change, and the step that they go on from.

A cosine falls from the first step on, so a run with one cannot be prolonged. A constant rate says
nothing of the end before it falls (`config.optimizer.decay`): a longer run is the same until then.
"""

from collections.abc import Collection, Mapping
from typing import Any

from mmv_jax.errors import UserError
from mmv_jax.objectives.table import TERMS, weights_of
from mmv_jax.objectives.term import TEACHER

SCHEDULE = ("steps", "optimizer.warmup", "optimizer.decay")


def last_constant_step(config: Mapping[str, Any]) -> int | None:
    """The last saved step before the learning rate falls; None without one.

    Args:
      config: of a run, as plain dicts.
    """
    decay = config["optimizer"].get("decay")
    if decay is None:
        return None
    every = config["checkpoint"]["every"]
    begins = config["steps"] - round(decay * config["steps"])
    return begins // every * every or None


def may_prolong(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the values that may change because a run is prolonged; none if it is not.

    A run that follows a teacher is never prolonged. The warm-up must be over where the run goes on:
    a share of more steps is a longer warm-up.
    """
    held = last_constant_step(before) if "optimizer" in before else None
    if _is_taught(before.get("objective", {})):
        return ()
    # A weight decay that rises to the last step is another one from the first step on.
    if before.get("optimizer", {}).get("weight_decay_end") is not None:
        return ()
    if held is None or now["optimizer"].get("decay") is None or now["steps"] <= before["steps"]:
        return ()
    if round(now["optimizer"]["warmup"] * now["steps"]) > held:
        return ()
    return SCHEDULE


def _is_taught(objective: Mapping[str, Any]) -> bool:
    """Whether a loss follows the teacher, whose momentum and temperature reach their ends at the
    last step: with more steps they differ from the first one on.
    """
    # Koleo asks for the teacher's pass for the health figures alone.
    return any(TEACHER in TERMS[name].needs for name in weights_of(objective) if name != "koleo")


def goes_on_from(
    kept: Mapping[str, Any], now: Mapping[str, Any], steps: Collection[int]
) -> int | None:
    """The step that a prolonged run goes on from, or the last saved one before it; None for a run
    that is not prolonged.

    Args:
      kept: config of the newest checkpoint that is whole.
      steps: of all checkpoints.
    Raises:
      UserError: no checkpoint is left from before the fall.
    """
    if kept.get("steps") == now["steps"] or not may_prolong(kept, now):
        return None
    held = last_constant_step(kept)
    # What comes later is deleted, so one must be known to remain.
    if held is None or not any(step <= held for step in steps):
        raise UserError(
            f"This run cannot be prolonged from {kept['steps']} to {now['steps']} steps: its"
            f" checkpoint of step {held}, before the learning rate falls, is no longer there."
            " Begin another run in another --workdir."
        )
    return held
