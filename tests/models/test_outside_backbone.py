"""A backbone from a file outside the package: encoded shapes, counts, and rates of its layers."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.finetune.gradient_descent import layer_rates
from mmv_jax.models.sizes import encoder_flops, flops_per_token, make_encoder, parameter_count
from mmv_jax.models.table import BACKBONES

FILE = '''
"""Tokens that learn of their segment by its mean alone."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmv_jax.errors import UserError
from mmv_jax.models.backbone import Backbone, check_options
from mmv_jax.models.cost import Flops
from mmv_jax.models.table import BACKBONES
from mmv_jax.ops.pool import segment_mean


class MeanMixer(Backbone):
    width: int
    depth: int
    patch: tuple[int, int, int]
    registers: int = 1
    remat: bool = False
    dtype: str = "float32"

    @classmethod
    def make(cls, size, patch, **options):
        sizes = {"small": (16, 3)}
        if size not in sizes:
            raise UserError(f"config.encoder.size is {size!r}; use small.")
        check_options(["registers", "remat", "dtype"], options)
        width, depth = sizes[size]
        return cls(width, depth, tuple(patch), **options)

    @nn.compact
    def __call__(self, patches, coords_mm, kinds, segment_ids, *, masked=None, train=False):
        if masked is not None:
            patches = jnp.where(masked[..., None], 0.0, patches)
        there, blocks = segment_ids[..., None] > 0, []
        x = nn.Dense(self.width, name="embed")(patches)
        for n in range(self.depth):
            means = segment_mean(x, segment_ids, segment_ids.shape[1])
            own = jnp.take_along_axis(means, jnp.maximum(segment_ids - 1, 0)[..., None], axis=1)
            x = x + nn.gelu(nn.Dense(self.width, name=f"layer_{n}")(x + own))
            blocks.append(jnp.where(there, x, 0.0))
        return {"tokens": blocks[-1], "blocks": jnp.stack(blocks)}

    @nn.nowrap
    def forward_flops(self, tokens, squares):
        a_token = math.prod(self.patch) * self.width + self.depth * self.width**2
        return Flops(forward=2 * tokens * a_token)

    @nn.nowrap
    def training_flops(self, tokens, squares):
        forward = self.forward_flops(tokens, squares).forward
        return Flops(forward=forward, backward=2 * forward)

    @nn.nowrap
    def stored_bytes(self, remat):
        return 4 * 3 * self.depth * self.width

    @nn.nowrap
    def working_bytes(self, remat):
        return 4 * 3 * self.width

    @nn.nowrap
    def layer_rates(self, params, decay):
        depth = {"embed": 0} | {f"layer_{n}": n + 1 for n in range(self.depth)}
        return {
            name: jax.tree.map(lambda _: decay ** (self.depth - depth[name]), own)
            for name, own in params.items()
        }


BACKBONES.register("mean-mixer", MeanMixer)
'''


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
    params = encoder.init(jax.random.key(0), *rows)["params"]
    out = encoder.apply({"params": params}, *rows)
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
    made = encoder.init(jax.random.key(0), *packed([20]))["params"]
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
