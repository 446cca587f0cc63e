"""Runs in processes of their own, that are killed, told to stop, and started again: the losses and
the state are those of an unbroken run.
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

from mmv_jax.checkpoint import SEALS, STEPS, restore_items, step_folders
from mmv_jax.train.log import METRICS

CONFIG = Path(__file__).with_name("nano.py")
STEPS_OF_RUN = 20
# A run whose whole process group gets a signal once a step is written: told from outside, a quick
# machine could have finished before.
TOLD = """
import os, sys
from mmv_jax.cli import main
from mmv_jax.train.log import Log

def write_and_tell(log, step, metrics, write=Log.write):
    write(log, step, metrics)
    if step == int(os.environ["TOLD_AT"]):
        os.killpg(0, int(os.environ["TOLD"]))

Log.write = write_and_tell
sys.exit(main())
"""


@pytest.fixture(scope="module")
def start(store, tmp_path_factory):
    """Starts `mmv pretrain` in a process; compiled steps are shared between the processes, as a
    user's cache would.
    """
    cache = tmp_path_factory.mktemp("compiled")

    def started(workdir: Path, *overrides: str, **environment: str) -> subprocess.Popen:
        program = ["-c", TOLD] if "TOLD" in environment else ["-m", "mmv_jax.cli"]
        command = [
            sys.executable,
            *program,
            "pretrain",
            "--config",
            str(CONFIG),
            "--workdir",
            str(workdir),
        ]
        always = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
        }
        always |= {
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        words = [f"--config.data.store={store}", *(f"--config.{word}" for word in overrides)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            command + words, env=os.environ | always | environment, start_new_session=True, **pipes
        )

    return started


def finished(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out + err


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
def runs(start, tmp_path_factory, request):
    """(workdir of an unbroken run, workdir of another, where that was killed, where it was stopped,
    what it said then).

    The other is killed at a random step, told to stop some steps later with its data worker, then
    left alone; the unbroken one runs beside it.
    """
    unbroken, workdir = (tmp_path_factory.mktemp(name) for name in ("unbroken", "broken"))
    terms = TERMS[request.param]
    beside = start(unbroken, *terms)
    killed = random.randrange(4, 11)
    process = start(workdir, *terms, TOLD=str(int(signal.SIGKILL)), TOLD_AT=str(killed))
    process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL
    told = {"TOLD": str(int(signal.SIGTERM)), "TOLD_AT": str(killed + 2)}
    said = finished(start(workdir, *terms, "data.workers=1", **told))
    stopped = max(step_folders(workdir))
    finished(start(workdir, *terms))
    finished(beside)
    return unbroken, workdir, killed, stopped, said


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
        == {"18", "20"}
    )
