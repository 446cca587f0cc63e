"""A run that is killed, told to stop, and started again: its losses and its state are those of an
unbroken run.
"""

import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from nano import on_one_device, share_run

from mmv_jax.checkpoint import SEALS, STEPS, restore_items, step_folders
from mmv_jax.cli import main
from mmv_jax.train.log import METRICS, Log

CONFIG = Path(__file__).with_name("nano.py")


@dataclass(frozen=True)
class Kind:
    """A run, and how it is broken off.

    Attributes:
      apart: SIGTERM comes to a process group of its own, and not to this process and its workers.
    """

    steps: int
    killed: range
    changes: tuple[str, ...]
    apart: bool

    @property
    def name(self) -> str:
        """Of the step to share. The short one is that of test_short_runs.py."""
        return "short on one device" if self.steps == 7 else f"resume {self}"


# Self-distillation has all that a state holds but a decoder, and compiles in half the time.
DISTILLED = ("objective.mae=0", "objective.ibot=0", "objective.koleo=0")
KINDS = {
    "short": Kind(7, range(1, 4), DISTILLED, apart=False),
    "self-distillation": Kind(20, range(4, 15), DISTILLED, apart=True),
    "all of them": Kind(20, range(4, 15), (), apart=True),
}
# A run whose whole process group gets a signal once a step is written: told from outside, a quick
# machine could have finished before.
TOLD = """
import os, sys, types
from nano import draw_begin, on_one_device
from mmv_jax.cli import main
from mmv_jax.train.log import Log

# As in the process of the tests: one of eight devices, for the same compiled programs, and the
# weights that a run begins with there.
patch = types.SimpleNamespace(setattr=setattr)
on_one_device(patch)
draw_begin(patch)

def write_and_tell(log, step, metrics, write=Log.write):
    write(log, step, metrics)
    if step == int(os.environ["TOLD_AT"]):
        os.killpg(0, int(os.environ["TOLD"]))

Log.write = write_and_tell
sys.exit(main())
"""


def words_of(workdir: Path, store: Path, kind: Kind, *more: str) -> list[str]:
    """Of the command line of `mmv`."""
    changes = (f"data.store={store}", f"steps={kind.steps}", *kind.changes, *more)
    own = [f"--config.{change}" for change in changes]
    return ["pretrain", "--config", str(CONFIG), "--workdir", str(workdir), *own]


def told(words: list[str], told_by: signal.Signals, at: int) -> subprocess.CompletedProcess:
    """`mmv` in a process group that gets a signal once it has written the step `at`."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": os.pathsep.join([str(CONFIG.parent), os.environ.get("PYTHONPATH", "")]),
        "TOLD": str(int(told_by)),
        "TOLD_AT": str(at),
    }
    return subprocess.run(
        [sys.executable, "-c", TOLD, *words],
        env=environment,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=240,
    )


def stop_here(words: list[str], at: int) -> None:
    """The same in this process: it and its workers get SIGTERM once the step `at` is written."""
    write = Log.write

    def write_and_tell(log, step, metrics):
        write(log, step, metrics)
        if step == at:
            processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            assert len(processes) > 1  # the data worker
            for process in processes:
                os.kill(process, signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "write", write_and_tell)
        assert main(words) == 0


def losses(workdir: Path) -> dict[int, str]:
    """The text of each step's loss; the later line stands."""
    found = {}
    for line in (workdir / METRICS).read_text().splitlines():
        head, _, rest = line.partition('"loss": ')
        found[json.loads(line)["step"]] = rest.partition(",")[0]
    return found


def bytes_of_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by item and name, read without a model."""
    newest = max(step_folders(workdir))
    trees, _ = restore_items(workdir / STEPS / str(newest), ("encoder", "state"))
    arrays = {
        jax.tree_util.keystr(path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(trees)
    }
    return arrays


class Runs(NamedTuple):
    """Workdirs of a run that was never stopped, and of the broken one; where and how that was."""

    unbroken: Path
    broken: Path
    kind: Kind
    killed: int
    stopped: int
    said: str


@pytest.fixture(
    scope="module",
    params=["short", *(pytest.param(x, marks=pytest.mark.full) for x in list(KINDS)[1:])],
)
def runs(store, tmp_path_factory, request):
    """The broken run is killed in a process of its own at a random step. Later it is told to stop,
    beside a data worker. It ends in this process, as the unbroken one does.
    """
    unbroken, broken = (tmp_path_factory.mktemp(name) for name in ("unbroken", "broken"))
    kind = KINDS[request.param]
    killed = random.choice(kind.killed)
    with pytest.MonkeyPatch.context() as patch:
        share_run(patch, kind.name)
        on_one_device(patch)
        assert main(words_of(unbroken, store, kind)) == 0
        ended = told(words_of(broken, store, kind), signal.SIGKILL, killed)
        assert ended.returncode == -signal.SIGKILL, ended.stderr[-3000:]
        beside_a_worker = words_of(broken, store, kind, "data.workers=1")
        if kind.apart:
            ended = told(beside_a_worker, signal.SIGTERM, killed + 1)
            assert ended.returncode == 0, ended.stderr[-3000:]
            said = ended.stdout + ended.stderr
        else:
            err = io.StringIO()
            with redirect_stderr(err), redirect_stdout(err):
                stop_here(beside_a_worker, killed + 1)
            said = err.getvalue()
        stopped = max(step_folders(broken))
        assert main(words_of(broken, store, kind)) == 0
    return Runs(unbroken, broken, kind, killed=killed, stopped=stopped, said=said)


def test_the_losses_are_those_of_an_unbroken_run_to_the_last_digit(runs):
    expected = losses(runs.unbroken)
    assert sorted(expected) == list(range(runs.kind.steps))
    assert losses(runs.broken) == expected, f"killed at step {runs.killed}"


def test_the_final_state_is_that_of_an_unbroken_run_to_the_last_bit(runs):
    expected, found = bytes_of_state(runs.unbroken), bytes_of_state(runs.broken)
    assert expected.keys() == found.keys()
    assert len(expected) > 50
    for name, array in expected.items():
        np.testing.assert_array_equal(
            array, found[name], err_msg=f"{name}; killed at step {runs.killed}"
        )


def test_a_run_that_is_told_to_stop_saves_the_step_it_is_in(runs):
    assert runs.killed + 1 < runs.stopped < runs.kind.steps
    assert f"Told to stop: saved step {runs.stopped}." in runs.said


def test_every_checkpoint_that_is_left_is_sealed(runs):
    last = runs.kind.steps
    assert (
        {path.stem for path in (runs.broken / SEALS).glob("*.json")}
        == {path.name for path in (runs.broken / STEPS).iterdir()}
        == {str(last - 1 - (last - 1) % 3), str(last)}
    )
