"""Where the lines of a run's `metrics.jsonl` lie: in one file, or in a bucket in numbered parts."""

import io
from pathlib import Path
from typing import IO, Protocol

from mmv_jax.buckets import BucketPath
from mmv_jax.mirror import PART_BYTES

METRICS = "metrics.jsonl"


class LogLines(Protocol):
    """A log to which whole lines are added."""

    def write(self, line: str) -> None: ...

    def close(self) -> None: ...


class OneFile:
    """A log in one file, which is appended to: a resume keeps the lines of the start before it."""

    def __init__(self, path: Path):
        self._file = path.open("a")
        if _ends_within_a_line(path):
            # A killed process may have left half a line; the next one must not be joined to it.
            self._file.write("\n")

    def write(self, line: str) -> None:
        # Written at once: a killed run leaves whole lines, and `tail -f` shows them.
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class InParts:
    """A log in a bucket: `metrics.jsonl/00001.jsonl`, and so on, one after the other.

    Each start begins a part, and a full part begins the next.

    Args:
      workdir: the run's; the parts of earlier starts are counted there.
      here: the folder of this machine to which parts are written.
    """

    def __init__(self, workdir: Path, here: Path):
        self._folder = here / METRICS
        self._folder.mkdir(exist_ok=True)
        names = [path.stem for path in metrics_files(workdir)]
        self._number = max((int(name) for name in names if name.isdigit()), default=0)
        self._file: IO[str] = io.StringIO()
        self._next()

    def write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()
        if self._file.tell() >= PART_BYTES:
            self._next()

    def close(self) -> None:
        self._file.close()

    def _next(self) -> None:
        self._file.close()
        self._number += 1
        self._file = (self._folder / f"{self._number:05d}.jsonl").open("w")


def metrics_files(workdir: Path) -> list[Path]:
    """The files of a run's log that are there, in the order of their lines."""
    path = workdir / METRICS
    if isinstance(path, BucketPath) or path.is_dir():
        # A folder also where a run was copied from a bucket to a disk.
        return sorted(path.iterdir())
    return [path] if path.is_file() else []


def has_log(workdir: Path) -> bool:
    """Whether a run has written a line in a workdir."""
    files = metrics_files(workdir)
    # An empty part is never put into a bucket.
    return bool(files) and (isinstance(workdir, BucketPath) or files[-1].stat().st_size > 0)


def _ends_within_a_line(path: Path) -> bool:
    content = path.read_bytes()
    return bool(content) and not content.endswith(b"\n")
