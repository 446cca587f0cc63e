"""Rows a second that one host makes, by the number of its worker processes, beside an older version
and beside what a step consumes.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmv_jax.config import to_json
from mmv_jax.store.read import Store

HOST_ROWS = 4  # rows of a batch of the timed host: few, so that a turn is short
SETTLES_S, SAMPLES = 120.0, 12
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Rate:
    """What the rows of one host took, medians over turns.

    Attributes:
      rows_per_s: by the wall clock.
      cpu_s: seconds of one core that a row takes, over all of the host's processes.
      loop_s: seconds of the thread that receives the batches, a row.
      sent_bytes: of a row, as it travels to the devices.
      read_bytes: of a row, read from the store's files.
      first_batch_s: from the start of the process, with the plan of the first epoch.
      left_out: keys of the config that this version does not know, and makes its rows without.
    """

    rows_per_s: float
    cpu_s: float
    loop_s: float
    sent_bytes: float
    read_bytes: float
    first_batch_s: float
    left_out: tuple[str, ...] = ()


def row_rates(
    store: Store,
    config: ConfigDict,
    versions: dict[str, str],
    workers: Sequence[int],
    turns: int,
) -> dict[tuple[str, int], Rate]:
    """The rate of each version and number of workers; versions with as many workers run in turn.

    A process that is not timed is stopped, so that its workers take no core from the one that is.

    Args:
      versions: by name, the folder that `mmv_jax` is imported from.
    """
    store.index.to_parquet(f"{store.path}/index.parquet")
    rates = {}
    for count in workers:
        with contextlib.ExitStack() as processes:
            timed = {
                name: processes.enter_context(_host(store.path, config, source, count))
                for name, source in versions.items()
            }
            found: dict[str, list[dict[str, float]]] = {name: [] for name in timed}
            for turn in range(turns + 1):
                for name, host in timed.items():
                    # The first turn only empties what was made before: three batches a worker.
                    figures = host.batches((2 if turn else 4) * count)
                    if turn:
                        found[name].append(figures)
            for name, host in timed.items():
                medians = {
                    key: statistics.median(figures[key] for figures in found[name])
                    for key in found[name][0]
                }
                rates[name, count] = Rate(
                    **medians, first_batch_s=host.first_batch_s, left_out=host.left_out
                )
    return rates


class _Host:
    """A running `row_process`, stopped except while it is asked for batches."""

    def __init__(self, process: subprocess.Popen, began: float):
        self._process = process
        assert process.stdin and process.stdout
        self._asked, self._answers = process.stdin, process.stdout
        self.left_out: tuple[str, ...] = tuple(self._answer()["left_out"])
        self.first_batch_s = time.perf_counter() - began
        self._settle()
        self._signal(signal.SIGSTOP)

    def batches(self, count: int) -> dict[str, float]:
        """What `count` batches took, a row."""
        self._signal(signal.SIGCONT)
        before = _used(self._process.pid)
        self._asked.write(f"{count}\n")
        self._asked.flush()
        answer, after = self._answer(), _used(self._process.pid)
        self._signal(signal.SIGSTOP)
        rows = count * HOST_ROWS
        return {
            "rows_per_s": rows / answer["wall_s"],
            "cpu_s": (after[0] - before[0]) / rows,
            "loop_s": answer["loop_s"] / rows,
            "sent_bytes": answer["sent_bytes"] / rows,
            "read_bytes": (after[1] - before[1]) / rows,
        }

    def _settle(self) -> None:
        """Wait until the buffers are full, and the epochs to come are planned: until hardly any
        sample of a second finds a thread at work.
        """
        latest = time.monotonic() + SETTLES_S
        while time.monotonic() < latest:
            samples = []
            for _ in range(SAMPLES):
                samples.append(_is_busy(self._process.pid))
                time.sleep(1 / SAMPLES)
            # Planner and workers look for work now and then.
            if sum(samples) <= SAMPLES // 4:
                return

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise RuntimeError("the process that makes rows ended; its message stands above")
        return json.loads(line)

    def _signal(self, which: signal.Signals) -> None:
        os.killpg(self._process.pid, which)


@contextlib.contextmanager
def _host(store: str, config: ConfigDict, source: str, workers: int) -> Iterator[_Host]:
    file = Path(__file__).with_name("row_process.py")
    arguments = [store, to_json(config), str(HOST_ROWS), str(workers)]
    began = time.perf_counter()
    with subprocess.Popen(
        # -P: the file's own folder is no place to import from.
        [sys.executable, "-P", str(file), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": source, "JAX_PLATFORMS": "cpu"},
        # a group of its own: it and its workers are stopped together
        start_new_session=True,
    ) as process:
        try:
            yield _Host(process, began)
        finally:
            _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a host. Killed at once, its workers would leave shared memory behind."""
    assert process.stdin
    with contextlib.suppress(ProcessLookupError, BrokenPipeError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGCONT)
        process.stdin.close()  # it ends with its input
        process.wait(60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _used(group: int) -> tuple[float, int]:
    """Seconds of the cores, and bytes read from files, of all processes of a group so far."""
    seconds, read = 0.0, 0
    for place, stat in _processes(group):
        # User and system time; `rchar` counts what comes from the system's cache too.
        seconds += (int(stat[11]) + int(stat[12])) / TICKS
        with contextlib.suppress(OSError):
            read += int(Path(place, "io").read_text().split()[1])
    return seconds, read


def _is_busy(group: int) -> bool:
    """Whether a thread of the group runs or waits for a core: by its state, since a process that
    gets no core would seem idle by its time.
    """
    for place, _ in _processes(group):
        for task in _entries(f"{place}/task"):
            with contextlib.suppress(OSError):
                if _stat(task)[0] == "R":
                    return True
    return False


def _processes(group: int) -> Iterator[tuple[str, list[str]]]:
    """The folder in /proc, and the fields of `stat`, of each process of a group."""
    for place in _entries("/proc"):
        with contextlib.suppress(OSError):
            if int((stat := _stat(place))[2]) == group:
                yield place, stat


def _entries(folder: str) -> list[str]:
    with contextlib.suppress(OSError):  # a process that has ended
        return [entry.path for entry in os.scandir(folder) if entry.name.isdigit()]
    return []


def _stat(place: str) -> list[str]:
    """State, parent, group, ...: what follows the name, which stands in brackets."""
    return Path(place, "stat").read_text().rpartition(")")[2].split()
