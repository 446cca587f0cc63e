"""Spikes of the loss or of the gradient's norm: left out, then rolled back behind, then the end of
the run.

Rolling back and leaving out the rows around a spike follows PaLM (arXiv 2204.02311, section 5.1).
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mmv_jax.errors import UserError, WorkFailed

FEWEST = 32  # steps; from fewer no limit is made
NO_LIMIT = np.full(2, np.inf, np.float32)
NOTHING = np.full(2, -np.inf, np.float32)  # a step under these limits changes no weight
# A limit is at least so far above the median, since where all steps are alike their spread says
# nothing: half of a loss, and 50 times a norm. Norms of a healthy run grow twentyfold in 30 steps.
LEAST_LOSS, LEAST_NORM = 0.5, 50.0
TO_SIGMA = 1.4826  # the median distance from the median, times this, estimates a standard deviation


@dataclass(frozen=True)
class GuardOptions:
    """The group `guard` of a config: what is done about spikes.

    Attributes:
      steps: of the history that the limits are made from.
      spread: a step is left out where its loss or its gradient's norm is so many standard
        deviations (robust ones) above the median; infinity for no guard.
      skips: so many steps left out within `steps` roll the run back.
      rollbacks: so many within 10 × `steps`; the next one ends the run.
    """

    steps: int = 128
    spread: float = 12.0
    skips: int = 3
    rollbacks: int = 2

    def __post_init__(self) -> None:
        """
        Raises:
          UserError: a count that can never be reached, or limits below the median.
        """
        for name, least in (("steps", 1), ("skips", 1), ("rollbacks", 0), ("spread", 1)):
            if not getattr(self, name) >= least:
                raise UserError(
                    f"config.guard.{name} is {getattr(self, name)!r}, but must be {least} or more."
                    " An infinite config.guard.spread leaves the guard out."
                )


class RollBack(Exception):
    """The run is to go on from a checkpoint that is not later than `before`."""

    def __init__(self, before: int):
        super().__init__(before)
        self.before = before


class Guard:
    """What is known of a run's losses, and what follows from it. All processes see the same numbers
    and come to the same end.

    The limits of step n come from the steps up to n - 2: those of n - 1 are still being computed
    when step n begins, and nothing waits for them.

    Args:
      kept: what `state` gave, of the checkpoint that is gone on from.
    """

    def __init__(self, options: GuardOptions, kept: Mapping[str, Any] | None = None):
        self._options = options
        self._history: deque[tuple[int, float, float]] = deque(maxlen=options.steps + 1)
        self._spikes: list[tuple[int, float, float]] = []
        self._left_out: list[tuple[int, int]] = []
        self._rollbacks: list[int] = []
        if kept:
            self._history.extend((int(n), a, b) for n, a, b in kept["history"])
            self._spikes = [(int(n), a, b) for n, a, b in kept["spikes"]]
            self._left_out = [(int(a), int(b)) for a, b in kept["left_out"]]
            self._rollbacks = [int(n) for n in kept["rollbacks"]]

    def state(self) -> dict[str, Any]:
        """All that is known, as JSON types, for a checkpoint."""
        return {
            "history": [list(line) for line in self._history],
            "spikes": [list(line) for line in self._spikes],
            "left_out": [list(span) for span in self._left_out],
            "rollbacks": list(self._rollbacks),
        }

    def is_left_out(self, step: int) -> bool:
        """Whether the rows of a step lie in a span that a roll-back left out."""
        return any(first <= step <= last for first, last in self._left_out)

    def limits(self, step: int) -> Float[np.ndarray, "2"]:
        """The largest loss and the largest norm of the gradient with which a step may change
        weights.
        """
        if self.is_left_out(step):
            return NOTHING
        seen = [line[1:] for line in self._history if line[0] <= step - 2][-self._options.steps :]
        if len(seen) < min(FEWEST, self._options.steps) or np.isinf(self._options.spread):
            return NO_LIMIT
        return limits_of(seen, self._options.spread)

    def see(self, step: int, *, loss: float, norm: float, spike: bool) -> None:
        """Takes the numbers of a step that has ended.

        Args:
          spike: it was left out, although its numbers are finite.
        Raises:
          RollBack: too many steps were left out lately.
          WorkFailed: and rolling back has not helped.
        """
        if spike and not self.is_left_out(step):
            self._spikes = [*self._recent(self._spikes, step), (step, loss, norm)]
            if len(self._spikes) >= self._options.skips:
                self._roll_back(step)
        elif not spike and np.isfinite(loss) and np.isfinite(norm):
            self._history.append((step, loss, norm))

    def _recent(self, lines: Iterable[tuple], step: int) -> list[tuple]:
        return [line for line in lines if line[0] > step - self._options.steps]

    def _roll_back(self, step: int) -> None:
        first, last = self._spikes[0][0], self._spikes[-1][0]
        far = 10 * self._options.steps
        self._rollbacks = [n for n in self._rollbacks if n > step - far]
        if len(self._rollbacks) >= self._options.rollbacks:
            raise WorkFailed(
                f"{self.diagnosis()} The run had been rolled back before, at steps"
                f" {_listed(self._rollbacks)}. {ADVICE}"
            )
        self._rollbacks.append(step)
        # All between the spikes too: those steps changed weights on the way to the next spike.
        self._left_out.append((first, last))
        raise RollBack(first)

    def go_back(self, kept: Mapping[str, Any] | None) -> "Guard":
        """The guard of the checkpoint that was gone back to (its `state`), which knows of the
        roll-back.
        """
        new = Guard(self._options, kept)
        new._spikes = []
        new._left_out, new._rollbacks = self._left_out, self._rollbacks
        return new

    def diagnosis(self) -> str:
        """What the last spikes were, in a sentence."""
        usual = np.median([line[1:] for line in self._history], axis=0) if self._history else None
        spikes = ", ".join(f"{n} (loss {a:.4g}, norm {b:.4g})" for n, a, b in self._spikes)
        beside = f"; the medians are {usual[0]:.4g} and {usual[1]:.4g}" if usual is not None else ""
        return f"the loss or its gradient's norm spiked at steps {spikes}{beside}."


ADVICE = (
    "Lower config.optimizer.peak_lr, lengthen config.optimizer.warmup, or set"
    " config.encoder.qk_norm=True; where the same rows spike at every rate, look at their studies"
    " (`mmv inspect --verify`)."
)


def limits_of(seen: list[tuple[float, float]], spread: float) -> Float[np.ndarray, "2"]:
    """Median plus `spread` robust standard deviations of the losses, and of the logarithms of the
    norms, which have a long tail.

    Example:
      >>> limits_of([(1.0, 2.0), (1.1, 2.0), (1.2, 2.0)], spread=10).round(3).tolist()
      [2.583, 100.0]
    """
    losses, norms = np.asarray(seen, np.float64).T
    loss, loss_sigma = _median_and_sigma(losses)
    log_norm, log_sigma = _median_and_sigma(np.log(np.maximum(norms, 1e-12)))
    highest = loss + max(spread * loss_sigma, LEAST_LOSS * abs(loss))
    # The largest exponent that stays a number of float32.
    exponent = min(log_norm + max(spread * log_sigma, np.log(LEAST_NORM)), 88.0)
    return np.array([highest, np.exp(exponent)], np.float32)


def _median_and_sigma(x: Float[np.ndarray, "N"]) -> tuple[float, float]:
    median = np.median(x)
    return float(median), float(TO_SIGMA * np.median(np.abs(x - median)))


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(map(str, steps))
