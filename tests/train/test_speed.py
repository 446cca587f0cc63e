"""Tokens, studies and utilisation a second; what a run says of itself at its start."""

import jax
import numpy as np
import pytest

from mmv_jax.chips import CHIPS, peak_flops
from mmv_jax.parallel import make_mesh
from mmv_jax.train.opening import devices_in_words
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


def test_devices_are_counted_and_the_axes_that_split_them_named():
    assert devices_in_words(make_mesh(8, 1)) == "8 × cpu (data 8)"
    assert devices_in_words(make_mesh(2, 4)) == "8 × cpu (data 2, fsdp 4)"
    assert devices_in_words(make_mesh(devices=jax.devices()[:1])) == "1 × cpu"
