"""Which process trains in a workdir: a lock of the system on one machine, and beyond it a file that
beats.

A lock of the system ends with its process. But another machine may not see it, a lost machine may
keep it, and buckets have none. There the file `running.json` tells: a run that lives rewrites it
every few seconds. Of two that begin at the same time in a bucket, the bucket takes the file of one.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jax

from mmv_jax.buckets import BucketPath
from mmv_jax.errors import UserError
from mmv_jax.files import try_lock
from mmv_jax.report.progress import say

FILE = "running.json"
BEAT_S = 5.0  # between two beats of the file
WATCH_S = 3 * BEAT_S  # for which a file of another machine is watched before it is taken over


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


class Owner:
    """The hold of this process on a workdir, while it is kept."""

    def __init__(self, workdir: Path):
        self._path = workdir / FILE
        # host of each process by its number, for `mmv status`
        self.hosts: Callable[[], dict[str, str]] = dict
        self._over = threading.Event()
        self._answered = time.monotonic()
        token = secrets.token_hex(8)
        self._about: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "machine": machine(),
            "since": round(time.time(), 3),
            "token": token,
            "beat": 0,
        }

    def silence(self) -> float:
        """Seconds since the workdir's storage answered last."""
        # Nothing is written before `begin` or by processes other than the first.
        return 0.0 if self._over.is_set() else time.monotonic() - self._answered

    @property
    def words(self) -> str:
        """What the file says of this process."""
        return json.dumps(self._about) + "\n"

    def begin(self) -> None:
        """Writes the file, and beats from now on."""
        self._write()
        threading.Thread(target=self._beat, daemon=True).start()

    def end(self) -> None:
        """Says in the file that this process trains here no more."""
        self._over.set()
        self._about["ended"] = True
        # A full disk or a lost share must not hide why the run has ended.
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._write()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                if not self._is_ours():
                    # It stood still for long, as a machine that slept does.
                    say(
                        f"mmv pretrain: another run has taken over {self._path.parent}. This one"
                        " ends."
                    )
                    os._exit(1)
                self._about["beat"] += 1
                self._about["hosts"] = self.hosts()
                if not self._over.is_set():
                    self._write()
            except OSError:
                continue  # the storage: `silence` grows, and the watchdog says so
            self._answered = time.monotonic()

    def _is_ours(self) -> bool:
        return read_words(self._path).get("token", self._about["token"]) == self._about["token"]

    def _write(self) -> None:
        if isinstance(self._path, BucketPath):
            self._path.write_text(self.words)
            return
        # In place: a new file under this name would be without the lock. Closing it reaches the
        # server of a shared file system, and hangs where that does.
        with self._path.open("r+") as file:
            file.write(self.words)
            file.truncate()


@contextmanager
def running(workdir: Path) -> Iterator[Owner | None]:
    """Keeps a workdir for this process; of several processes the first one does, and the others get
    None.

    What a killed process has left never keeps a run out: its lock ended with it, or its file has
    ceased to beat.

    Raises:
      UserError: another process is training there.
    """
    if jax.process_index():
        yield None
        return
    if isinstance(workdir, BucketPath):
        owner = _hold_in_bucket(workdir)
        try:
            yield owner
        finally:
            owner.end()
        return
    workdir.mkdir(parents=True, exist_ok=True)
    # Not truncated on opening: until the hold is ours, the words in it are another's.
    with (workdir / FILE).open("a+") as file:
        locked = try_lock(file)
        before = read_words(workdir / FILE)
        here = before.get("machine", machine()) == machine() and _host(before)
        if locked is False and (here or beats(workdir / FILE)):
            raise _refusal(workdir, before)
        # Where the lock tells nothing of the one that was here before, its file does.
        decided = locked and here
        if before and not decided and not before.get("ended") and beats(workdir / FILE):
            raise _refusal(workdir, before)
        owner = Owner(workdir)
        owner.begin()
        try:
            # Closing the file gives up the lock, so the whole run happens inside this block.
            yield owner
        finally:
            owner.end()


def _hold_in_bucket(workdir: BucketPath) -> Owner:
    path = workdir / FILE
    content, mark = path.read_marked()
    before = _parsed(content or b"{}")
    if before and not before.get("ended") and beats(path):
        raise _refusal(workdir, before)
    owner = Owner(workdir)
    # The file may have changed since it was read: then another run begins right now.
    if not path.write_if(mark, owner.words.encode()):
        raise _refusal(workdir, read_words(path))
    owner.begin()
    return owner


def beats(path: Path) -> bool:
    """Whether a file changes while it is watched for some seconds."""
    first, until = read_words(path), time.monotonic() + WATCH_S
    while time.monotonic() < until:
        time.sleep(BEAT_S / 10)
        now = read_words(path)
        # Within a rewrite nothing can be read, which tells neither one nor the other.
        if first and now and now != first:
            return not now.get("ended")
        first = first or now
    return False


def machine() -> str:
    """This machine, until it is started again: two containers of one name are told apart by it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def read_words(path: Path) -> dict[str, Any]:
    """What a run wrote of itself; empty where nothing can be read."""
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def process_of(workdir: Path) -> Process | None:
    """The process that trains in a workdir, or the last that did; None where nothing is known."""
    if isinstance(workdir, BucketPath):
        about = read_words(workdir / FILE)
        alive = False if about.get("ended") else None
        return Process(about["pid"], about["host"], about["since"], alive) if about else None
    try:
        with (workdir / FILE).open() as file:
            about = json.loads(file.read())
            alive = _is_locked(file)
    except (OSError, ValueError):
        return None
    # Not every shared file system shows the locks of another machine.
    is_alive = None if not _host(about) and not alive and not about.get("ended") else alive
    return Process(about["pid"], about["host"], about["since"], is_alive)


def _host(about: dict[str, Any]) -> bool:
    return about.get("host", socket.gethostname()) == socket.gethostname()


def _refusal(workdir: Path, about: dict[str, Any]) -> UserError:
    other = f"process {about['pid']} on {about['host']}" if "pid" in about else "a process"
    return UserError(
        f"--workdir {workdir}: {other} is training there."
        " Stop it, wait for it (`mmv status` says how far it is), or give another"
        " --workdir."
    )


def _is_locked(file: IO[str]) -> bool:
    try:
        # A shared lock: two processes that look at the same time must not refuse each other.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    # Given back at once, so that looking never keeps a run from starting.
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
