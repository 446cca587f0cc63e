"""Shared code of all worker processes."""

import os
from multiprocessing import connection, parent_process
from threading import Thread


def end_with_parent() -> None:
    """End this worker process when its parent ends, for whatever reason; call it first in the
    worker.
    """
    parent = parent_process()
    assert parent is not None
    Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    # The sentinel becomes ready when the parent ends, whatever ended it.
    connection.wait([sentinel])
    # `sys.exit` in a thread ends the thread alone.
    os._exit(1)
