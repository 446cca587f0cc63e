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

METRICS = "metrics.jsonl"


@runtime_checkable
class Board(Protocol):
    """A place for a step's numbers beside `metrics.jsonl`."""

    def write(self, step: int, numbers: Mapping[str, float | int]) -> None: ...

    def close(self) -> None: ...


class Log:
    """The log of one run. Use it as a context manager.

    `metrics.jsonl` has one line a step; its floats round-trip exactly. `time` is in seconds since
    1970. Where a resume repeats a step, the later line is valid.

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
        # Appended to: a resume keeps the lines of the start before it.
        self._file = (workdir / METRICS).open("a")
        if _ends_within_a_line(workdir / METRICS):
            # A killed process may have left half a line; the next one must not be joined to it.
            self._file.write("\n")
        self._boards: list[Board] = [_Events(workdir / "tensorboard", first), *more]
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
        self._file.close()
        for board in self._boards:
            board.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write a step's numbers to the file and the boards, and move the bar."""
        numbers = {name: _plain(value) for name, value in metrics.items()}
        # Each line is written at once: a killed run leaves whole lines, and `tail -f` shows them.
        self._file.write(
            json.dumps({"step": step, **numbers, "time": round(time.time(), 3)}) + "\n"
        )
        self._file.flush()
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
    """

    def __init__(self, folder: Path, first: int):
        # Here, not at the top: tensorboardX takes a second, and only a run that trains needs it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"))
        # TensorBoard drops the events that an earlier start wrote from this step on.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._file.write_event(self._event(wall_time=time.time(), step=first, session_log=start))

    def write(self, step: int, numbers: Mapping[str, float | int]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=value) for name, value in numbers.items()
        ]
        self._file.write_event(
            self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        )
        self._file.flush()

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
    for line in (workdir / METRICS).read_text().splitlines():
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


def _ends_within_a_line(path: Path) -> bool:
    content = path.read_bytes()
    return bool(content) and not content.endswith(b"\n")
