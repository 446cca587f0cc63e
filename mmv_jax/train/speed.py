"""Speed of a run: learning rate, tokens and studies a second, utilisation of the chips' peak."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StepCost:
    """The cost of a step of full rows, over all devices.

    Attributes:
      flops: model FLOPs; a part that is computed twice (rematerialisation) counts once.
      peak: FLOPs a second of all devices as their maker states them; None where it is not known.
      why: why it is not known, in words.
    """

    flops: float
    peak: float | None
    why: str = ""


class Speed:
    """Measure of the steps of one process. The first step, which compiles, has no speed.

    Args:
      rates: the learning rate of each step.
      row_tokens: tokens of a step of full rows.
      cost: of a step of full rows.
    """

    def __init__(self, rates: np.ndarray, row_tokens: int, cost: StepCost):
        self._rates, self._row_tokens, self._cost = rates, row_tokens, cost
        self._last: float | None = None

    def figures(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Speed of a step that has just ended; call it once a step, in order.

        Returns:
          `lr`; from the second call on also `tokens_per_s`, `studies_per_s` and, where the peak is
          known,
          `mfu`: model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B). Padding counts as no
          work.
          The time is wall-clock time, with waiting for rows and checkpoints.
        """
        now, last = time.perf_counter(), self._last
        self._last = now
        found = {"lr": float(self._rates[step])}
        if last is None:
            return found
        seconds, tokens = max(now - last, 1e-9), float(metrics["tokens"])
        found |= {
            "tokens_per_s": tokens / seconds,
            "studies_per_s": float(metrics["studies"]) / seconds,
        }
        if self._cost.peak:
            # The cost is that of full rows; this step did only the share of its real tokens.
            done = self._cost.flops * tokens / self._row_tokens
            found["mfu"] = done / seconds / self._cost.peak
        return found


def rates_of(schedule: Callable[[Any], Any], steps: int) -> np.ndarray:
    """The values of a schedule at all steps, computed at once.

    Computed step by step they would keep the device waiting.
    """
    return np.asarray(schedule(np.arange(steps)))
