"""A run with a constant rate goes on for longer; any other is refused."""

import json

import pytest
from nano import draw_begin, nano_config, on_one_device, share_step

from mmv_jax.errors import UserError
from mmv_jax.seals import step_folders
from mmv_jax.train import loop
from mmv_jax.train.log import read_metrics
from mmv_jax.train.prolong import SCHEDULE, goes_on_from, last_constant_step, may_prolong
from mmv_jax.train.workdir import keep_config


def plain(steps, warmup=0.1, decay=0.25, every=2):
    optimizer = {"warmup": warmup} | ({} if decay is None else {"decay": decay})
    return {"steps": steps, "optimizer": optimizer, "checkpoint": {"every": every}}


def rising(steps):
    config = plain(steps)
    config["optimizer"]["weight_decay_end"] = 0.4
    return config


@pytest.mark.parametrize(
    "before, now, names",
    [
        (plain(8), plain(16), SCHEDULE),
        (plain(8), plain(16, decay=0.5), SCHEDULE),
        (plain(8), plain(8), ()),
        (plain(8), plain(4), ()),  # shorter
        (plain(8, decay=None), plain(16), ()),
        (plain(8), plain(16, decay=None), ()),
        (plain(8), plain(80), ()),  # 8 steps of warm-up, but it would go on from step 6
        (plain(8), plain(80, warmup=0.05), SCHEDULE),
        ({"steps": 8}, plain(16), ()),
        (rising(8), rising(16), ()),
        (plain(8) | {"objective": {"dino": 1.0}}, plain(16), ()),  # the teacher's schedules
        (plain(8) | {"objective": {"dino": 0.0, "mae": 1.0}}, plain(16), SCHEDULE),
    ],
)
def test_only_a_longer_run_with_a_constant_rate_may_change_its_schedule(before, now, names):
    assert may_prolong(before, now) == names


def test_a_run_goes_on_from_the_last_saved_step_before_its_rate_falls():
    assert last_constant_step(plain(8)) == 6
    assert last_constant_step(plain(9, every=4)) == 4
    assert last_constant_step(plain(8, every=8)) is None
    assert goes_on_from(plain(8), plain(16), [6, 8]) == 6
    assert goes_on_from(plain(8), plain(8), [8]) is None
    with pytest.raises(UserError, match="checkpoint of step 6, before .* is no longer there"):
        goes_on_from(plain(8), plain(16), [8])


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.full)])
def test_a_prolonged_run_is_the_longer_run(store, tmp_path, monkeypatch, devices):
    if devices == 1:
        on_one_device(monkeypatch)

    def losses(folder):
        return {line["step"]: line["loss"] for line in read_metrics(folder) if "loss" in line}

    def train(folder, steps):
        config = nano_config(store, koleo=1.0)  # no teacher: its momentum would change too
        config.rows.per_step, config.mesh.data, config.steps = max(2, devices), devices, steps
        config.optimizer.update(warmup=1 / steps, decay=2 / steps)
        config.checkpoint.update(every=2, keep=1)
        with monkeypatch.context() as patch:
            draw_begin(patch)
            share_step(patch, f"{steps} steps on {devices}")
            loop.pretrain(config, folder)
        return losses(folder)

    train(tmp_path / "run", 4)
    # Held besides the newest: the step before the fall.
    assert set(step_folders(tmp_path / "run")) == {2, 4}
    prolonged = train(tmp_path / "run", 6)
    whole = train(tmp_path / "whole", 6)
    # From step 4, whose update had a lower rate already, losses would differ.
    assert prolonged == whole and list(prolonged) == list(range(6))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 6


def test_a_run_with_a_cosine_is_not_prolonged_and_says_what_could_be(tmp_path):
    config = nano_config()
    keep_config(config, tmp_path, ())
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    config.steps += 1
    with pytest.raises(UserError, match=r"prolonged only if .*config.optimizer.decay"):
        keep_config(config, tmp_path, ())
