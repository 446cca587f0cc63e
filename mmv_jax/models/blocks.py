"""Transformer blocks over packed rows, shared by the encoder and the MAE decoder. Axes: B rows, L tokens, H heads, K channels of a head, D width."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.ops.attention import segment_attention
from mmv_jax.ops.rotary import RotaryTables, apply_rotary, rotary_tables

REMAT = {  # what the backward pass finds stored: everything, the results of matrix products, or only each block's input
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
KERNEL_INIT = nn.initializers.xavier_uniform()


def hidden_width(width: int, mlp: str) -> int:
    """Channels inside the MLP: 4 D, or for the gated "swiglu" 8/3 D rounded up to a multiple of 8, which costs the same."""
    return 4 * width if mlp == "gelu" else -(-8 * width // 24) * 8


class Attention(nn.Module):
    """Multi-head attention within segments: queries, keys and values in one matrix product, rotated by position."""

    heads: int
    bias: bool
    norm: bool
    backend: str
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], tables: RotaryTables, segment_ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        rows, length, width = x.shape
        qkv = nn.Dense(3 * width, use_bias=self.bias, kernel_init=KERNEL_INIT, dtype=self.dtype, name="qkv")(x)
        qkv = nn.with_logical_constraint(qkv, ("rows", "tokens", "hidden"))
        qk, v = qkv[..., : 2 * width], qkv[..., 2 * width :].reshape(rows, length, self.heads, -1)
        qk = qk.reshape(rows, length, 2 * self.heads, -1)
        if self.norm:
            scale = self.param("qk_scale", nn.initializers.ones, (2, 1, qk.shape[-1]))
            qk = standardise(qk) * jnp.broadcast_to(scale, (2, self.heads, qk.shape[-1])).reshape(1, 1, *qk.shape[2:]).astype(qk.dtype)
        q, k = jnp.split(apply_rotary(qk, tables), 2, axis=2)
        y = segment_attention(q, k, v, segment_ids, backend=self.backend).reshape(x.shape)
        return nn.Dense(width, kernel_init=KERNEL_INIT, dtype=self.dtype, name="out")(y)


def standardise(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Zero mean and unit variance over the last axis, computed in float32: bounds logits, which bfloat16 needs (arXiv 2302.05442, section 2)."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)


class Mlp(nn.Module):
    """Two layers with GELU, or SwiGLU (arXiv 2002.05202) whose gate and value come from one matrix product."""

    mlp: str
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        width, gated = x.shape[-1], self.mlp == "swiglu"
        hidden = hidden_width(width, self.mlp)
        y = nn.Dense(hidden * (2 if gated else 1), kernel_init=KERNEL_INIT, dtype=self.dtype, name="inner")(x)
        y = nn.with_logical_constraint(y, ("rows", "tokens", "hidden"))
        y = nn.silu(y[..., :hidden]) * y[..., hidden:] if gated else nn.gelu(y)
        return nn.Dense(width, kernel_init=KERNEL_INIT, dtype=self.dtype, name="out")(y)


class Block(nn.Module):
    """x + attention, x + MLP, each normalised before and scaled after; the sum stays float32 whatever the branches compute in."""

    heads: int
    mlp: str = "gelu"
    layer_scale: float | None = 0.1
    attention_bias: bool = True
    qk_norm: bool = False
    backend: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], survival: Float[Array, ""] | None, tables: RotaryTables, segment_ids: Int[Array, "B L"]):
        y = self.norm("attention_norm")(x)
        y = Attention(self.heads, self.attention_bias, self.qk_norm, self.backend, self.dtype, name="attention")(y, tables, segment_ids)
        x = self.add(x, y, survival, segment_ids, "attention_scale")
        y = Mlp(self.mlp, self.dtype, name="mlp")(self.norm("mlp_norm")(x))
        x = self.add(x, y, survival, segment_ids, "mlp_scale")
        return x, x

    def norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)

    def add(self, x, y, survival, segment_ids, name):
        """x plus the branch, scaled a channel at a time; in training whole segments skip the branch with probability 1 - survival."""
        y = y.astype(x.dtype)
        if self.layer_scale is not None:
            y = y * self.param(name, nn.initializers.constant(self.layer_scale), (x.shape[-1],))[None, None]
        if survival is not None:
            y = y * segment_survives(self.make_rng("dropout"), survival, segment_ids)[..., None]
        return nn.with_logical_constraint(x + y, ("rows", "tokens", "width"))


def segment_survives(key: Array, survival: Float[Array, ""], segment_ids: Int[Array, "B L"]) -> Float[Array, "B L"]:
    """1 / survival with that probability, else 0: one draw a segment, so a study meets the same depths whatever it is packed with.

    Source: Huang et al., stochastic depth (arXiv 1603.09382), kept unbiased by the factor.
    """
    rows, length = segment_ids.shape
    draws = jax.random.uniform(key, (rows, length + 1))  # a row has at most as many segments as tokens; 0 is padding
    return jnp.take_along_axis(jnp.where(draws < survival, 1 / survival, 0.0), segment_ids, axis=1)


class Blocks(nn.Module):
    """A stack of `depth` blocks with parameters stacked to [depth, ...], traced and compiled as one. Fields as in `Encoder`."""

    depth: int
    heads: int
    mlp: str = "gelu"
    layer_scale: float | None = 0.1
    attention_bias: bool = True
    qk_norm: bool = False
    drop_path: float = 0.0
    rope_base: float = 100.0
    backend: str = "auto"
    remat: str = "none"
    unroll: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], coords: Float[Array, "B L 3"], segment_ids: Int[Array, "B L"], *, train: bool = False
    ) -> tuple[Float[Array, "B L D"], Float[Array, "depth B L D"]]:
        """Returns what leaves the last block, and what leaves each; jit removes the latter, and its memory, where nobody reads it."""
        tables = rotary_tables(coords, x.shape[-1] // self.heads, self.rope_base)
        # The rate rises linearly with depth: early blocks build what all later ones need.
        survival = 1 - jnp.linspace(0.0, self.drop_path, self.depth) if train and self.drop_path else None
        block = Block if self.remat == "none" else nn.remat(Block, policy=REMAT[self.remat], prevent_cse=self.unroll > 1)
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.depth,
            unroll=self.unroll,
        )
        fields = {name: getattr(self, name) for name in ("heads", "mlp", "layer_scale", "attention_bias", "qk_norm", "backend", "dtype")}
        return stack(**fields, name="stack")(x.astype(jnp.float32), survival, tables, segment_ids)
