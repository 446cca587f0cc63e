"""What a run does and for how long: one clock, read by the watchdog and by the shares of the wall
time.
"""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Work that belongs to a step and has its limit: all else (compiling, saving, probing) does not.
OF_A_STEP = ("input", "step")
REMEMBERED = 200  # steps whose median is a step's usual time


class Phases:
    """The phases of one process, one at a time; each second of the run belongs to one of them.

    Names: opening, restore, compile, input, step, save, probe. Safe to read from other threads.

    Args:
      clock: seconds, never set back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.step = 0
        self._clock, self._lock = clock, threading.Lock()
        self._name, self._since = "opening", clock()
        self._seconds: dict[str, float] = {}
        # of the step that is being done, and of those before
        self._of_step, self._steps = 0.0, deque[float](maxlen=REMEMBERED)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Inside, the process does `name`; afterwards what it did before."""
        before = self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    def next_step(self, step: int) -> None:
        """The step before has ended, and `step` begins."""
        self._enter("step")
        with self._lock:
            if self._of_step:
                self._steps.append(self._of_step)
            self.step, self._of_step = step, 0.0

    def now(self) -> tuple[str, float]:
        """What is being done, and for how many seconds by now."""
        with self._lock:
            return self._name, self._clock() - self._since

    def seconds(self) -> dict[str, float]:
        """Seconds by name since the run began; they add up to its wall time."""
        with self._lock:
            since = self._clock() - self._since
            return self._seconds | {self._name: self._seconds.get(self._name, 0.0) + since}

    def step_seconds(self) -> tuple[float, float | None]:
        """Seconds of this step by now, compiling, saving and probing left out; and the median of
        the steps before, None where there is none.
        """
        with self._lock:
            more = self._clock() - self._since if self._name in OF_A_STEP else 0.0
            usual = statistics.median(self._steps) if self._steps else None
            return self._of_step + more, usual

    def _enter(self, name: str) -> str:
        with self._lock:
            before, now = self._name, self._clock()
            passed = now - self._since
            self._seconds[before] = self._seconds.get(before, 0.0) + passed
            if before in OF_A_STEP:
                self._of_step += passed
            self._name, self._since = name, now
            return before
