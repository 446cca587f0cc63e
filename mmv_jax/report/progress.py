"""Progress of a long task, in one line."""

import sys
import time
from collections.abc import Callable


def progress(words: str) -> Callable[[int, int], None]:
    """A function that prints progress.

    On a terminal it renews one line; elsewhere it prints a line every ten seconds and at the end.
    """
    # When a line was last printed; a list, so that the inner function can change it.
    said = [0.0]

    def report(done: int, total: int) -> None:
        live, now = sys.stderr.isatty(), time.monotonic()
        if live or done == total or now - said[0] > 10:
            said[0] = now
            print(
                f"{words} {done} of {total} studies",
                end="\r" if live and done < total else "\n",
                file=sys.stderr,
                flush=True,
            )

    return report


def say(words: str) -> None:
    """Print one line on a task of unknown length."""
    print(words, file=sys.stderr, flush=True)
