"""Grain's worker processes: they end with their parent, but do not receive its signals."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from mmv_jax.plugins import Plugin
from mmv_jax.processes import end_with_parent

HELD = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def held_signals() -> Iterator[None]:
    """Block SIGTERM and SIGINT in threads and processes started inside.

    Here, a signal is delivered on leaving. SLURM signals every process of a job, and a terminal
    every process of its group. The loop must still finish a step and a checkpoint, for which it
    needs its batches. Workers could set a handler only after their imports, seconds too late; they
    inherit a mask.
    """
    # Python starts it before the first process, and then unblocks both signals.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(plugins: tuple[Plugin, ...], index: int, count: int) -> None:
    """Initialise worker `index` of `count`, so that it ends with its parent.

    Grain's own worker would wait for ever. `plugins` were loaded when they were received.
    """
    end_with_parent()


def freed() -> None:
    """Wait until Grain's thread has released the shared memory of all unused batches.

    A process that ends earlier prints warnings about leaked objects. A later Grain may have no such
    thread; then there is nothing to wait for.
    """
    try:
        from grain._src.python.ipc.shared_memory_array import SharedMemoryArray
    except ImportError:
        return
    thread = getattr(SharedMemoryArray, "_del_thread_pool", None)
    if thread is not None:
        thread.apply(int)  # one thread, first come first served
