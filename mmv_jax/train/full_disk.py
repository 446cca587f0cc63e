"""A disk without room, said in one sentence: a checkpoint's writers wrap that error in theirs, and
in a thousand lines.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmv_jax.errors import WorkFailed

# no room, over the quota, over the largest file
NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WORDS = tuple(os.strerror(number) for number in NUMBERS)


@contextmanager
def full_disk_in_words(workdir: Path) -> Iterator[None]:
    """
    Raises:
      WorkFailed: instead of an error that comes from a full disk.
    """
    try:
        yield
    except Exception as error:
        what = full_disk(error)
        if what is None:
            raise
        raise WorkFailed(
            f"--workdir {workdir}: {what[0].lower()}{what[1:]}, so the last steps are not saved."
            " The checkpoint before is whole. Make room, then give the same command again."
        ) from None


def full_disk(error: BaseException | None) -> str | None:
    """What the system says where an error, or one that it came from, is that of a full disk.

    Example:
      >>> full_disk(ValueError("Error writing d/x: No space left on device [line 7]"))
      'No space left on device'
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in NUMBERS:
            return os.strerror(one.errno)
        # TensorStore's errors have no number, only the system's words.
        text = str(one)
        if found := next((words for words in WORDS if words in text), None):
            return found
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return None
