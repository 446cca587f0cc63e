"""Timing in turn, so that other load on the machine affects ours and its peers alike."""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import jax

NO_TORCH = "PyTorch is not installed (extra `torch`): its cases are left out."


def use_every_core() -> None:
    """Use one virtual CPU device a core, if no number is set and no device is in use.

    XLA runs the loops of one CPU device on one core. Only work that is split over devices uses all
    cores.
    """
    # -1 is JAX's default: nobody has chosen a number.
    if jax.config.jax_num_cpu_devices < 0:  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError):  # devices are in use: keep their number
            jax.config.update("jax_num_cpu_devices", os.cpu_count())


def seconds(fn: Callable, *args) -> float:
    """Wall time until the arrays that `fn` returns are ready."""
    start = time.perf_counter()
    # JAX returns before the work is done: without the wait only the dispatch would be timed.
    jax.block_until_ready(fn(*args))
    return time.perf_counter() - start


def in_turn(timed: Mapping[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """The median of the values (seconds) that each function returns.

    Every turn calls each function once; the first turn does not count.
    """
    results: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(turns + 1):
        for name, run in timed.items():
            found = run()
            if turn > 0:  # the first compiles
                results[name].append(found)
    return {name: statistics.median(found) for name, found in results.items()}


def case(name: str, ours_s: float, peer_s: float, peer_name: str) -> dict:
    """One case of `mmv bench`, in milliseconds; the ratio is above 1 if ours is faster."""
    return {
        "case": name,
        "ours": ours_s * 1e3,
        "peer": peer_s * 1e3,
        "peer_name": peer_name,
        # For seconds less is better, so the peer is the numerator.
        "ratio": peer_s / ours_s,
        "unit": "ms",
    }


@contextlib.contextmanager
def worker(module: str, *arguments: str) -> Iterator[Callable[[], float]]:
    """A process that runs `module`, and a function that makes it work once and returns its seconds.

    A peer has a process of its own, so that two pools of threads never share one.
    """
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        asked, answers = process.stdin, process.stdout

        def run() -> float:
            asked.write("run\n")
            # The pipe is buffered, and the worker waits for a whole line.
            asked.flush()
            return float(answers.readline())

        try:
            yield run
        finally:
            asked.close()  # the worker ends with its input
