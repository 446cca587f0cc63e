"""Fitting by gradient descent: the rates of layers, early stopping, true epochs."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.evaluate.encoders.trained import fresh_params
from mmv_jax.evaluate.finetune.gradient_descent import (
    Recipe,
    fit,
    in_batches,
    layer_rates,
    learning_rates,
    shape_of_epoch,
    stopped_by_val,
)
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.models.sizes import make_encoder


def test_each_layer_learns_slower_than_the_one_above_by_the_same_factor():
    encoder = make_encoder("nano", (4, 8, 8), registers=1)
    params = {
        "encoder": fresh_params(encoder, 0),
        "head": {"kernel": jnp.zeros((3, 1))},
    }
    rates = layer_rates(params, 0.5, encoder)
    assert rates["head"]["kernel"] == 1.0
    assert set(rates["encoder"]["norm"].values()) == {1.0}
    # two blocks, stacked
    stack = rates["encoder"]["blocks"]["stack"]["combine"]["mlp_out"]["kernel"]
    assert stack.shape == (2, 1, 1)
    assert stack.ravel().tolist() == [0.25, 0.5]
    assert rates["encoder"]["embed"]["patch"]["kernel"] == 0.125


def test_the_first_update_is_scaled_by_the_rates():
    """Adam's first step is the learning rate along the sign of the gradient, so what moved tells
    the rates.
    """
    params = {
        "encoder": {
            "embed": {"w": jnp.zeros(2)},
            "blocks": {"w": jnp.zeros((3, 2))},
            "norm": {"w": jnp.zeros(2)},
        },
        "head": jnp.zeros(2),
    }

    def loss_fn(params, batch, key):
        return -sum(
            leaf.sum()
            for leaf in (params["head"], *(part["w"] for part in params["encoder"].values()))
        )

    recipe = Recipe(epochs=1, batch=1, weight_decay=0.0, layer_decay=0.5)
    found = fit(
        params,
        loss_fn,
        {"x": np.zeros(2)},
        lambda params: float(params["head"][0]),
        recipe=recipe,
        seed=0,
        encoder=make_encoder("nano", (4, 8, 8), registers=1, depth=3),
    ).params
    ratio = {
        name: np.asarray(found["encoder"][name]["w"]) / np.asarray(found["head"][0])
        for name in found["encoder"]
    }
    np.testing.assert_allclose(ratio["norm"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(ratio["blocks"][:, 0], [0.125, 0.25, 0.5], rtol=1e-5)
    np.testing.assert_allclose(ratio["embed"], 0.0625, rtol=1e-5)


def line_fit(score, recipe):
    data = {"x": np.linspace(-1, 1, 12, dtype=np.float32)}

    def loss_fn(params, batch, key):
        return ((params["w"] - 1.0) ** 2 * jnp.ones_like(batch["x"])).mean()

    return fit({"w": jnp.zeros(())}, loss_fn, data, score, recipe, seed=0)


def test_the_best_epoch_on_val_is_kept_and_patience_ends_the_fit():
    asked = []

    def score(params):
        asked.append(float(params["w"]))
        return -abs(asked[-1] - 0.3)  # val is best on the way

    found = line_fit(score, Recipe(epochs=200, patience=3, batch=4, peak_lr=0.1))
    assert len(asked) == 1 + found.epoch + 3
    assert float(found.params["w"]) == asked[found.epoch]
    assert found.score == max(-abs(w - 0.3) for w in asked)
    assert found.epochs == found.epoch + 3


def test_a_classifier_that_is_too_sure_of_itself_goes_on_learning():
    """Its log loss is above a coin's 0.69 for three epochs, while its ranking improves."""
    truth, epochs = np.repeat([0.0, 1.0], 20), []
    for wrong in (20, 14, 12, 8, 6):
        order = np.where(np.arange(40) % 20 < wrong, 0.5, truth)
        epochs.append(np.clip(order + np.where(order == 0.5, 0.4, 0.0), 1e-5, 1 - 1e-5))
    score = KINDS["classification"].score
    rest = iter([np.full(40, 0.5), *epochs])
    found = stopped_by_val(
        lambda lines, number: None,
        lambda: score(next(rest), truth, ()),
        copy=lambda: None,
        count=8,
        recipe=Recipe(epochs=5, patience=2),
        seed=0,
    )
    assert found.epoch == 5
    assert np.isnan(score(np.full(40, np.nan), truth, ()))


def test_a_fit_that_never_improves_gives_back_what_it_began_with():
    found = line_fit(
        lambda params: -abs(float(params["w"])), Recipe(epochs=5, patience=2, batch=4, peak_lr=0.1)
    )
    assert (found.epoch, found.epochs) == (0, 5)
    assert float(found.params["w"]) == 0.0


@pytest.mark.parametrize(
    ("scores", "epoch", "epochs"),
    [
        ([0, -1, -1, -1, -1, 1, 0], 5, 6),  # it gains late, when the learning rate has fallen
        ([0, 1, 0, 0, 2, 0, 0], 1, 3),  # patience counts from the best epoch
        ([0, np.nan, np.nan, np.nan, 1, 0, 0], 0, 2),  # a diverged fit does not come back
    ],
)
def test_patience_begins_when_a_fit_has_bettered_its_start(scores, epoch, epochs):
    rest = iter(scores)
    found = stopped_by_val(
        lambda lines, number: None,
        lambda: next(rest),
        copy=lambda: None,
        count=8,
        recipe=Recipe(epochs=6, patience=2),
        seed=0,
    )
    assert (found.epoch, found.epochs) == (epoch, epochs)


@pytest.mark.parametrize("count, steps", {5: 1, 16: 1, 17: 2, 400: 25, 100_000: 6250}.items())
def test_an_epoch_is_a_pass_over_the_training_studies(count, steps):
    rows, per_epoch = shape_of_epoch(count, Recipe(batch=16))
    assert (rows, per_epoch) == (min(16, count), steps)


def test_every_study_is_shown_in_every_epoch():
    shown = []
    recipe = Recipe(epochs=3, patience=3, batch=4)
    stopped_by_val(
        lambda lines, number: shown.append(lines),
        score=lambda: float(len(shown)),
        copy=lambda: None,
        count=10,
        recipe=recipe,
        seed=0,
    )
    assert len(shown) == 9
    for epoch in range(3):
        assert set(np.concatenate(shown[3 * epoch : 3 * epoch + 3])) == set(range(10))


def test_other_optimizers_are_given_the_rates_of_a_fit():
    """Adam's step on a constant gradient is the learning rate."""
    recipe = Recipe(epochs=2, patience=2, batch=4, weight_decay=0.0)
    walked = []
    data = {"x": np.zeros(12, np.float32)}

    def score(params):
        walked.append(float(params["w"]))
        return walked[-1]

    fit({"w": jnp.zeros(())}, lambda params, batch, key: -params["w"], data, score, recipe, seed=0)
    rates = learning_rates(12, recipe)
    assert rates.max() == np.float32(recipe.peak_lr)
    np.testing.assert_allclose(np.diff(walked), rates.reshape(2, -1).sum(axis=1), rtol=1e-4)


def test_batches_cover_every_line_once_in_order():
    data = {"x": np.arange(7.0)}
    seen = []

    def double(batch):
        seen.append(len(batch["x"]))
        return 2 * batch["x"]

    np.testing.assert_array_equal(in_batches(double, data, 3), 2 * data["x"])
    assert seen == [3, 3, 3]
