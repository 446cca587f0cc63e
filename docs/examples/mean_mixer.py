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
            name: jax.tree.map(lambda _, d=depth[name]: decay ** (self.depth - d), own)
            for name, own in params.items()
        }


BACKBONES.register("mean-mixer", MeanMixer)
