"""Spikes: which steps are left out, when a run goes back, and that it meets no spike twice."""

import json

import jax
import numpy as np
import pytest
from nano import nano_config

from mmv_jax.checkpoint import restore_items
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.train import loop
from mmv_jax.train.guard import FEWEST, NO_LIMIT, Guard, GuardOptions, RollBack
from mmv_jax.train.log import read_metrics


def fed(guard: Guard, steps: int, seed: int = 0) -> Guard:
    rng = np.random.default_rng(seed)
    for n in range(steps):
        guard.see(n, loss=3 + 0.1 * rng.normal(), norm=float(rng.lognormal(sigma=0.3)), spike=False)
    return guard


def test_there_is_no_limit_until_there_is_a_history_and_none_where_it_is_not_wanted():
    guard = fed(Guard(GuardOptions()), FEWEST)
    assert (guard.limits(FEWEST) == NO_LIMIT).all()  # it does not look at the step before
    assert np.isfinite(guard.limits(FEWEST + 1)).all()
    off = fed(Guard(GuardOptions(spread=float("inf"))), 100)
    assert (off.limits(100) == NO_LIMIT).all()


def test_limits_are_wide_for_usual_steps_and_close_for_a_spike():
    guard = fed(Guard(GuardOptions()), 200)
    loss, norm = guard.limits(200)
    assert 4 < loss < 5
    assert 40 < norm < 80


def test_norms_that_grow_twentyfold_within_thirty_steps_are_no_spikes():
    """As they did in a run of the smallest encoder that learnt well."""
    guard = fed(Guard(GuardOptions()), 70)
    for step, growth in enumerate(np.geomspace(1, 20, 30), 70):
        assert growth < guard.limits(step)[1]
        guard.see(step, loss=3.0, norm=growth, spike=False)


def test_limits_of_a_step_do_not_depend_on_whether_the_step_before_is_known():
    early, late = fed(Guard(GuardOptions()), 99), fed(Guard(GuardOptions()), 100)
    np.testing.assert_array_equal(early.limits(100), late.limits(100))


def test_what_is_kept_gives_the_same_limits_again():
    guard = fed(Guard(GuardOptions(steps=40)), 100)
    again = Guard(GuardOptions(steps=40), json.loads(json.dumps(guard.state())))
    np.testing.assert_array_equal(again.limits(101), guard.limits(101))
    assert again.state() == guard.state()


def test_a_run_goes_back_leaves_the_spikes_out_and_ends_at_last():
    options = GuardOptions(steps=50, skips=2, rollbacks=1)
    guard = fed(Guard(options), 100)
    guard.see(100, loss=9.0, norm=1.0, spike=True)
    kept = guard.state()
    with pytest.raises(RollBack) as back:
        guard.see(104, loss=8.0, norm=1.0, spike=True)
    assert back.value.before == 100
    again = guard.go_back(kept)
    assert [again.is_left_out(n) for n in (99, 100, 103, 104, 105)] == [0, 1, 1, 1, 0]
    assert (again.limits(102) == -np.inf).all()
    again.see(102, loss=9.0, norm=1.0, spike=True)  # left out already, so it counts no more
    again.see(110, loss=9.0, norm=1.0, spike=True)
    with pytest.raises(WorkFailed, match="spiked at steps 110 .loss 9.*, 112 .*peak_lr"):
        again.see(112, loss=9.0, norm=1.0, spike=True)


def test_spikes_that_lie_far_apart_are_left_out_and_no_more():
    guard = fed(Guard(GuardOptions(steps=20, skips=2)), 50)
    for step in range(50, 400, 30):
        guard.see(step, loss=9.0, norm=1.0, spike=True)


SPIKES = (7, 8)


@pytest.fixture
def spiking(store, monkeypatch):
    """A config whose steps 7 and 8 count as spikes."""
    config = nano_config(store, mae=1.0)
    config.update({"mesh": {"data": 2, "fsdp": 4}, "checkpoint": {"every": 3, "keep": 9}})
    config.rows.per_step = 8
    plain = Guard.limits

    def low(guard, step):
        spike = step in SPIKES and not guard.is_left_out(step)
        return np.zeros(2, np.float32) if spike else plain(guard, step)

    monkeypatch.setattr(Guard, "limits", low)
    return config


def test_a_run_with_spikes_goes_back_once_and_comes_to_its_end(spiking, tmp_path, capsys):
    spiking.guard = {"skips": 2}
    state = loop.pretrain(spiking, tmp_path / "back")
    said = capsys.readouterr().err
    assert "step 7: left out, since its loss" in said
    assert said.count("Going back to checkpoint 6;") == 1
    lines = read_metrics(tmp_path / "back")
    assert [line["step"] for line in lines if line["spike"]] == list(SPIKES)
    kept = restore_items(tmp_path / "back", ())[1]["pretraining"]["guard"]
    assert kept["left_out"] == [[7, 8]] and kept["rollbacks"] == [8]
    # Bit for bit: it is the run that has left these two steps out and went on.
    spiking.guard = {"skips": 9}
    plain = loop.pretrain(spiking, tmp_path / "on")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(plain), jax.device_get(state))
    shares = [sum(v for k, v in line.items() if k.startswith("share_")) for line in lines[::10]]
    np.testing.assert_allclose(shares, 1.0)


def test_a_run_that_spikes_before_its_first_checkpoint_ends(spiking, tmp_path):
    spiking.update({"guard": {"skips": 2}, "checkpoint": {"every": 10, "keep": 9}})
    with pytest.raises(WorkFailed, match="spiked at steps 7 .*no checkpoint from before"):
        loop.pretrain(spiking, tmp_path)


@pytest.mark.parametrize(
    "wrong", ({"steps": 0}, {"skips": 0}, {"rollbacks": -1}, {"spread": 0.5}, {"spread": np.nan})
)
def test_options_under_which_every_step_would_be_a_spike_are_refused(wrong):
    with pytest.raises(UserError, match=rf"config.guard.{next(iter(wrong))} is .* or more"):
        GuardOptions(**wrong)
