"""Kills a run again and again at random moments, saves included, and compares it with one that was
left alone.

    python tests/train/kills.py FOLDER [KILLS] [STEPS]

The runs are forked from one process that has imported everything and has no device yet: a start
costs a second, not ten.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import jax
import numpy as np
from nano import nano_config, write_studies

from mmv_jax.checkpoint import STEPS, restore_items, step_folders
from mmv_jax.train import loop
from mmv_jax.train.log import METRICS, read_metrics

LONGEST_S = 2.0  # from a start's first step to its end
EARLY = 0.2  # of the kills come before that step: while it opens, restores or compiles


def start(work, *given) -> int:
    """The number of a process that does some work; what it says goes to a file in the folder."""
    child = os.fork()
    if child:
        return child
    said = os.open(f"{given[-1]}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    try:
        work(*given)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended_well(child: int) -> bool:
    return os.waitpid(child, 0)[1] == 0


def kill_at_random(child: int, workdir: Path, rng: random.Random) -> bool:
    """Whether the process was killed; False where it had ended by itself."""
    log = workdir / METRICS
    size = log.stat().st_size if log.exists() else 0
    early, until = rng.random() < EARLY, time.monotonic() + rng.uniform(0, LONGEST_S)
    while not early and not (log.exists() and log.stat().st_size > size):
        time.sleep(0.02)
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        until = time.monotonic() + rng.uniform(0, LONGEST_S)
    time.sleep(max(0.0, until - time.monotonic()))
    if os.waitpid(child, os.WNOHANG)[0]:
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def state_of(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a step, by item and name."""
    trees, _ = restore_items(workdir / STEPS / str(step), ("encoder", "state"))
    leaves = jax.tree_util.tree_leaves_with_path(trees)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def main(folder: Path, kills: int = 20, steps: int = 400, seed: int = 0) -> int:
    """0 where the run that was killed has the losses and the state of the other, bit for bit."""
    # In a process of its own: TensorStore's threads would not live on in those that are forked.
    assert ended_well(start(write_studies, folder / "store"))
    config = nano_config(folder / "store", mae=1.0)
    config.update({"steps": steps, "checkpoint": {"every": 3, "keep": 2}})
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    whole, broken = folder / "whole", folder / "broken"
    assert ended_well(start(loop.pretrain, config, whole))
    rng, killed, half_saved, lost = random.Random(seed), 0, 0, 0
    while killed < kills:
        if not kill_at_random(start(loop.pretrain, config, broken), broken, rng):
            break
        killed += 1
        left = (broken / STEPS).iterdir() if (broken / STEPS).exists() else ()
        half_saved += any(not path.name.isdigit() for path in left)
        done = len(read_metrics(broken)) if (broken / METRICS).exists() else 0
        lost += done - max(step_folders(broken), default=0)
    assert ended_well(start(loop.pretrain, config, broken))
    losses = [[line["loss"] for line in read_metrics(run)] for run in (whole, broken)]
    one, other = state_of(whole, steps), state_of(broken, steps)
    equal = one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)
    found = {
        "kills": killed,
        "within_a_save": half_saved,
        "steps_lost": lost,
        "losses_equal": losses[0] == losses[1] and len(losses[0]) == steps,
        "state_equal": equal,
    }
    print(json.dumps(found), flush=True)
    return 0 if found["losses_equal"] and equal and killed == kills else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
