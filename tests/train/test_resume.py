"""A run that is killed, told to stop, and started again: its losses and its state are those of an
unbroken run.
"""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from nano import on_one_device, share_run

from mmv_jax.checkpoint import SEALS, STEPS, restore_items, step_folders
from mmv_jax.cli import main
from mmv_jax.train.log import METRICS

CONFIG = Path(__file__).with_name("nano.py")
STEPS_OF_RUN = 14
# A run whose whole process group gets a signal once a step is written: told from outside, a quick
# machine could have finished before.
TOLD = """
import os, sys, types
from nano import on_one_device
from mmv_jax.cli import main
from mmv_jax.train.log import Log

# As in the process of the tests: one of eight devices, for the same compiled programs.
on_one_device(types.SimpleNamespace(setattr=setattr))

def write_and_tell(log, step, metrics, write=Log.write):
    write(log, step, metrics)
    if step == int(os.environ["TOLD_AT"]):
        os.killpg(0, int(os.environ["TOLD"]))

Log.write = write_and_tell
sys.exit(main())
"""


def words_of(workdir: Path, store: Path, overrides: tuple[str, ...]) -> list[str]:
    """Of the command line of `mmv`."""
    changes = (f"data.store={store}", f"steps={STEPS_OF_RUN}", *overrides)
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


def losses(workdir: Path) -> dict[int, str]:
    """The text of each step's loss; the later line stands."""
    found = {}
    for line in (workdir / METRICS).read_text().splitlines():
        head, _, rest = line.partition('"loss": ')
        found[json.loads(line)["step"]] = rest.partition(",")[0]
    return found


def bytes_of_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by item and name, read without a model."""
    trees, _ = restore_items(workdir / STEPS / str(STEPS_OF_RUN), ("encoder", "state"))
    arrays = {
        jax.tree_util.keystr(path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(trees)
    }
    return arrays


# Self-distillation has all that a state holds but a decoder, and compiles in half the time.
TERMS = {
    "self-distillation": ("objective.mae=0", "objective.ibot=0"),
    "all of them": (),
}


@pytest.fixture(
    scope="module",
    params=["self-distillation", pytest.param("all of them", marks=pytest.mark.full)],
)
def runs(store, tmp_path_factory, request):
    """(workdir of an unbroken run, workdir of another, where that was killed, where it was stopped,
    what it said then).

    The other is killed at a random step and told to stop some steps later with its data worker,
    each time in a process of its own. It ends in this one, as the unbroken one does.
    """
    unbroken, workdir = (tmp_path_factory.mktemp(name) for name in ("unbroken", "broken"))
    terms = TERMS[request.param]
    killed = random.randrange(4, 9)
    with pytest.MonkeyPatch.context() as patch:
        share_run(patch, f"resume {request.param}")
        on_one_device(patch)
        assert main(words_of(unbroken, store, terms)) == 0
        ended = told(words_of(workdir, store, terms), signal.SIGKILL, killed)
        assert ended.returncode == -signal.SIGKILL, ended.stderr[-3000:]
        beside_a_worker = (*terms, "data.workers=1")
        ended = told(words_of(workdir, store, beside_a_worker), signal.SIGTERM, killed + 2)
        assert ended.returncode == 0, ended.stderr[-3000:]
        stopped = max(step_folders(workdir))
        assert main(words_of(workdir, store, terms)) == 0
    return unbroken, workdir, killed, stopped, ended.stdout + ended.stderr


def test_the_losses_are_those_of_an_unbroken_run_to_the_last_digit(runs):
    unbroken, broken, killed, *_ = runs
    expected = losses(unbroken)
    assert sorted(expected) == list(range(STEPS_OF_RUN))
    assert losses(broken) == expected, f"killed at step {killed}"


def test_the_final_state_is_that_of_an_unbroken_run_to_the_last_bit(runs):
    expected, found = bytes_of_state(runs[0]), bytes_of_state(runs[1])
    assert expected.keys() == found.keys()
    assert len(expected) > 50
    for name, array in expected.items():
        np.testing.assert_array_equal(
            array, found[name], err_msg=f"{name}; killed at step {runs[2]}"
        )


def test_a_run_that_is_told_to_stop_saves_the_step_it_is_in(runs):
    *_, killed, stopped, said = runs
    assert killed + 2 < stopped < STEPS_OF_RUN
    assert f"Told to stop: saved step {stopped}." in said


def test_every_checkpoint_that_is_left_is_sealed(runs):
    assert (
        {path.stem for path in (runs[1] / SEALS).glob("*.json")}
        == {path.name for path in (runs[1] / STEPS).iterdir()}
        == {"12", "14"}
    )
