"""A backbone from a file outside the package: encoded shapes, counts, and rates of its layers."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import example
from nano import drawn_weights

from mmv_jax.errors import UserError
from mmv_jax.evaluate.finetune.gradient_descent import layer_rates
from mmv_jax.models.sizes import encoder_flops, flops_per_token, make_encoder, parameter_count
from mmv_jax.models.table import BACKBONES

FILE = example("mean_mixer.py")


@pytest.fixture(scope="module", autouse=True)
def mean_mixer(tmp_path_factory):
    """Loads the file, and takes its backbone out of the table again."""
    path = tmp_path_factory.mktemp("outside") / "mean_mixer.py"
    path.write_text(FILE)
    spec = importlib.util.spec_from_file_location("mean_mixer", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield
    del BACKBONES._entries["mean-mixer"]


@pytest.fixture
def encoder():
    """As a config's group `encoder` names it."""
    group = {"backbone": "mean-mixer", "size": "small", "patch": (2, 4, 4), "registers": 2}
    return make_encoder(**group)


def test_it_encodes_rows_and_its_parameters_are_counted(encoder, packed):
    rows = packed([20, 30])
    params = drawn_weights(jax.eval_shape(encoder.init, jax.random.key(0), *rows)["params"])
    out = jax.jit(encoder.apply)({"params": params}, *rows)
    length = rows[0].shape[1]
    assert out["tokens"].shape == (1, length, 16)
    assert out["blocks"].shape == (3, 1, length, 16)
    assert jnp.all(out["tokens"][rows[3] == 0] == 0)
    counted = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert parameter_count(encoder) == counted == 32 * 16 + 16 + 3 * (16 * 16 + 16)
    assert encoder.gathered_parameters(params) == counted // 3


def test_its_flops_are_asked_by_name_of_its_parts(encoder):
    assert flops_per_token(encoder) == 2 * (32 * 16 + 3 * 16 * 16)
    assert encoder_flops(encoder, 10, [10]) == 10 * flops_per_token(encoder)


def test_fine_tuning_asks_it_for_the_rates_of_its_layers(encoder, packed):
    made = jax.eval_shape(encoder.init, jax.random.key(0), *packed([20]))["params"]
    rates = layer_rates({"encoder": made, "head": np.zeros(3)}, 0.5, encoder)
    assert rates["head"] == 1.0
    assert rates["encoder"]["layer_2"]["kernel"] == 1.0
    assert rates["encoder"]["layer_0"]["bias"] == 0.25
    assert rates["encoder"]["embed"]["kernel"] == 0.125
    assert jax.tree.structure(rates["encoder"]) == jax.tree.structure(made)


def test_its_mistakes_are_told_by_itself():
    with pytest.raises(UserError, match="use small"):
        make_encoder("S", (2, 4, 4), backbone="mean-mixer")
    with pytest.raises(UserError, match=r"config\.encoder\.heads does not exist"):
        make_encoder("small", (2, 4, 4), backbone="mean-mixer", heads=2)
