"""Shares of the wall time, over several starts; who waits longest; profiles on demand."""

import json
import os
import signal

import numpy as np
import pytest

from mmv_jax.errors import WorkFailed
from mmv_jax.train import traces as traces_module
from mmv_jax.train.full_disk import full_disk_in_words
from mmv_jax.train.goodput import Goodput, in_words, lost_seconds
from mmv_jax.train.log import METRICS
from mmv_jax.train.phases import Phases
from mmv_jax.train.traces import REQUEST, ProfileOptions, make_traces


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_shares_add_up_over_all_starts():
    clock = Clock()
    phases = Phases(clock)
    goodput = Goodput(phases, {"step": 50.0, "lost": 10.0})
    phases.next_step(0)
    clock.now += 30
    with phases("save"):
        clock.now += 10
    figures = goodput.figures(0)
    assert figures["wall_s"] == 100
    assert (figures["share_step"], figures["share_lost"], figures["share_save"]) == (0.8, 0.1, 0.1)
    assert in_words(figures) == "step 80%, save 10%, lost 10% of 0.0278 hours"


def test_the_process_that_waits_longest_is_named_and_even_waits_name_nobody():
    clock, waits = Clock(), {1: 0.0, 2: 0.0}
    phases = Phases(clock)
    goodput = Goodput(phases, waits=lambda: waits)
    assert "straggler" not in goodput.figures(0)
    clock.now += 20
    waits.update({1: 0.1, 2: 8.0})
    figures = goodput.figures(10)
    assert figures["straggler"] == 2
    assert (figures["input_worst_s"], figures["input_median_s"]) == pytest.approx((0.8, 0.01))
    clock.now += 20
    waits.update({1: 8.1, 2: 16.0})
    with phases("input"):
        clock.now += 8
    assert "straggler" not in goodput.figures(20)


def test_what_came_after_the_checkpoint_is_lost(tmp_path):
    lines = [json.dumps({"step": n, "time": 100.0 + n}) for n in range(50)]
    (tmp_path / METRICS).write_text("\n".join([*lines, '{"step": 50, "ti']))
    assert lost_seconds(tmp_path, 140.0) == 9
    assert lost_seconds(tmp_path, None) == 49  # killed before its first checkpoint
    assert lost_seconds(tmp_path, 200.0) == 0
    assert lost_seconds(tmp_path / "new", None) == 0


def test_profiles_are_taken_at_steps_and_on_demand(tmp_path, monkeypatch):
    begun, ended = [], []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: begun.append(step))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: ended.append(step))
    monkeypatch.setattr(traces_module, "LOOK_S", 0.0)
    said = []
    with make_traces(tmp_path, ProfileOptions(at=(2,), steps=3), said.append) as traces:
        for step in range(30):
            if step == 10:
                (tmp_path / REQUEST).touch()
            if step == 20:
                os.kill(os.getpid(), signal.SIGUSR2)
            traces.at(step, np.zeros(1))
    assert (begun, ended) == ([2, 10, 20], [5, 13, 23])
    assert not (tmp_path / REQUEST).exists()
    assert str(tmp_path / "tensorboard") in said[0]


def test_a_full_disk_is_one_sentence_however_deep_it_lies(tmp_path):
    def save():
        try:
            raise OSError(28, os.strerror(28))
        except OSError as error:
            raise ExceptionGroup("saving", [ValueError("x"), RuntimeError("y")]) from error

    failing = pytest.raises(WorkFailed, match="no space left on device.*same command")
    with failing as failed, full_disk_in_words(tmp_path):
        save()
    assert failed.value.exit_code == 1 and failed.value.__cause__ is None
    with pytest.raises(ZeroDivisionError), full_disk_in_words(tmp_path):
        1 / 0  # noqa: B018
