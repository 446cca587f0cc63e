"""Steps in parts: the same loss, for every term at once."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nano import drawn_weights, nano_config

from mmv_jax.errors import UserError
from mmv_jax.parallel import make_mesh
from mmv_jax.train.advice import Choice, propose
from mmv_jax.train.loop import make_parts
from mmv_jax.train.shares import check_rows


@pytest.mark.parametrize(
    "weights",
    [
        # features of all parts are compared with each other
        pytest.param({"koleo": 1.0}, id="koleo"),
        # masked rows and their decoder, targets balanced over all rows, every crop with every other
        pytest.param({}, id="all terms", marks=pytest.mark.full),
    ],
)
def test_a_step_in_two_parts_has_the_loss_and_gradient_of_the_whole(batch, weights):
    config = nano_config(**weights)
    config.encoder.drop_path = 0.5  # draws of the parts are those of the whole
    objective, batch = make_parts(config)[0], jax.tree.map(jnp.asarray, batch)
    shapes = jax.eval_shape(objective.init, jax.random.key(0), batch)
    student, teacher = map(drawn_weights, shapes)

    def loss(parts):
        made = replace(objective, parts=parts)
        return jax.jit(
            lambda student, teacher: jax.value_and_grad(made.loss, has_aux=True)(
                student, teacher=teacher, batch=batch, key=jax.random.key(1), step=jnp.int32(3)
            )
        )(student, teacher)

    ((found, told), gradient), ((expected, wanted), whole) = loss(2), loss(1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name in objective.terms:
        np.testing.assert_allclose(told[name], wanted[name], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3), gradient, whole
    )


@pytest.mark.parametrize(
    "per_step, parts, advice",
    [
        (6, 1, "config.rows.per_step is 6.*--config.rows.per_step=8"),
        (48, 4, "config.rows.accumulate is 4.*6 rows of a device.*--config.rows.accumulate=3"),
        (16, 0, "config.rows.accumulate is 0.*whole number"),
        (16, 2.0, "config.rows.accumulate is 2.0.*whole number"),
    ],
)
def test_rows_that_cannot_be_shared_out_are_refused_with_what_to_set(per_step, parts, advice):
    config = nano_config()
    config.rows.update({"per_step": per_step, "accumulate": parts})
    with pytest.raises(UserError, match=advice):
        check_rows(config, make_mesh(2, 4))


def test_the_proposal_computes_the_least_that_fits():
    now = Choice("full", 2, 256, accumulate=4)
    remats = ("none", "products", "every_2", "full")
    held = {"none": 900, "products": 500, "every_2": 350, "full": 200}
    again = {"none": 0, "products": 0, "every_2": 15, "full": 30}

    def proposal(room):
        return propose(
            now,
            remats,
            costs=lambda choice: 100 + again[choice.remat] + 30 * (choice.accumulate > 1),
            takes=lambda choice: held[choice.remat] / choice.accumulate,
            room=room,
        )

    # Of two that compute as little, the one that takes less memory.
    best = proposal(1000)
    assert best.overrides == "--config.encoder.remat=products --config.rows.accumulate=1"
    assert best.saves == pytest.approx(1 - 100 / 160) and best.takes == 500
    assert proposal(400).overrides == "--config.encoder.remat=every_2 --config.rows.accumulate=1"
    assert proposal(130).overrides == "--config.encoder.remat=products"
    assert proposal(60) is None
