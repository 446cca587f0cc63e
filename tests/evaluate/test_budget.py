"""The budget of a fit: what val chooses, which fits are measured, and what a config may ask for."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.finetune.budget import Budget, Spent, tune
from mmv_jax.evaluate.finetune.gradient_descent import Recipe, fit, learning_rates
from mmv_jax.evaluate.finetune.kept import read, write
from mmv_jax.evaluate.finetune.learner import Fit, learn

USUAL = Recipe(peak_lr=0.1, weight_decay=0.0)


class Walk:
    """Adam along a slope: after one epoch the place is the sum of the learning rates. Val is best
    where the usual rate ends, which a smaller one does not reach and a larger one passes.
    """

    def fit(self, recipe, seed):
        data = {"x": np.zeros(12, np.float32)}
        goal = learning_rates(12, replace(recipe, peak_lr=USUAL.peak_lr)).sum()
        return fit(
            {"w": jnp.zeros(())},
            lambda params, batch, key: -params["w"] * jnp.ones_like(batch["x"]).mean(),
            data,
            lambda params: -abs(float(params["w"]) - goal),
            recipe=recipe,
            seed=seed,
        )

    def answer(self, fitted, batch):
        return np.array([float(fitted.params["w"])])


def test_val_chooses_the_middle_rate_where_it_is_best():
    asked = []

    def fit_once(recipe, seed, tested):
        asked.append((round(recipe.peak_lr / USUAL.peak_lr, 3), seed, tested))
        return learn(Walk(), recipe, seed, tested=tested)

    budget = Budget(epochs=1, patience=1, batch=4, seeds=1)
    found = tune(fit_once, USUAL, budget, 7, layered=False)
    assert found.recipe.peak_lr == USUAL.peak_lr
    assert asked == [(0.25, 7, False), (1.0, 7, False), (4.0, 7, False), (1.0, 8, True)]
    assert [trial.answer for trial in found.trials] == [None] * 3
    spent = Spent.of([found], 12)
    assert (spent.settings, spent.fits, spent.epochs, spent.studies) == (3, 4, 4, 12)
    assert spent.seconds > 0
    assert (spent.setting, spent.by_seed) == ("learning rate 0.1", ["epoch 1 of 1"])


def scored(score):
    """A fit whose score on val follows from its recipe."""
    asked = []

    def fit_once(recipe, seed, tested):
        asked.append((recipe, seed, tested))
        return Fit(np.zeros(1) if tested else None, score(recipe), 1, 2, 0.5)

    return fit_once, asked


def test_the_layer_decay_is_chosen_at_the_best_rate_and_each_setting_is_tried_once():
    fit_once, asked = scored(lambda r: -abs(r.peak_lr - 0.4) - abs(r.layer_decay - 0.65))
    found = tune(fit_once, USUAL, Budget(), 0, layered=True)
    assert (found.recipe.peak_lr, found.recipe.layer_decay) == (0.4, 0.65)
    tried = [(r.peak_lr, r.layer_decay) for r, _, tested in asked if not tested]
    assert tried == [(0.025, 0.8), (0.1, 0.8), (0.4, 0.8), (0.4, 0.65), (0.4, 1.0)]
    assert [(seed, tested) for _, seed, tested in asked[5:]] == [(1, True), (2, True), (3, True)]


def test_all_pairs_find_what_one_step_after_the_other_misses():
    """Two of the nine pairs are good, and the better one is not on the way of the rates."""
    worth = {(0.1, 0.8): 1.0, (0.025, 1.0): 2.0}

    def of(recipe):
        return worth.get((recipe.peak_lr, recipe.layer_decay), 0.0)

    fit_once, asked = scored(of)
    found = tune(fit_once, USUAL, Budget(all_pairs=True), 0, layered=True)
    assert (found.recipe.peak_lr, found.recipe.layer_decay) == (0.025, 1.0)
    assert len([0 for *_, tested in asked if not tested]) == Spent.of([found], 12).settings == 9
    found = tune(scored(of)[0], USUAL, Budget(), 0, layered=True)
    assert (found.recipe.peak_lr, found.recipe.layer_decay) == (0.1, 0.8)


def test_a_fit_that_diverged_is_never_chosen():
    fit_once, _ = scored(lambda r: float("nan") if r.peak_lr < 0.4 else -9.0)
    assert tune(fit_once, USUAL, Budget(), 0, layered=False).recipe.peak_lr == 0.4


def test_one_setting_is_not_tried_before_it_is_fitted():
    fit_once, asked = scored(lambda r: 0.0)
    found = tune(fit_once, USUAL, Budget(rates=(1.0,), layer_decays=(0.8,)), 0, layered=True)
    assert [tested for *_, tested in asked] == [True] * 3
    assert Spent.of([found], 12).settings == 1


def test_a_kept_fit_is_read_as_it_was_written(tmp_path):
    for name, answer in {"tested": np.arange(3.0), "trial": None}.items():
        fit = Fit(answer, -0.25, 4, 9, 1.5)
        write(tmp_path / name, fit)
        found = read(tmp_path / name)
        np.testing.assert_array_equal(found.answer, fit.answer)
        assert replace(found, answer=None) == replace(fit, answer=None)


@pytest.mark.parametrize(
    "options",
    [
        {"epoch": 3},
        {"epochs": 0},
        {"studies": 0.5},
        {"studies": -1},
        {"batch": 2.5},
        {"seeds": True},
        {"peak_lr": 1.0},
        {"rates": ()},
        {"rates": 0.1},
        {"rates": (1.0, -1.0)},
        {"layer_decays": (0.5, 1.5)},
        {"all_pairs": 1},
    ],
    ids=str,
)
def test_a_budget_that_cannot_be_is_refused(options):
    with pytest.raises(UserError, match=f"config.fit.{next(iter(options))}"):
        Budget.of(options)


def test_a_config_changes_what_it_names_alone():
    assert Budget.of({"epochs": 2, "rates": [1]}) == replace(Budget(), epochs=2, rates=(1,))


def test_a_command_line_can_ask_for_all_studies():
    assert Budget.of({"studies": 0}) == Budget()
