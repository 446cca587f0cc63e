"""Lock on a store, in a file system or a bucket: only one ingest at a time."""

import contextlib
import fcntl
import json
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import tensorstore as ts

from mmv_jax.buckets import is_address
from mmv_jax.errors import UserError

LOCK = "ingest.lock"
BEAT_S = 5.0  # interval at which the holder of a bucket's lock rewrites it
WATCH_S = 3 * BEAT_S  # for which a lock is watched before it is taken over


@contextlib.contextmanager
def only_ingest(store: str | Path, root: ts.KvStore) -> Iterator[None]:
    """Hold the store's lock. A second ingest would remove the unfinished parts of the first.

    Raises:
      UserError: another ingest writes to the store.
    """
    with _bucket_lock(store, root) if is_address(store) else _file_lock(store):
        yield


@contextlib.contextmanager
def _file_lock(store: str | Path) -> Iterator[None]:
    folder = Path(store).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as lock:
        try:
            # The kernel frees the lock when its process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _is_taken(store) from None
        yield


def _is_taken(store: str | Path) -> UserError:
    return UserError(f"Another ingest writes to {store}. Wait for it, or use another store.")


@contextlib.contextmanager
def _bucket_lock(store: str | Path, root: ts.KvStore) -> Iterator[None]:
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
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(root, token, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        # The beat must end first: a late one would write the lock again after its removal.
        ended.set()
        beat.join()
        root.write(LOCK, None).result()


def _word(token: str) -> bytes:
    # The time makes each beat another content; nobody compares it with a clock.
    return json.dumps({"token": token, "at": time.time()}).encode()


def _beat(root: ts.KvStore, token: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        # If the bucket cannot be reached for a moment, the next beat may succeed.
        with contextlib.suppress(ValueError):
            root.write(LOCK, _word(token)).result()
