"""Tokens, studies and utilisation a second; what a run says of itself at its start."""

import json

import numpy as np
import pytest
from nano import nano_config

from mmv_jax.chips import CHIPS, peak_flops
from mmv_jax.store.read import Store
from mmv_jax.train.log import read_metrics
from mmv_jax.train.loop import make_rows, pretrain
from mmv_jax.train.optimizer import make_learning_rate
from mmv_jax.train.speed import Speed, StepCost, rates_of


def test_figures_are_those_of_the_definition(monkeypatch):
    clock = iter([10.0, 12.0, 12.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    speed = Speed(np.array([0.0, 0.1, 0.2]), 1000, StepCost(flops=6e12, peak=12e12))
    metrics = {"tokens": 500, "studies": 8}
    assert speed.figures(0, metrics) == {"lr": 0.0}  # it compiles
    assert speed.figures(1, metrics) == {
        "lr": 0.1,
        "tokens_per_s": 250.0,
        "studies_per_s": 4.0,
        "mfu": pytest.approx(0.5 * 6e12 / 2.0 / 12e12),
    }
    assert speed.figures(2, metrics)["tokens_per_s"] == 1000.0


def test_where_no_peak_is_known_there_is_no_utilisation():
    speed = Speed(np.zeros(2), 1000, StepCost(6e12, None, "a cpu"))
    speed.figures(0, {})
    assert "mfu" not in speed.figures(1, {"tokens": 1, "studies": 1})
    assert peak_flops("cpu") is None


def test_every_chip_is_known_by_the_name_that_jax_gives_it():
    names = [name for chip in CHIPS.values() for name in chip.kinds]
    assert len(set(names)) == len(names) and all(chip.kinds for chip in CHIPS.values())
    assert peak_flops("TPU v5") == CHIPS["v5p"].flops  # and not that of a "TPU v5 lite"
    assert peak_flops("NVIDIA H100 80GB HBM3") == CHIPS["h100"].flops


def test_rates_are_those_of_the_schedule_step_by_step():
    schedule = make_learning_rate(20, 4, peak_lr=1e-3, at_rows=2, warmup=0.2)
    assert rates_of(schedule, 20) == pytest.approx([float(schedule(n)) for n in range(20)])


def test_a_run_says_what_it_runs_on_and_logs_its_speed(store, tmp_path, capsys):
    config = nano_config(store, mae=1.0)
    config.steps, config.mesh.data, config.rows.per_step = 3, 8, 8
    pretrain(config, tmp_path / "run")
    words = {
        line.split(None, 1)[0]: line.split(None, 1)[1]
        for line in capsys.readouterr().err.splitlines()
        if " " in line
    }
    assert words["devices"] == "8 × cpu (data 8)"
    assert "that are trained (decoder" in words["parameters"]
    assert words["store"] == f"{store}, 8 patients to train on"
    assert words["workdir"].startswith(str(tmp_path / "run"))
    assert words["mfu"].startswith("not logged: the peak of a cpu is not known")
    lines = read_metrics(tmp_path / "run")
    assert lines[0]["lr"] == 0.0 and lines[1]["lr"] > 0
    assert "tokens_per_s" not in lines[0]
    rows = make_rows(Store.open(store), config)
    for step, line in enumerate(lines):
        batch = rows.batch(step)
        shown = sum(len(set(own[own >= 0].tolist())) for own in batch["study"])
        assert line["studies"] == shown
        assert step == 0 or line["studies_per_s"] / line["tokens_per_s"] == pytest.approx(
            shown / line["tokens"]
        )
    about = json.loads((tmp_path / "run" / "running.json").read_text())
    assert {"pid", "host", "since", "beat"} <= set(about)
