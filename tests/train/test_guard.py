"""Spikes: which steps are left out, when a run goes back, and that it meets no spike twice."""

import json

import numpy as np
import pytest

from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.train.guard import FEWEST, NO_LIMIT, Guard, GuardOptions, RollBack


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


@pytest.mark.parametrize(
    "wrong", ({"steps": 0}, {"skips": 0}, {"rollbacks": -1}, {"spread": 0.5}, {"spread": np.nan})
)
def test_options_under_which_every_step_would_be_a_spike_are_refused(wrong):
    with pytest.raises(UserError, match=rf"config.guard.{next(iter(wrong))} is .* or more"):
        GuardOptions(**wrong)
