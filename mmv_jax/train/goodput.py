"""Which share of the wall time trains: compiling, waiting for rows, steps, saves, restores, and
steps that were lost.
"""

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmv_jax.train.log_files import metrics_files
from mmv_jax.train.phases import Phases

# Shares of the wall time, in the order in which they are told. "lost": steps of earlier starts that
# no checkpoint had, with all that was done for them.
SHARES = ("step", "input", "compile", "save", "restore", "opening", "probe", "lost")
SLOW = 2.0  # times the median wait for rows, from which a process is named
NOTABLE = 0.05  # of the wall time; a shorter wait names nobody
TAIL = 2**16  # bytes at the end of the log in which its last line lies


class Goodput:
    """The ledger of a run over all its starts.

    Args:
      before: seconds by name of the starts before, with those that are lost.
      waits: seconds that each process has waited for rows, by number; this process's own is
        replaced by what `phases` knows.
    """

    def __init__(
        self,
        phases: Phases,
        before: Mapping[str, float] | None = None,
        waits: Callable[[], Mapping[int, float]] = dict,
    ):
        self._phases, self._before, self._waits = phases, dict(before or {}), waits
        self._last: tuple[int, float, dict[int, float]] | None = None

    def seconds(self) -> dict[str, float]:
        """By name, over all starts."""
        now = self._phases.seconds()
        names = sorted(now.keys() | self._before.keys())
        return {name: now.get(name, 0.0) + self._before.get(name, 0.0) for name in names}

    def figures(self, step: int) -> dict[str, float]:
        """`wall_s`, `share_*` of it, and seconds a step that processes waited for rows since the
        last call: `input_worst_s`, `input_median_s`, and the number of the worst as `straggler`
        where it is far above the median.
        """
        spent = self.seconds()
        wall = max(sum(spent.values()), 1e-9)
        found = {"wall_s": wall} | {f"share_{name}": spent.get(name, 0.0) / wall for name in SHARES}
        return found | self._of_processes(step)

    def _of_processes(self, step: int) -> dict[str, float]:
        own = self._phases.seconds()
        waits = {0: 0.0, **self._waits()} | {0: own.get("input", 0.0)}
        wall = sum(own.values())
        last, self._last = self._last, (step, wall, waits)
        if last is None or step <= last[0]:
            return {}
        steps, passed = step - last[0], wall - last[1]
        since = {index: wait - last[2].get(index, 0.0) for index, wait in waits.items()}
        worst, usual = max(since, key=since.__getitem__), statistics.median(since.values())
        found = {"input_worst_s": since[worst] / steps, "input_median_s": usual / steps}
        if len(since) > 1 and since[worst] > max(SLOW * usual, NOTABLE * passed):
            found["straggler"] = worst
        return found


def lost_seconds(workdir: Path, saved_at: float | None) -> float:
    """How long earlier starts went on behind the checkpoint that is gone on from: work that is done
    again.

    Args:
      saved_at: when that checkpoint was made, in seconds since 1970; None for none.
    """
    files = metrics_files(workdir)
    if not files:
        return 0.0
    with files[0].open("rb") as file:
        first = _time_of(file.readline())
    with files[-1].open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - TAIL))
        times = [_time_of(line) for line in file.read().splitlines()]
    known = [time for time in times if time is not None]
    begun = first if saved_at is None else saved_at
    return max(0.0, known[-1] - begun) if known and begun is not None else 0.0


def _time_of(line: bytes) -> float | None:
    try:
        return json.loads(line)["time"]
    except (ValueError, KeyError, TypeError):
        return None  # half a line, of a process that was killed


def in_words(line: Mapping[str, Any]) -> str:
    """The shares of a line of the log, for people; nothing where it has none."""
    if "wall_s" not in line:
        return ""
    shares = {name: line.get(f"share_{name}", 0.0) for name in SHARES}
    # What takes less than half a percent is not worth its place.
    told = [f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005]
    words = f"{', '.join(told)} of {line['wall_s'] / 3600:.3g} hours"
    if "input_worst_s" in line:
        words += (
            f"; waits for rows {line['input_worst_s']:.3g} s a step at worst,"
            f" {line['input_median_s']:.3g} s in the median"
        )
    return words
