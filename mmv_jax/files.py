"""Files by pattern; atomic writes: a reader sees the complete file, the earlier one, or none."""

import csv
import fcntl
import json
import os
import re
import secrets
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias, TypeVar

from etils import epath

from mmv_jax.buckets import BucketPath

AnyPath: TypeAlias = Path | epath.Path
T = TypeVar("T")
# What NumPy raises at a .npz that is cut short, empty, or has bytes of another file.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError)


def matching(pattern: Path) -> list[Path]:
    """Files and folders that match a pattern with `*`, `?`, `[...]` or `**`, sorted. In a bucket
    only the last part may be a pattern.

    >>> matching(Path("/no-such-folder/*.csv"))
    []
    """
    if isinstance(pattern, BucketPath):
        return sorted(pattern.parent.glob(pattern.name))
    parts = pattern.parts
    first = next((n for n, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
    return sorted(Path(*parts[:first]).glob(str(Path(*parts[first:]))))


@contextmanager
def replacing(path: AnyPath) -> Iterator[AnyPath]:
    """Give a temporary path beside `path`, and rename it to `path` when the block succeeds.

    The file is on disk before it is renamed, so a crash of the machine leaves no empty file. A
    block that raises leaves `path` unchanged and no temporary file. A killed process leaves a file
    that ends in `.part`.

    Args:
      path: of `pathlib`, of a bucket, or of `etils.epath` on a file system that can rename. In a
        bucket the temporary path is one of this machine, and its file is put when it is complete.
    """
    if isinstance(path, BucketPath):
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder) / path.name
            yield here
            path.write_bytes(here.read_bytes())
        return
    # A random name, since two machines that share a folder may have equal process ids.
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        if os.path.exists(part):  # mounted buckets have no fsync
            descriptor = os.open(part, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        part.replace(path)
    # Also on Ctrl-C, which is not an Exception.
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def meant_by(part: Path) -> Path:
    """The path for which `replacing` gave a temporary one; any other path as it is.

    >>> meant_by(Path("out/m.csv.0a1b2c3d.part")).name
    'm.csv'
    """
    return part.parent / re.sub(r"\.[0-9a-f]{8}\.part$", "", part.name)


def read_kept(path: AnyPath, read: Callable[[Any], T]) -> T | None:
    """What `read` makes of a .npz of an earlier call; None where there is none or it is damaged, so
    that it is made again.
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except DAMAGED:
        return None


def write_whole(path: AnyPath, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file atomically (see `replacing`).

    Args:
      content: text (written as UTF-8, with unchanged line ends), bytes, or a function that writes
        to the open binary file.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "metrics.json"
      >>> write_whole(path, "{}")
      >>> path.read_text(), len(list(path.parent.iterdir()))
      ('{}', 1)
    """
    with replacing(path) as part, part.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)


def write_csv(path: AnyPath, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV, an absent or None cell empty; the file is whole or absent.

    A manifest that was cut short would be read as one of fewer studies.
    """
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: AnyPath, value: Any) -> None:
    """Write a value as JSON; the file is whole or absent."""
    # allow_nan=False raises on a NaN that no one turned into null: NaN is not valid JSON.
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def try_lock(file: IO[str]) -> bool | None:
    """Whether the lock of a file is ours now; None where the file system has none, as some mounted
    buckets.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
