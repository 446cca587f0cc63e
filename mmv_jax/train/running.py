"""The lock of a workdir, which names the process that trains there.

The system releases the lock when the process ends, however it ends.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax

from mmv_jax.errors import UserError

FILE = "running.json"


@dataclass(frozen=True)
class Process:
    """The process that trains in a workdir, or the last one that did.

    Attributes:
      since: when it began, in seconds since 1970.
      is_alive: None where the lock of another machine is not visible from here.
    """

    pid: int
    host: str
    since: float
    is_alive: bool | None

    @property
    def name(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def running(workdir: Path) -> Iterator[None]:
    """Hold a workdir for this process; the first process of a run does so for all.

    Raises:
      UserError: another process is training there.
    """
    # One lock a run: it would refuse the run's other processes.
    if jax.process_index():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    # Not truncated on opening: until we hold the lock, the content belongs to another process.
    with (workdir / FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = process_of(workdir)
            raise UserError(
                f"--workdir {workdir}: {other.name if other else 'a process'} is training there."
                " Stop it, wait for it (`mmv status` says how far it is), or give another"
                " --workdir."
            ) from None
        except OSError:
            pass  # a file system without locks: some mounted buckets are one
        # Mode "a+" writes at the end of the file, which is now its beginning.
        file.truncate(0)
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": round(time.time(), 3)}
        file.write(json.dumps(about) + "\n")
        file.flush()
        # Closing the file gives up the lock, so the whole run happens inside this block.
        yield


def process_of(workdir: Path) -> Process | None:
    """The process that trains in a workdir, or the last that did; None where nothing is known."""
    try:
        with (workdir / FILE).open() as file:
            about = json.loads(file.read())
            alive = _is_locked(file)
    except (OSError, ValueError):
        return None
    elsewhere = about["host"] != socket.gethostname()
    # Not every shared file system shows the locks of another machine.
    is_alive = None if elsewhere and not alive else alive
    return Process(about["pid"], about["host"], about["since"], is_alive)


def _is_locked(file) -> bool:
    try:
        # A shared lock: two processes that look at the same time must not refuse each other.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    # Released at once: a look at the lock must not keep a run from starting.
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
