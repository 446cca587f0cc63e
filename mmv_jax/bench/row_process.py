"""A process that makes the rows of a run, for `mmv bench input`.

It is run as a file, so that PYTHONPATH decides whose rows it makes: those of this version, or of
another checkout. So it uses only what older versions have too.
"""

import inspect
import json
import os
import sys
import time
from itertools import islice
from threading import Thread
from typing import Any

import pandas as pd
from ml_collections import ConfigDict

from mmv_jax.data import pipeline
from mmv_jax.data.augment import Augmentation
from mmv_jax.data.crops import crop_views
from mmv_jax.store.read import Store
from mmv_jax.train.loop import make_rows

KEY = "0"  # the fingerprint of a store whose studies nobody named
# What reads each group of a config when rows are made. Before there were `RowSettings`, the rows
# themselves had its fields as arguments.
READERS = {
    "data": getattr(pipeline, "RowSettings", pipeline.Rows),
    "augment": Augmentation,
    "crops.planar": crop_views,
    "crops.volume": crop_views,
}
NO_ROWS = {"store", "workers"}  # keys of `data` that the loop reads itself


def main(store: str, config: str, host: int, workers: int) -> None:
    """Print the seconds until the first batch, and the keys of the config that this version does
    not know; then, for each number of batches read from standard input, what it took to get that
    many more.

    Args:
      store, config: a store's folder, with its index in `index.parquet`; the config as JSON.
      host: rows of a step that are made here, evenly spaced.
      workers: processes that make them.
    """
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    began = time.perf_counter()
    known = ConfigDict(json.loads(config))
    left_out = leave_out_unknown(known)
    rows = make_rows(Store(store, pd.read_parquet(f"{store}/index.parquet"), KEY), known)
    mine = range(0, rows.per_step, rows.per_step // host)
    batches: Any = rows.batches(0, mine=list(mine)[:host], workers=workers)
    next(batches)
    first_batch_s = time.perf_counter() - began
    print(json.dumps({"first_batch_s": first_batch_s, "left_out": left_out}), flush=True)
    for asked in sys.stdin:
        print(json.dumps(_take(batches, int(asked))), flush=True)
    batches.close()


def leave_out_unknown(config: ConfigDict) -> list[str]:
    """Remove the keys that this version's rows do not know from a config; returns their names."""
    left_out = []
    for group, reader in READERS.items():
        values: Any = config
        for part in group.split("."):
            values = values.get(part, {})
        known = {*inspect.signature(reader).parameters, *(NO_ROWS if group == "data" else ())}
        for name in sorted(set(values) - known):
            del values[name]
            left_out.append(f"{group}.{name}")
    return left_out


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
