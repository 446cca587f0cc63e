"""How fast a run is: learning rate, tokens and studies a second, and the share of the chips' peak
that its model reaches.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StepCost:
    """What a step of full rows costs, over all devices.

    Attributes:
      flops: model FLOPs; nothing that is computed twice (rematerialisation) counts twice.
      peak: FLOPs a second of all devices, by their maker; None where it is not known.
      why: why it is not known, in words.
    """

    flops: float
    peak: float | None
    why: str = ""


class Speed:
    """Measures the steps of one process. The first one, which compiles, has no speed.

    Args:
      rates: the learning rate of each step.
      row_tokens: tokens of a step of full rows.
      cost: of a step of full rows.
    """

    def __init__(self, rates: np.ndarray, row_tokens: int, cost: StepCost):
        self._rates, self._row_tokens, self._cost = rates, row_tokens, cost
        self._last: float | None = None

    def figures(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Of a step that has just ended; call it once a step, in order.

        Returns:
          `lr`; and from the second call on `tokens_per_s`, `studies_per_s` and, where the peak is
          known, `mfu`: model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B). Padding does
          no work that counts. Waiting for rows and for checkpoints does: the clock is the wall's.
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
            # The cost is that of full rows;
            # this step did the share that its real tokens are of them.
            done = self._cost.flops * tokens / self._row_tokens
            found["mfu"] = done / seconds / self._cost.peak
        return found


def rates_of(schedule: Callable[[Any], Any], steps: int) -> np.ndarray:
    """A schedule at every step, at once: asked step by step it would keep the device waiting."""
    return np.asarray(schedule(np.arange(steps)))
