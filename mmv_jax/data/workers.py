"""What Grain's worker processes share with the process that started them: its end, and not its
signals.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from mmv_jax.plugins import Plugin
from mmv_jax.processes import end_with_parent

HELD = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def held_signals() -> Iterator[None]:
    """Threads and processes that are started inside never see SIGTERM and SIGINT; here, what comes
    meanwhile is delivered on leaving.

    SLURM signals every process of a job, and a terminal every one of its group: the loop must
    outlive that by a step and a checkpoint, for which it needs its batches. A disposition set by
    the workers themselves would come seconds late, after their imports; a mask is inherited.
    """
    # Python starts it before the first process, and then unblocks both signals
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(plugins: tuple[Plugin, ...], index: int, count: int) -> None:
    """The beginning of worker `index` of `count`: it ends with its parent; Grain's own would wait
    for it for ever. `plugins` were loaded when they were received.
    """
    end_with_parent()


def freed() -> None:
    """Waits until Grain's thread has given back the shared memory of all batches that nobody holds
    any more.

    A process that ends before would be told of leaked objects. Where a later Grain has no such
    thread, there is nothing to wait for.
    """
    try:
        from grain._src.python.ipc.shared_memory_array import SharedMemoryArray
    except ImportError:
        return
    thread = getattr(SharedMemoryArray, "_del_thread_pool", None)
    if thread is not None:
        thread.apply(int)  # one thread, first come first served
