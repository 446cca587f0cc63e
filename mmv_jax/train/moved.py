"""Bytes that have moved: how a save that hangs is told from one that is slow."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import tensorstore as ts

LEAST = 2**20  # bytes that count as progress: logs and signs of life move less in a minute
PAGE = 4096


def moved_bytes() -> dict[str, int]:
    """Bytes read and written so far, by what counts them: only counters that this system has.

    No counter knows of all storage. TensorStore counts a file when it is written, which a large one
    may be after a minute. What happens in between is seen by the network's counter (buckets, NFS)
    or by that of pages that left the cache (disks). Both are of the whole machine, so other work
    there may hide that a save hangs.
    """
    found = {"files": _of_tensorstore()}
    for name, counted in (("calls", _of_calls), ("network", _of_network), ("disk", _of_disk)):
        # Other systems than Linux have no such files.
        with contextlib.suppress(OSError, ValueError, IndexError):
            found[name] = counted()
    return found


class Progress:
    """How long no byte has moved.

    Args:
      counted: bytes so far, by source.
      clock: seconds, never set back.
    """

    def __init__(
        self,
        counted: Callable[[], Mapping[str, int]] = moved_bytes,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._counted, self._clock = counted, clock
        self._last, self._since = counted(), clock()

    def idle(self) -> float:
        """Seconds since a look that found progress; to be called every second or so."""
        now, found = self._clock(), self._counted()
        if any(value - self._last.get(name, 0) >= LEAST for name, value in found.items()):
            self._last, self._since = found, now
        return now - self._since


def _of_tensorstore() -> int:
    """Of all files and objects that TensorStore has read or written, whole ones alone."""
    metrics = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/")
    return sum(
        int(one.get("value", 0))
        for metric in metrics
        if metric["name"].endswith(("/bytes_read", "/bytes_written"))
        for one in metric["values"]
    )


def _of_calls() -> int:
    """Of this process's reads and writes of files, those from and to the cache included."""
    counters = dict(line.split(": ") for line in _lines("/proc/self/io"))
    return int(counters["rchar"]) + int(counters["wchar"])


def _of_network() -> int:
    """Received and sent by all interfaces but the loopback."""
    total = 0
    for line in list(_lines("/proc/net/dev"))[2:]:
        name, _, counters = line.partition(":")
        if name.strip() != "lo":
            columns = counters.split()
            total += int(columns[0]) + int(columns[8])
    return total


def _of_disk() -> int:
    """Of pages that the system has written out."""
    pages = [line.split()[1] for line in _lines("/proc/vmstat") if line.startswith("nr_written ")]
    return PAGE * int(pages[0])


def _lines(path: str) -> Iterator[str]:
    return iter(Path(path).read_text().splitlines())
