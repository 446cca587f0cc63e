"""`mmv status`: words and a picture, of runs in every condition."""

import json
import math
import os
import time

import numpy as np
import pytest
from nano import nano_config
from PIL import Image

from mmv_jax.checkpoint import Checkpoints
from mmv_jax.config import to_json
from mmv_jax.errors import UserError
from mmv_jax.train.log import METRICS
from mmv_jax.train.running import FILE, running
from mmv_jax.train.status import status


def write_run(
    workdir, loss_of, figures_of, steps=400, every=20, planned=1000, seconds=0.5, **weights
):
    """A workdir as a run leaves it, whose last step was just now."""
    workdir.mkdir()
    config = nano_config(**(weights or {"mae": 1.0}))
    config.steps = planned
    (workdir / "config.json").write_text(to_json(config))
    now, rng = time.time(), np.random.default_rng(0)
    with (workdir / METRICS).open("w") as file:
        for step in range(steps):
            loss = loss_of(step) + 0.02 * rng.normal()
            line = {
                "step": step,
                "loss": loss,
                "mae": loss,
                "skipped": 0,
                "tokens": 192,
                "time": now - (steps - step) * seconds,
            }
            if step % every == 0:
                line |= dict(zip(("rank", "std"), figures_of(step)))
            file.write(json.dumps(line) + "\n")
    return workdir


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """Draws none: one takes half a second. The test of a run that learns undoes it."""
    monkeypatch.setattr("mmv_jax.train.status.draw", lambda lines, path: path.touch())
    return monkeypatch


def rows_of(text):
    return dict(line.split(None, 1) for line in text.splitlines())


def test_a_run_that_learns(tmp_path, pictures):
    pictures.undo()
    workdir = write_run(
        tmp_path / "run", lambda n: 0.4 + 0.6 * math.exp(-n / 150), lambda n: (18 + n / 20, 0.7)
    )
    rows = rows_of(status(workdir))
    assert rows["steps"] == "400 of 1000 (40%)"
    assert "falling" in rows["loss"]
    assert (
        rows["speed"]
        == "2 steps/s, 384 tokens/s (75% of the rows is full); 5.0 minutes left at this rate"
    )
    assert rows["features"].startswith("rank 37.0, std 0.70 of 1 at step 380 (at step 0: 18.0")
    assert rows["verdict"].startswith("learning")
    assert rows["checkpoint"] == "none yet"
    assert rows["next"] == "it is running: wait"
    with Image.open(workdir / "status.png") as picture:
        assert picture.width > 800
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_a_run_that_does_not_learn(tmp_path):
    rows = rows_of(status(write_run(tmp_path / "run", lambda n: 1.0, lambda n: (18.0, 0.7))))
    assert rows["verdict"].startswith("not learning")
    assert "config.optimizer.peak_lr" in rows["next"]


def test_a_run_that_collapsed_though_its_loss_falls(tmp_path):
    workdir = write_run(
        tmp_path / "run",
        lambda n: 4 - n / 200,
        lambda n: (18.0, 0.7) if n < 200 else (1.2, 0.004),
        dino=1.0,
    )
    rows = rows_of(status(workdir))
    assert rows["verdict"].startswith("collapsed. COLLAPSE")
    assert rows["next"].startswith("stop the run")


def test_a_run_whose_steps_are_left_out(tmp_path):
    workdir = write_run(tmp_path / "run", lambda n: 4 - n / 200, lambda n: (18.0, 0.7))
    left_out = {"loss": math.nan, "mae": math.nan, "skipped": 1}
    lines = [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
    (workdir / METRICS).write_text(
        "".join(
            json.dumps(line | (left_out if line["step"] > 390 else {})) + "\n" for line in lines
        )
    )
    assert rows_of(status(workdir))["verdict"].startswith("unstable: 9 of the last 100 steps")


def test_a_run_that_stopped_and_one_that_is_done(tmp_path):
    stopped = write_run(tmp_path / "stopped", lambda n: 1 - n / 500, lambda n: (18.0, 0.7))
    long_ago = time.time() - 3 * 3600
    os.utime(stopped / METRICS, (long_ago, long_ago))
    rows = rows_of(status(stopped))
    assert "stopped: the last was 3.0 hours ago" in rows["steps"]
    assert "the same `mmv pretrain` command" in rows["next"]
    done = rows_of(
        status(
            write_run(tmp_path / "done", lambda n: 1 - n / 500, lambda n: (18.0, 0.7), planned=400)
        )
    )
    assert done["steps"] == "400 of 400 (100%)"
    assert done["next"].startswith("mmv evaluate")


def test_a_first_step_is_too_early_and_no_step_is_said_so(tmp_path):
    rows = rows_of(
        status(write_run(tmp_path / "run", lambda n: 1.0, lambda n: (18.0, 0.7), steps=1))
    )
    assert rows["verdict"].startswith("too early")
    assert rows["speed"].startswith("not known")
    write_run(tmp_path / "empty", lambda n: 1.0, lambda n: (18.0, 0.7), steps=0)
    for folder, words in (
        ("empty", "has not finished its first step"),
        ("nowhere", "no run has written anything"),
    ):
        with pytest.raises(UserError, match=words):
            status(tmp_path / folder)


def learning(workdir, **options):
    return write_run(workdir, lambda n: 1 - n / 500, lambda n: (18.0, 0.7), **options)


def test_a_process_that_trains_and_one_that_was_killed(tmp_path):
    workdir = learning(tmp_path / "run")
    with running(workdir):
        rows = rows_of(status(workdir))
        assert rows["process"].startswith(f"process {os.getpid()} on ")
        assert "trains here since" in rows["process"]
        with (
            pytest.raises(UserError, match=f"process {os.getpid()} on .* is training there"),
            running(workdir),
        ):
            pass
    # Its last step was just now, but the lock tells that the process is gone.
    rows = rows_of(status(workdir))
    assert rows["process"].startswith(f"none: process {os.getpid()} on")
    assert rows["next"].startswith("the same `mmv pretrain` command")


def test_a_process_of_another_machine_is_judged_by_the_log(tmp_path):
    workdir = learning(tmp_path / "run")
    (workdir / FILE).write_text('{"pid": 7, "host": "elsewhere", "since": 1.0}')
    rows = rows_of(status(workdir))
    assert rows["process"].startswith("process 7 on elsewhere, which cannot be asked from here")
    assert rows["next"] == "it is running: wait"


def test_steps_that_are_trained_and_not_saved_are_counted(tmp_path):
    workdir = learning(tmp_path / "run", steps=345)
    saved = {"encoder": {"w": np.ones(2)}, "state": {"step": np.ones(1)}}
    with Checkpoints(workdir, {"steps": 345}, every=300, keep=1) as checkpoints:
        checkpoints.save_if_due(300, saved, now=True)
    assert rows_of(status(workdir))["checkpoint"].endswith("45 of 345 trained steps are not saved")


def test_the_utilisation_is_the_median_of_the_log(tmp_path):
    workdir = learning(tmp_path / "run", steps=40)
    assert rows_of(status(workdir))["mfu"].startswith("not known")
    lines = [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
    for line, share in zip(lines, [0.1] + 39 * [0.42]):
        line["mfu"] = share
    (workdir / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert rows_of(status(workdir))["mfu"].startswith("42.0% of the peak")
