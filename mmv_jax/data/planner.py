"""Packs the epochs of a run once a host and ahead of time, in a process of its own.

Packing 742,000 lines takes half a minute. Without this, each of a host's workers would do it, and
all of them would stop at the end of every epoch.
"""

import fcntl
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from pathlib import Path

import numpy as np

from mmv_jax.data.packing import Packed
from mmv_jax.data.workers import held_signals
from mmv_jax.errors import UserError
from mmv_jax.files import write_whole

LEAST = 20_000  # lines of an epoch from which a process pays: fewer are packed in a moment
AHEAD = 2  # epochs that are packed before somebody asks for them
KEPT = 2  # epochs before the newest one asked for that stay: workers are not in step
POLL_S = 0.05
STARTS_S = 60.0  # a planner that has not come by then has died on its way
ALIVE = "alive"  # held locked by the planner as long as it lives, however it ends


class SharedPlans:
    """Reads what the planner of this host writes; the `pack` of a `Plan` in a worker process.

    Args:
      folder: of `shared_plans`.
      pack: packs an epoch here, where the planner has died.
    """

    def __init__(self, folder: str, pack: Callable[[int], Packed]):
        self._folder, self._pack = Path(folder), pack

    def __call__(self, epoch: int) -> Packed:
        """The rows of an epoch and the cost of each; waits until they are there."""
        (self._folder / f"wanted-{epoch}").touch()
        while not (file := _file(self._folder, epoch)).is_file():
            gone = max(_wanted(self._folder), default=epoch) > epoch + KEPT
            if gone or not _is_alive(self._folder):
                return self._pack(epoch)
            time.sleep(POLL_S)
        with np.load(file, allow_pickle=False) as packed:
            return np.split(packed["lines"], packed["ends"][:-1]), packed["costs"]


@contextmanager
def shared_plans(pack: Callable[[int], Packed], first: int) -> Iterator[str]:
    """A folder for `SharedPlans`, into which a process packs the epochs from `first` on. The
    process and the folder end with the context, or with this process.
    """
    folder = tempfile.mkdtemp(prefix="mmv-plans-")
    # A signal to stop comes to every process of a job: the loop still needs its plan then.
    with held_signals():
        planner = multiprocessing.get_context("spawn").Process(
            target=_plan, args=(folder, pack, first), daemon=True
        )
        planner.start()
    try:
        yield folder
    finally:
        planner.kill()
        planner.join()
        shutil.rmtree(folder, ignore_errors=True)


def _plan(folder: str, pack: Callable[[int], Packed], first: int) -> None:
    """The planner process: packs ahead of what is asked for, until its parent ends."""
    parent, place = parent_process(), Path(folder)
    assert parent is not None
    with open(place / ALIVE, "wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        done, kept = first - 1, first
        while place.is_dir():
            newest = max(_wanted(place), default=first)
            if done < newest + AHEAD:
                done += 1
                try:
                    packed = pack(done)
                except UserError:
                    return  # a worker packs the epoch itself, and says the same to the user
                _write(place, done, packed)
                for old in range(kept, newest - KEPT):
                    _file(place, old).unlink(missing_ok=True)
                kept = max(kept, newest - KEPT)
            elif connection.wait([parent.sentinel], timeout=POLL_S):
                shutil.rmtree(place, ignore_errors=True)


def _write(folder: Path, epoch: int, packed: Packed) -> None:
    rows, costs = packed
    ends = np.cumsum([len(row) for row in rows])
    lines = np.concatenate(rows)
    # Whole or not at all: readers wait for the name.
    write_whole(
        _file(folder, epoch), lambda file: np.savez(file, lines=lines, ends=ends, costs=costs)
    )


def _file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch}.npz"


def _wanted(folder: Path) -> list[int]:
    """The epochs that were asked for."""
    names = os.listdir(folder) if folder.is_dir() else []
    return [int(found[1]) for name in names if (found := re.fullmatch(r"wanted-(\d+)", name))]


def _is_alive(folder: Path) -> bool:
    try:
        with open(folder / ALIVE, "rb") as file:
            # A lock ends with its process, also with one that was killed.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return folder.is_dir() and time.time() - folder.stat().st_ctime < STARTS_S
