"""Kills a run again and again at random moments, saves included, and compares it with one that was
left alone.

    python tests/train/kills.py FOLDER [KILLS] [STEPS] [SEED] [gs|s3]

The runs are forked from one process that has imported everything and has no device yet: a start
costs a second, not ten. With `gs` or `s3` the run that is killed has its workdir in a bucket on
loopback, which that process serves.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from nano import nano_config, write_studies

from mmv_jax import mirror
from mmv_jax.buckets import place
from mmv_jax.checkpoint import STEPS, restore_items, step_folders
from mmv_jax.train import loop, running
from mmv_jax.train.log import METRICS, read_metrics
from mmv_jax.unsealed import COMMITTED

# From a start's first step to its end: as long as so many steps take on this machine, so that a
# busy one saves before it is killed too.
LONGEST_STEPS, LEAST_S = 4, 2.0
EARLY = 0.2  # of the kills come before that step: while it opens, restores or compiles


def start(said: Path, work, *given) -> int:
    """The number of a process that does some work; what it says is added to a file."""
    child = os.fork()
    if child:
        return child
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        work(*given)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended_well(child: int) -> bool:
    return os.waitpid(child, 0)[1] == 0


def kill_at_random(
    child: int, logged: Callable[[], int], rng: random.Random, longest_s: float
) -> bool:
    """Whether the process was killed; False where it had ended by itself. `logged` gives the bytes
    of the run's log.
    """
    size = logged()
    early, until = rng.random() < EARLY, time.monotonic() + rng.uniform(0, longest_s)
    while not early and logged() <= size:
        time.sleep(0.02)
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        until = time.monotonic() + rng.uniform(0, longest_s)
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


class OnDisk:
    """The run that is killed, in a folder. This process only looks at its files."""

    def __init__(self, workdir: Path):
        self.workdir, self._log = workdir, workdir / METRICS

    def logged(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def left(self) -> tuple[int, bool]:
        """The newest step that counts, and whether there is half a one."""
        steps = self.workdir / STEPS
        names = [path.name for path in steps.iterdir()] if steps.exists() else []
        return max(step_folders(self.workdir), default=0), not all(map(str.isdigit, names))


class InBucket:
    """The run that is killed, in a bucket of this process, which asks no other for it."""

    def __init__(self, kind: str):
        sys.path.append(str(Path(__file__).parents[1] / "store"))
        from bucket import Bucket

        self._bucket = Bucket(kind)
        os.environ.update(self._bucket.environment)
        self.workdir = place(f"{kind}://bucket/broken")
        # So that a random moment may be any one of a run that takes seconds.
        mirror.EVERY_S, running.WATCH_S, running.BEAT_S = 0.2, 1.0, 0.2

    def logged(self) -> int:
        objects = list(self._bucket.objects.items())
        return sum(len(x) for name, (_, x) in objects if name.startswith(f"broken/{METRICS}/"))

    def left(self) -> tuple[int, bool]:
        parts = [name.split("/") for name in list(self._bucket.objects) if f"/{STEPS}/" in name]
        whole = {int(part[2]) for part in parts if part[3:] == [COMMITTED]}
        return max(whole, default=0), bool({int(part[2]) for part in parts} - whole)


def main(folder: Path, kills: int = 20, steps: int = 400, seed: int = 0, kind: str = "") -> int:
    """0 where the run that was killed has the losses and the state of the other, bit for bit."""
    # In a process of its own: TensorStore's threads would not live on in those that are forked.
    assert ended_well(start(folder / "store.txt", write_studies, folder / "store"))
    config = nano_config(folder / "store", mae=1.0)
    config.update({"steps": steps, "checkpoint": {"every": 3, "keep": 2}})
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    whole, other = folder / "whole", InBucket(kind) if kind else OnDisk(folder / "broken")
    broken, said = other.workdir, folder / "broken.txt"
    begun = time.monotonic()
    assert ended_well(start(folder / "whole.txt", loop.pretrain, config, whole))
    longest_s = max(LEAST_S, (time.monotonic() - begun) * LONGEST_STEPS / steps)
    rng, killed, half_saved, newest = random.Random(seed), 0, 0, []
    while killed < kills:
        child = start(said, loop.pretrain, config, broken)
        if not kill_at_random(child, other.logged, rng, longest_s):
            break
        killed += 1
        step, half = other.left()
        half_saved += half
        newest.append(step)
    assert ended_well(start(said, loop.pretrain, config, broken))
    losses = [[line["loss"] for line in read_metrics(run)] for run in (whole, broken)]
    one, two = state_of(whole, steps), state_of(broken, steps)
    equal = one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)
    found = {
        "kills": killed,
        "within_a_save": half_saved,
        "began_again_at": newest,
        "losses_equal": losses[0] == losses[1] and len(losses[0]) == steps,
        "state_equal": equal,
    }
    print(json.dumps(found), flush=True)
    return 0 if found["losses_equal"] and equal and killed == kills else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), *sys.argv[5:]))
