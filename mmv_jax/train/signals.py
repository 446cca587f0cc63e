"""Requests to stop a run, by SIGTERM or Ctrl-C, on the same step in every process."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils

from mmv_jax.report.progress import say


@contextmanager
def stop_signal() -> Iterator[Callable[[int], bool]]:
    """A function of a step: whether to stop after it, since SIGTERM or Ctrl-C has come.

    A second Ctrl-C ends the process at once. Several processes must agree on the step, or some
    would wait for the others for ever. JAX's own service does that, and catches the signal itself.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if signal.SIGINT in came:
                # 130 is 128 + SIGINT, the code that shells give to an interrupted process.
                os._exit(130)  # what is being saved is lost; the checkpoint before it is whole
            say("Stopping after this step, which is saved. Ctrl-C again ends at once.")
        came.append(number)

    # The earlier handlers are restored on leaving: this process may do other work afterwards.
    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda step: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
