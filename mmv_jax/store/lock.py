"""Lock on a store, in a file system or a bucket: only one ingest at a time."""

import _thread
import contextlib
import fcntl
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorstore as ts

from mmv_jax.buckets import is_address
from mmv_jax.errors import UserError, WorkFailed

LOCK = "ingest.lock"
BEAT_S = 5.0  # interval at which the holder of a bucket's lock rewrites it
WATCH_S = 3 * BEAT_S  # for which a lock is watched before it is taken over


@contextlib.contextmanager
def only_ingest(store: str | Path, root: ts.KvStore) -> Iterator[Callable[[], None]]:
    """Hold the store's lock. A second ingest would remove the unfinished parts of the first.

    Yields a function that raises WorkFailed where another ingest has taken the lock over.

    Raises:
      UserError: another ingest writes to the store.
    """
    with _bucket_lock(store, root) if is_address(store) else _file_lock(store) as check:
        yield check


@contextlib.contextmanager
def _file_lock(store: str | Path) -> Iterator[Callable[[], None]]:
    folder = Path(store).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as lock:
        try:
            # The kernel frees the lock when its process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _is_taken(store) from None
        yield lambda: None


def _is_taken(store: str | Path) -> UserError:
    return UserError(f"Another ingest writes to {store}. Wait for it, or use another store.")


@contextlib.contextmanager
def _bucket_lock(store: str | Path, root: ts.KvStore) -> Iterator[Callable[[], None]]:
    """Hold a lock object in the bucket; the bucket decides between two simultaneous ingests.

    The object is written only if there is none, or if it has not changed since it was read. What a
    killed ingest has left does not change while it is watched.
    """
    there = root.read(LOCK).result()
    if there.state == "value":
        time.sleep(WATCH_S)
        if root.read(LOCK).result().value != there.value:
            raise _is_taken(store)
    token = secrets.token_hex(8)
    # The second of two finds another generation, and the bucket ignores its write.
    root.write(LOCK, _word(token), if_equal=there.stamp.generation).result()
    # Drivers report a failed condition differently, so the lock is read again.
    now = root.read(LOCK).result()
    if now.state != "value" or json.loads(now.value)["token"] != token:
        raise _is_taken(store)
    ended, lost = threading.Event(), threading.Event()
    beat = threading.Thread(target=_beat, args=(root, token, ended, lost), daemon=True)
    beat.start()

    def check() -> None:
        if lost.is_set():
            raise WorkFailed(
                f"This ingest stood still for {WATCH_S:g} s or more, and another one has taken over"
                f" {store}. Wait for that one, then give the same command again."
            )

    try:
        yield check
    except KeyboardInterrupt:
        check()
        raise
    finally:
        # The beat must end first: a late one would write the lock again after its removal.
        ended.set()
        beat.join()
        _give_back(root, token)


def _give_back(root: ts.KvStore, token: str) -> None:
    """Removes the lock, unless another ingest has taken it over since the last beat."""
    there = root.read(LOCK).result()
    if there.state == "value" and json.loads(there.value)["token"] == token:
        root.write(LOCK, None, if_equal=there.stamp.generation).result()


def _word(token: str) -> bytes:
    # The time makes each beat another content; nobody compares it with a clock.
    return json.dumps({"token": token, "at": time.time()}).encode()


def _beat(root: ts.KvStore, token: str, ended: threading.Event, lost: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        # If the bucket cannot be reached for a moment, the next beat may succeed.
        with contextlib.suppress(ValueError):
            there = root.read(LOCK).result()
            # A process that was suspended wakes up here, when another may write to the store.
            if there.state != "value" or json.loads(there.value)["token"] != token:
                lost.set()
                # In vain where SIGINT is ignored, as behind nohup: an ingest also asks by itself.
                _thread.interrupt_main()
                return
            root.write(LOCK, _word(token), if_equal=there.stamp.generation).result()
