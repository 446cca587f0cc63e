"""The log of a run: `metrics.jsonl` (the reference), TensorBoard events, other boards, and a bar or
plain lines on the screen.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmv_jax.buckets import BucketPath
from mmv_jax.mirror import PART_BYTES, Mirror
from mmv_jax.train.log_files import METRICS, InParts, LogLines, OneFile, metrics_files


@runtime_checkable
class Board(Protocol):
    """A place for a step's numbers beside `metrics.jsonl`."""

    def write(self, step: int, numbers: Mapping[str, float | int]) -> None: ...

    def close(self) -> None: ...


class Log:
    """The log of one run. Use it as a context manager.

    `metrics.jsonl` has one line a step; its floats round-trip exactly. `time` is in seconds since
    1970. Where a resume repeats a step, the later line is valid. In a bucket the lines and the
    events are at most some seconds old (`Mirror`), and `push` puts the last ones.

    Args:
      workdir: the run's folder.
      first, steps: the first step of this start, and the number of steps of the run.
      seconds: between two lines on a screen that is not a terminal.
      more: boards beside TensorBoard.
    """

    def __init__(
        self,
        workdir: Path,
        first: int,
        steps: int,
        seconds: float = 15.0,
        more: Sequence[Board] = (),
    ):
        self._mirror = Mirror(workdir) if isinstance(workdir, BucketPath) else None
        here = self._mirror.folder if self._mirror else workdir
        # A run that was copied from a bucket to a disk has parts too.
        in_parts = self._mirror is not None or (workdir / METRICS).is_dir()
        self._lines: LogLines = InParts(workdir, here) if in_parts else OneFile(workdir / METRICS)
        part = PART_BYTES if self._mirror else None
        self._boards: list[Board] = [_Events(here / "tensorboard", first, part), *more]
        self._first, self._steps, self._seconds = first, steps, seconds
        # The first step includes compiling, so the clock of the rate starts after it.
        self._opened = self._printed = time.monotonic()
        self._began: float | None = None
        self._bar = _make_bar() if sys.stderr.isatty() else None
        if self._bar:
            self._task = self._bar.add_task(
                "compiling", total=steps, completed=first, loss=float("nan"), start=False
            )

    def __enter__(self) -> "Log":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._bar:
            self._bar.stop()
        self._lines.close()
        for board in self._boards:
            board.close()
        if self._mirror:
            try:
                self._mirror.close()
            except OSError:
                # A bucket that is gone must not hide why the run has ended.
                if error is None:
                    raise

    def push(self) -> None:
        """Wait until the lines of all steps are where they stay, as a checkpoint of them will."""
        if self._mirror:
            self._mirror.push()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write a step's numbers to the file and the boards, and move the bar."""
        numbers = {name: _plain(value) for name, value in metrics.items()}
        self._lines.write(
            json.dumps({"step": step, **numbers, "time": round(time.time(), 3)}) + "\n"
        )
        for board in self._boards:
            board.write(step, numbers)
        self._show(step, numbers["loss"])

    def say(self, words: str) -> None:
        """Print a line for people, above the bar."""
        if self._bar:
            # Through the bar's console: the bar would draw over a plain print.
            self._bar.console.print(words)
        else:
            print(words, file=sys.stderr, flush=True)

    def _show(self, step: int, loss: float) -> None:
        done, now = step + 1, time.monotonic()
        if self._began is None:
            self._began = self._printed = now
            if self._bar:
                self._bar.start_task(self._task)
                self._bar.update(self._task, description="pretrain", completed=done, loss=loss)
            else:
                self.say(
                    f"step {done}/{self._steps}  loss {loss:.4f}  ({now - self._opened:.1f} s with"
                    " compiling; the rate counts later steps)"
                )
        elif self._bar:
            self._bar.update(self._task, completed=done, loss=loss)
        elif now - self._printed > self._seconds or done == self._steps:
            # The clock began after the first step of this start,
            # so that step is not counted either.
            rate = (done - self._first - 1) / max(now - self._began, 1e-9)
            left = (self._steps - done) / rate / 60
            self.say(
                f"step {done}/{self._steps}  loss {loss:.4f}  {rate:.2f} steps/s  {left:.1f} min"
                " left"
            )
            self._printed = now


class _Events:
    """TensorBoard events, written in the calling thread.

    The usual writer's thread ends when the disk is full. Its queue then fills, and the run hangs.

    Args:
      part: bytes from which on another file begins; None for one file.
    """

    def __init__(self, folder: Path, first: int, part: int | None):
        # Here, not at the top: tensorboardX takes a second, and only a run that trains needs it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._writer, self._folder, self._part = EventsWriter, folder, part
        self._count = self._bytes = 0
        self._next()
        # TensorBoard drops the events that an earlier start wrote from this step on.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._file.write_event(self._event(wall_time=time.time(), step=first, session_log=start))

    def _next(self) -> None:
        """Begins a file. TensorBoard reads those of a folder in the order of their names."""
        self._count, self._bytes = self._count + 1, 0
        suffix = f".{self._count:05d}" if self._part else ""
        self._file = self._writer(str(self._folder / "events"), filename_suffix=suffix)

    def write(self, step: int, numbers: Mapping[str, float | int]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=value) for name, value in numbers.items()
        ]
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        self._file.write_event(event)
        self._file.flush()
        self._bytes += event.ByteSize()
        if self._part and self._bytes >= self._part:
            self._file.close()
            self._next()

    def close(self) -> None:
        self._file.close()


class Silence:
    """The log of all processes but the first: the numbers are the same everywhere."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, kind, error, trace) -> None:
        pass

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        pass

    def push(self) -> None:
        pass

    def say(self, words: str) -> None:
        pass


class OneBehind:
    """See `one_behind`."""

    def __init__(self, write: Callable[[int, dict[str, Any]], None]):
        self._write = write
        self._waiting: tuple[int, dict[str, Any]] | None = None

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        """Hands over the step before, and keeps this one."""
        self.flush()
        self._waiting = (step, metrics)

    def flush(self) -> None:
        """Hands over the step that is kept, for which this waits."""
        waiting, self._waiting = self._waiting, None
        if waiting:
            self._write(*waiting)


@contextmanager
def one_behind(write: Callable[[int, dict[str, Any]], None]) -> Iterator[OneBehind]:
    """A function of a step and its metrics that hands `write` those of the step before.

    Step n is dispatched before the numbers of step n - 1 are read, so the device never waits for
    the log. The last step is written on leaving, even if the next batch cannot be read: that step
    is done, and may be in a checkpoint.

    Example:
      >>> with one_behind(lambda step, metrics: print(step)) as report:
      ...     report(0, {})
      ...     report(1, {})
      ...     print("leaving")
      0
      leaving
      1
    """
    report = OneBehind(write)
    try:
        yield report
    finally:
        report.flush()


def read_metrics(workdir: Path) -> list[dict[str, float | int]]:
    """The numbers of each step, in order; the unfinished line of a killed process is skipped."""
    steps: dict[int, dict] = {}
    for line in "\n".join(file.read_text() for file in metrics_files(workdir)).splitlines():
        try:
            numbers = json.loads(line)
        except ValueError:
            continue
        # A resume repeats some steps. The later line replaces the earlier one.
        steps[numbers["step"]] = numbers
    return [steps[step] for step in sorted(steps)]


def _make_bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, transient=False)


def _plain(value: Any) -> float | int:
    # This waits for the device. JSON takes only plain Python numbers.
    scalar = np.asarray(value)
    return int(scalar) if np.issubdtype(scalar.dtype, np.integer) else float(scalar)
