"""Transformer blocks over packed rows, shared by the encoder and the MAE decoder.

Axes: B rows, L tokens, H heads, K channels of a head, D width.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.ops.attention import segment_attention
from mmv_jax.ops.rotary import TABLES, RotaryTables, apply_rotary

# The forward pass stores the results of matrix products; the backward pass computes norms,
# rotations, GELU and gates again. Their residuals would be two thirds of a block's memory, and on
# a CPU too it is slower to write and read them.
STORE_PRODUCTS: dict[str, Any] = {
    "policy": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "prevent_cse": False,
}
EPSILON = 1e-6  # of layer norms
KERNEL_INIT = nn.initializers.xavier_uniform()


def flat(layer: Callable[[Array], Array], x: Float[Array, "*batch D"]) -> Float[Array, "*batch E"]:
    """Apply a layer to the tokens as one plain matrix, whatever their leading axes.

    Over two batch axes XLA transposes and copies activations for a weight's gradient (CPU: twice
    the time). The gradients of scales are sums over both axes; where one axis has length 1, they
    take 20 times as long.
    """
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def hidden_width(width: int, mlp: str) -> int:
    """Channels inside the MLP: 8/3 D for the gated "swiglu", else 4 D.

    The latter is rounded up to a multiple of 8. Both cost the same.
    """
    # -(-8 width // 24) rounds (8 / 3 width) / 8 up, so that 8 times it is a multiple of 8.
    return -(-8 * width // 24) * 8 if mlp == "swiglu" else 4 * width


class Project(nn.Module):
    """Entry of attention: queries, keys and values of normalised tokens, in one matrix product.

    Queries and keys are rotated by position.
    """

    heads: int
    bias: bool
    qk_norm: bool
    dtype: str
    epsilon: float = EPSILON

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], tables: RotaryTables
    ) -> tuple[Float[Array, "B L H K"], Float[Array, "B L H K"], Float[Array, "B L H K"]]:
        rows, length, width = x.shape
        x = flat(nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm"), x)
        qkv = flat(
            nn.Dense(
                3 * width, use_bias=self.bias, kernel_init=KERNEL_INIT, dtype=self.dtype, name="qkv"
            ),
            x,
        )
        qkv = nn.with_logical_constraint(qkv, ("rows", "tokens", "hidden"))
        # Queries and keys stay in one array (2 H heads): norm and rotation are the same for both.
        qk, v = (
            part.reshape(rows, length, -1, width // self.heads)
            for part in jnp.split(qkv, (2 * width,), axis=-1)
        )
        if self.qk_norm:
            # Line 0 is for all heads of the queries, line 1 for those of the keys;
            # `repeat` makes [2 H, K].
            scale = self.param("qk_scale", nn.initializers.ones, (2, width // self.heads))
            qk = standardise(qk) * jnp.repeat(scale, self.heads, axis=0)[None, None].astype(
                qk.dtype
            )
        q, k = jnp.split(apply_rotary(qk, tables), 2, axis=2)
        return q, k, v


def standardise(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Zero mean and unit variance over the last axis, computed in float32.

    It bounds the logits of attention, which bfloat16 needs (arXiv 2302.05442, section 2).
    """
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)


