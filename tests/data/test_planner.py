"""The process that packs epochs for all workers of a host: what it writes, and how it ends."""

import os
import signal
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import numpy as np

from mmv_jax.data.packing import Packer
from mmv_jax.data.planner import SharedPlans, shared_plans


def sizes(count: int, epoch: int) -> np.ndarray:
    """Global and local tokens of so many lines, other ones in each epoch."""
    return np.random.default_rng(epoch).integers(1, 9, (count, 2))


PACK = Packer(partial(sizes, 50), np.array([32, 16, 2**31, 2**31]), seed=3)


def never(epoch: int):
    raise AssertionError("a worker packed an epoch itself")


def same(found, expected) -> bool:
    return [row.tolist() for row in found[0]] == [row.tolist() for row in expected[0]] and found[
        1
    ].tolist() == expected[1].tolist()


def test_workers_read_what_one_process_packs_ahead_of_them():
    with shared_plans(PACK, 1) as folder:
        plans = SharedPlans(folder, never)
        for epoch in range(1, 6):
            assert same(plans(epoch), PACK(epoch))
        # two epochs ahead of the last one that was asked for, and old ones are taken away
        deadline = time.monotonic() + 60
        while not (Path(folder) / "epoch-7.npz").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        there = {name for name in os.listdir(folder) if name.startswith("epoch")}
        assert "epoch-7.npz" in there and "epoch-1.npz" not in there
        assert same(SharedPlans(folder, PACK)(1), PACK(1))  # a worker that is far behind
    assert not Path(folder).exists()
    assert not active_children()


def test_a_worker_packs_itself_where_the_planner_was_killed():
    with shared_plans(PACK, 0) as folder:
        plans = SharedPlans(folder, PACK)
        assert same(plans(0), PACK(0))
        (planner,) = active_children()
        os.kill(planner.pid, signal.SIGKILL)
        planner.join()
        assert same(plans(9), PACK(9))
