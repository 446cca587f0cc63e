"""What every room's worker processes share."""

import os
from multiprocessing import connection, parent_process
from threading import Thread


def end_with_parent() -> None:
    """To be called in a worker process at its beginning: it ends when its parent does, however that
    came.
    """
    parent = parent_process()
    assert parent is not None
    Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    # The sentinel becomes ready when the parent ends, whatever ended it.
    connection.wait([sentinel])
    # `sys.exit` in a thread ends the thread alone.
    os._exit(1)