class Combine(nn.Module):
    """Exit of a block: adds the output of attention to x, then the output of the MLP.

    Each branch is scaled first. The sum is float32, whatever dtype the branches compute in.
    """

    mlp: str
    layer_scale: float | None
    dtype: str
    epsilon: float = EPSILON

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        found: Float[Array, "B L H K"],
        survival: Float[Array, ""] | None,
        segment_ids: Int[Array, "B L"],
    ) -> Float[Array, "B L D"]:
        width, gated = x.shape[-1], self.mlp == "swiglu"
        hidden = hidden_width(width, self.mlp)
        y = self.dense(width, "attention_out", found.reshape(x.shape))
        x = self.add(x, y, survival=survival, segment_ids=segment_ids, name="attention_scale")
        y = flat(nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm"), x)
        # gate and value of SwiGLU (arXiv 2002.05202) in one product
        y = self.dense(hidden * (2 if gated else 1), "mlp_inner", y)
        y = nn.with_logical_constraint(y, ("rows", "tokens", "hidden"))
        # "gelu" is the approximation by a hyperbolic tangent, which costs less than the error
        # function of "gelu_exact".
        y = (
            nn.silu(y[..., :hidden]) * y[..., hidden:]
            if gated
            else nn.gelu(y, approximate=self.mlp == "gelu")
        )
        return self.add(
            x,
            self.dense(width, "mlp_out", y),
            survival=survival,
            segment_ids=segment_ids,
            name="mlp_scale",
        )

    def dense(
        self, features: int, name: str, x: Float[Array, "B L E"]
    ) -> Float[Array, "B L {features}"]:
        return flat(nn.Dense(features, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name), x)

    def add(self, x, y, survival, segment_ids, name):
        """x plus the scaled branch `y`.

        In training, each segment skips the branch with probability 1 - survival.
        """
        y = y.astype(x.dtype)
        if self.layer_scale is not None:
            scale = self.param(name, nn.initializers.constant(self.layer_scale), (x.shape[-1],))
            y = flat(lambda y: y * scale[None], y)
        if survival is not None:
            y = y * segment_survives(self.make_rng("dropout"), survival, segment_ids)[..., None]
        return nn.with_logical_constraint(x + y, ("rows", "tokens", "width"))


class Block(nn.Module):
    """A pre-norm transformer block.

    Attention stands outside `nn.remat`: its backends decide themselves what to store.
    """

    heads: int
    mlp: str = "gelu"
    layer_scale: float | None = 0.1
    attention_bias: bool = True
    qk_norm: bool = False
    attention: str = "auto"
    dtype: str = "float32"
    epsilon: float = EPSILON

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        survival: Float[Array, ""] | None,
        tables: RotaryTables,
        segment_ids: Int[Array, "B L"],
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L D"]]:
        project, combine = nn.remat(Project, **STORE_PRODUCTS), nn.remat(Combine, **STORE_PRODUCTS)
        q, k, v = project(
            self.heads,
            self.attention_bias,
            self.qk_norm,
            self.dtype,
            epsilon=self.epsilon,
            name="project",
        )(x, tables)
        found = segment_attention(q, k, v, segment_ids, backend=self.attention)
        x = combine(self.mlp, self.layer_scale, self.dtype, epsilon=self.epsilon, name="combine")(
            x, found, survival, segment_ids
        )
        return x, x


def segment_survives(
    key: Array, survival: Float[Array, ""], segment_ids: Int[Array, "B L"]
) -> Float[Array, "B L"]:
    """Factors of stochastic depth: 1 / survival with probability survival, else 0.

    One draw serves a whole segment, so a study skips the same blocks whatever it is packed with.
    The factor keeps the expectation. Skipped branches are computed all the same: the tokens that
    stay vary too much from row to row for a smaller row of fixed size (docs/performance.md).

    Source: Huang et al., stochastic depth (arXiv 1603.09382).
    """
    rows, length = segment_ids.shape
    # a row has at most as many segments as tokens; 0 is padding
    draws = jax.random.uniform(key, (rows, length + 1))
    return jnp.take_along_axis(jnp.where(draws < survival, 1 / survival, 0.0), segment_ids, axis=1)


class Blocks(nn.Module):
    """A stack of `depth` blocks, traced and compiled as one.

    The parameters are stacked to [depth, ...]. Fields as in `Encoder`.
    """

    depth: int
    heads: int
    mlp: str = "gelu"
    layer_scale: float | None = 0.1
    attention_bias: bool = True
    qk_norm: bool = False
    drop_path: float = 0.0
    rope_base: float = 100.0
    attention: str = "auto"
    remat: bool = False
    dtype: str = "float32"
    epsilon: float = EPSILON
    positions: str = "rotary"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        coords: Float[Array, "B L 3"],
        segment_ids: Int[Array, "B L"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "depth B L D"]]:
        """The output of the last block, and the outputs of all blocks.

        Inside jit, the latter take no memory where nobody reads them.
        """
        # Made once: positions are the same in every block.
        tables = TABLES[self.positions](coords, x.shape[-1] // self.heads, self.rope_base)
        # The rate rises linearly with depth: early blocks build what all later ones need.
        survival = (
            1 - jnp.linspace(0.0, self.drop_path, self.depth) if train and self.drop_path else None
        )
        stack = nn.scan(
            # Inside a scan the compiler cannot undo remat by merging equal expressions,
            # so no barrier is needed.
            nn.remat(Block, prevent_cse=False) if self.remat else Block,
            # Axis 0 of each parameter is the layer;
            # each layer draws its own parameters and dropout.
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            # A survival rate for each layer; the same tables and segment ids for all of them.
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.depth,
        )
        fields = {
            name: getattr(self, name)
            for name in (
                "heads",
                "mlp",
                "layer_scale",
                "attention_bias",
                "qk_norm",
                "attention",
                "dtype",
                "epsilon",
            )
        }
        return stack(**fields, name="stack")(x.astype(jnp.float32), survival, tables, segment_ids)
