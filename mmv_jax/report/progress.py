"""How far a long work is, how fast, and how long it will take, in one line."""

import sys
import time
from collections.abc import Callable


def progress(words: str, things: str = "studies") -> Callable[[int, int], None]:
    """A function that prints progress.

    On a terminal it renews one line; elsewhere it prints a line every ten seconds and at the end.
    """
    # When a line was last printed, and when the first study was done and which it was: lists, so
    # that the inner function can change them.
    said, began = [0.0], list[tuple[float, int]]()

    def report(done: int, total: int) -> None:
        live, now = sys.stderr.isatty(), time.monotonic()
        # From the first report on: what came before it, such as imports, is no reading.
        began[:] = began or [(now, done)]
        if live or done == total or now - said[0] > 10:
            said[0] = now
            since, first = began[0]
            pace = _pace(done, total, since=since, first=first, now=now)
            print(
                # Of one width on a terminal, so that a shorter line covers a longer one.
                f"{words} {done} of {total} {things}{pace.ljust(36) if live and pace else pace}",
                end="\r" if live and done < total else "\n",
                file=sys.stderr,
                flush=True,
            )

    return report


def _pace(done: int, total: int, *, since: float, first: int, now: float) -> str:
    """Studies a second and the time left, from two seconds on.

    >>> _pace(50, 7250, since=0.0, first=10, now=20.0)
    ', 2 a second, 1 h 0 min left'
    >>> _pace(7250, 7250, since=0.0, first=0, now=10.0), _pace(5, 50, since=0.0, first=0, now=1.0)
    (', 725 a second', '')
    """
    if now - since < 2 or done <= first:
        return ""
    rate = (done - first) / (now - since)
    left = round((total - done) / rate)
    if not left:
        return f", {rate:.3g} a second"
    hours, minutes = divmod(-(-left // 60), 60)
    words = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f", {rate:.3g} a second, {f'{left} s' if left < 90 else words} left"


def say(words: str) -> None:
    """Print one line on a task of unknown length."""
    print(words, file=sys.stderr, flush=True)
