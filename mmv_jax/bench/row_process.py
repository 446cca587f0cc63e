"""A process that makes the rows of a run, for `mmv bench input`.

It is run as a file, so that PYTHONPATH decides whose rows it makes: those of this version, or of
another checkout. So it uses only what older versions have too.
"""

import json
import os
import sys
import time
from itertools import islice
from threading import Thread
from typing import Any

import pandas as pd
from ml_collections import ConfigDict

from mmv_jax.store.read import Store
from mmv_jax.train.loop import make_rows

KEY = "0"  # the fingerprint of a store whose studies nobody named


def main(store: str, config: str, host: int, workers: int) -> None:
    """Print the seconds until the first batch; then, for each number of batches read from standard
    input, what it took to get that many more.

    Args:
      store, config: a store's folder, with its index in `index.parquet`; the config as JSON.
      host: rows of a step that are made here, evenly spaced.
      workers: processes that make them.
    """
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    began = time.perf_counter()
    rows = make_rows(
        Store(store, pd.read_parquet(f"{store}/index.parquet"), KEY), ConfigDict(json.loads(config))
    )
    mine = range(0, rows.per_step, rows.per_step // host)
    batches: Any = rows.batches(0, mine=list(mine)[:host], workers=workers)
    next(batches)
    print(json.dumps({"first_batch_s": time.perf_counter() - began}), flush=True)
    for asked in sys.stdin:
        print(json.dumps(_take(batches, int(asked))), flush=True)
    batches.close()


def _end_with(parent: int) -> None:
    """End this process when the bench has ended, for whatever reason.

    `processes.end_with_parent` is for children of `multiprocessing`, and this is none.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _take(batches, count: int) -> dict[str, float]:
    """Seconds, seconds of this thread (its copies), and bytes of `count` batches."""
    wall, own, sent = time.perf_counter(), time.thread_time(), 0
    for batch in islice(batches, count):
        sent += sum(array.nbytes for array in batch.values())
    return {
        "wall_s": time.perf_counter() - wall,
        "loop_s": time.thread_time() - own,
        "sent_bytes": sent,
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
