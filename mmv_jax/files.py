"""The atomic write: a reader sees the whole file, the file before it, or none."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from etils import epath

AnyPath: TypeAlias = Path | epath.Path


@contextmanager
def replacing(path: AnyPath) -> Iterator[AnyPath]:
    """Gives a path beside `path` to write to, and renames it to `path` when the block ends well.

    The file is on disk before it gets its name, so a crash of the machine leaves no empty file.
    A block that raises leaves `path` as it was, and nothing beside it. A process that is killed
    leaves a file that ends in `.part`.

    Args:
      path: of `pathlib`, or of `etils.epath` on any file system that can rename.
    """
    # A name of its own, since two machines that share a folder may have equal process ids.
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        if os.path.exists(part):  # buckets have no fsync: there an object is whole or absent
            descriptor = os.open(part, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        part.replace(path)
    # Also on Ctrl-C, which is no Exception.
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: AnyPath, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Writes a file atomically (see `replacing`).

    Args:
      content: text (written as UTF-8, line ends as they are), bytes, or a function that writes to
        the open binary file that it is given.

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
