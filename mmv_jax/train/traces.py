"""Profiles of a few steps, for TensorBoard with xprof: at steps of the config, or when asked for
while a run goes on.
"""

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from mmv_jax.buckets import BucketPath, put

REQUEST = "profile"  # a file of the workdir that asks for a profile
LOOK_S = 5.0  # between two looks for it: a shared file system takes its time for each


@dataclass(frozen=True)
class ProfileOptions:
    """The group `profile` of a config.

    Attributes:
      at: steps at which a profile begins. A file WORKDIR/profile, or SIGUSR2, asks for another one.
      steps: of one profile.
    """

    at: Sequence[int] = ()
    steps: int = 3


class Traces:
    """Profiles of this process. Call `at` once a step.

    Args:
      folder: where TensorBoard looks.
      request: the file that asks for a profile, of the process that watches for it.
      say: takes a line for people.
    """

    def __init__(
        self,
        folder: Path,
        options: ProfileOptions,
        *,
        request: Path | None,
        say: Callable[[str], None],
    ):
        self._folder, self._options, self._request, self._say = folder, options, request, say
        self._here: Path | None = None  # where the profiler writes, until the profile is put
        self._until: int | None = None
        self._asked, self._looked = False, -LOOK_S
        self._before: Any = None

    def __enter__(self) -> "Traces":
        self._before = signal.signal(signal.SIGUSR2, self._ask)
        return self

    def __exit__(self, kind, error, trace) -> None:
        signal.signal(signal.SIGUSR2, self._before)
        if self._until is not None:
            self._stop()

    def _start(self) -> None:
        # The profiler writes files of this machine only.
        away = isinstance(self._folder, BucketPath)
        self._here = Path(tempfile.mkdtemp(prefix="mmv-")) if away else None
        jax.profiler.start_trace(str(self._here or self._folder))

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        if self._here:
            put(self._here, self._folder)
            shutil.rmtree(self._here)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def at(self, step: int, result: Any) -> None:
        """Begins or ends a profile before `step`.

        Args:
          result: arrays of the step before, which a profile waits for at its end.
        """
        if self._until is None and self._wanted(step):
            self._until = step + self._options.steps
            self._start()
        elif self._until is not None and step >= self._until:
            jax.block_until_ready(result)
            self._stop()
            self._say(f"step {step}: a profile of {self._options.steps} steps is in {self._folder}")
            self._until = None

    def _wanted(self, step: int) -> bool:
        asked, self._asked = self._asked, False
        if self._request is not None and time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            if self._request.is_file():
                self._request.unlink(missing_ok=True)
                return True
        return asked or step in tuple(self._options.at)


def make_traces(workdir: Path, options: ProfileOptions, say: Callable[[str], None]) -> Traces:
    """The profiles of a run: its first process takes those of the config and of the file, each
    process takes one when it gets the signal.
    """
    is_first = jax.process_index() == 0
    return Traces(
        workdir / "tensorboard",
        options if is_first else replace(options, at=()),
        request=workdir / REQUEST if is_first else None,
        say=say,
    )
