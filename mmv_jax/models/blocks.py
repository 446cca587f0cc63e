"""Transformer blocks over packed rows, shared by the encoder and the MAE decoder.

Axes: B rows, L tokens, H heads, K channels of a head, D width.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import LazyRng
from jaxtyping import Array, Float, Int, Key

from mmv_jax.models.dense import SideBySide, dense, flat, hidden_width
from mmv_jax.models.lora import Lora, adapted
from mmv_jax.models.remat import group_of, remat_name
from mmv_jax.ops.attention import segment_attention
from mmv_jax.ops.parts import Part
from mmv_jax.ops.rotary import TABLES, RotaryTables, apply_rotary
from mmv_jax.parallel import shards_of

# The policy "products": the forward pass stores the results of matrix products; the backward pass
# computes norms, rotations, GELU and gates again. Their residuals would be two thirds of a block's
# memory, and on a CPU too it is slower to write and read them.
STORE_PRODUCTS: dict[str, Any] = {
    "policy": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "prevent_cse": False,
}
EPSILON = 1e-6  # of layer norms


class Project(nn.Module):
    """Entry of attention: queries, keys and values of normalised tokens, in one matrix product.

    Queries and keys are rotated by position.
    """

    heads: int
    bias: bool
    qk_norm: bool
    dtype: str
    epsilon: float = EPSILON
    lora: Lora | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], tables: RotaryTables
    ) -> tuple[Float[Array, "B L H K"], Float[Array, "B L H K"], Float[Array, "B L H K"]]:
        rows, length, width = x.shape
        x = flat(nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm"), x)
        if shards_of("hidden") > 1:
            return self.apart(x, tables)
        qkv = flat(
            dense(3 * width, use_bias=self.bias, dtype=self.dtype, name="qkv"),
            x,
        )
        (qkv,) = adapted([qkv], x, name="qkv", lora=self.lora, dtype=self.dtype)
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

    def apart(self, x: Array, tables: RotaryTables) -> tuple[Array, Array, Array]:
        """The same where a mesh splits the heads: queries and keys are arrays of their own."""
        rows, length, width = x.shape
        made = SideBySide(3, width, self.bias, self.dtype, name="qkv")(x)
        made = adapted(made, x, name="qkv", lora=self.lora, dtype=self.dtype)
        q, k, v = (part.reshape(rows, length, self.heads, -1) for part in made)
        if self.qk_norm:
            shape = (2, width // self.heads)
            scale = self.param("qk_scale", nn.initializers.ones, shape).astype(q.dtype)
            q, k = (standardise(y) * own[None, None, None] for y, own in zip((q, k), scale))
        return apply_rotary(q, tables), apply_rotary(k, tables), v


def standardise(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Zero mean and unit variance over the last axis, computed in float32.

    It bounds the logits of attention, which bfloat16 needs (arXiv 2302.05442, section 2).
    """
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)


class Drop(NamedTuple):
    """Stochastic depth of a block, or of a stack of blocks."""

    survival: Float[Array, "*depth"]
    keys: Key[Array, "*depth 2"]  # of the two branches


class Combine(nn.Module):
    """Exit of a block: adds the output of attention to x, then the output of the MLP.

    Each branch is scaled first, and times its factors in `kept` [B, L]. The sum is float32,
    whatever dtype the branches compute in.
    """

    mlp: str
    layer_scale: float | None
    dtype: str
    epsilon: float = EPSILON
    lora: Lora | None = None
    mlp_hidden: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        found: Float[Array, "B L H K"],
        kept: tuple[Array, Array] | None,
    ) -> Float[Array, "B L D"]:
        width, gated = x.shape[-1], self.mlp == "swiglu"
        hidden = hidden_width(width, self.mlp, self.mlp_hidden)
        found = nn.with_logical_constraint(found.reshape(x.shape), ("rows", "tokens", "hidden"))
        y = self.dense(width, "attention_out", found)
        of_attention, of_mlp = kept or (None, None)
        x = self.add(x, y, kept=of_attention, name="attention_scale")
        y = flat(nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm"), x)
        if gated and shards_of("hidden") > 1:
            both = SideBySide(2, hidden, True, self.dtype, name="mlp_inner")(y)
            gate, value = adapted(both, y, name="mlp_inner", lora=self.lora, dtype=self.dtype)
            y = nn.silu(gate) * value
        else:
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
        return self.add(x, self.dense(width, "mlp_out", y), kept=of_mlp, name="mlp_scale")

    def dense(
        self, features: int, name: str, x: Float[Array, "B L E"]
    ) -> Float[Array, "B L {features}"]:
        y = flat(dense(features, dtype=self.dtype, name=name), x)
        return adapted([y], x, name=name, lora=self.lora, dtype=self.dtype)[0]

    def add(self, x, y, *, kept, name):
        """x plus the scaled branch `y`, times the factors `kept` of each token if there are any."""
        y = y.astype(x.dtype)
        if self.layer_scale is not None:
            scale = self.param(name, nn.initializers.constant(self.layer_scale), (x.shape[-1],))
            y = flat(lambda y: y * jnp.expand_dims(scale, range(y.ndim - 1)), y)
        if kept is not None:
            y = y * kept[..., None]
        return nn.with_logical_constraint(x + y, ("rows", "tokens", "width"))


class Block(nn.Module):
    """A pre-norm transformer block.

    Attention stands outside `nn.remat`: its backends decide themselves what to store. `remat` is
    "none" or "products".
    """

    heads: int
    mlp: str = "gelu"
    layer_scale: float | None = 0.1
    attention_bias: bool = True
    qk_norm: bool = False
    attention: str = "auto"
    longest: int | None = None
    dtype: str = "float32"
    epsilon: float = EPSILON
    remat: str = "products"
    lora: Lora | None = None
    mlp_hidden: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        drop: Drop | None,
        tables: RotaryTables,
        segment_ids: Int[Array, "B L"],
        part: Part | None = None,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L D"]]:
        project, combine = Project, Combine
        if self.remat != "none":
            project, combine = (nn.remat(half, **STORE_PRODUCTS) for half in (Project, Combine))
        q, k, v = project(
            self.heads,
            self.attention_bias,
            self.qk_norm,
            self.dtype,
            epsilon=self.epsilon,
            lora=self.lora,
            name="project",
        )(x, tables)
        found = segment_attention(
            q, k, v, segment_ids, backend=self.attention, longest=self.longest
        )
        kept = None
        if drop is not None:
            # Two branches, and a key for each.
            kept = tuple(
                segment_survives(key, drop.survival, segment_ids, part) for key in drop.keys
            )
        x = combine(
            self.mlp,
            self.layer_scale,
            self.dtype,
            epsilon=self.epsilon,
            lora=self.lora,
            mlp_hidden=self.mlp_hidden,
            name="combine",
        )(x, found, kept)
        return x, x


def segment_survives(
    key: Array,
    survival: Float[Array, ""],
    segment_ids: Int[Array, "B L"],
    part: Part | None = None,
) -> Float[Array, "B L"]:
    """Factors of stochastic depth: 1 / survival with probability survival, else 0.

    One draw serves a whole segment, so a study skips the same blocks whatever it is packed with.
    The factor keeps the expectation. Skipped branches are computed all the same: the tokens that
    stay vary too much from row to row for a smaller row of fixed size (docs/performance.md).

    Source: Huang et al., stochastic depth (arXiv 1603.09382).
    """
    rows, length = segment_ids.shape
    # A row has at most as many segments as tokens; 0 is padding. A part of a step draws for all its
    # rows and keeps its own, so that parts change no number.
    draws = jax.random.uniform(key, (rows * (part.count if part else 1), length + 1))
    draws = part.of(draws) if part else draws
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
    longest: int | None = None
    remat: bool | str = "products"
    dtype: str = "float32"
    epsilon: float = EPSILON
    positions: str = "rotary"
    lora: Lora | None = None
    frozen: int = 0
    mlp_hidden: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        coords: Float[Array, "B L 3"],
        segment_ids: Int[Array, "B L"],
        *,
        train: bool = False,
        part: Part | None = None,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "depth B L D"]]:
        """The output of the last block, and the outputs of all blocks.

        Inside jit, the latter take no memory where nobody reads them.
        """
        # Made once: positions are the same in every block.
        tables = TABLES[self.positions](coords, x.shape[-1] // self.heads, self.rope_base)
        drop = self._drop() if train and self.drop_path else None
        shared = (tables, segment_ids, part)  # by all layers
        x, every = x.astype(jnp.float32), group_of(self.remat)
        frozen = self.frozen if train else 0  # no gradient is asked for outside of training
        if (every > 1 or frozen) and not self.is_initializing():
            return self._in_parts(every, x, drop, shared, frozen=frozen)
        # Inside a scan the compiler cannot undo remat by merging equal expressions, so no barrier
        # is needed.
        block = nn.remat(Block, prevent_cse=False) if every == 1 else Block
        stack = nn.scan(
            block,
            # Axis 0 of each parameter is the layer; each layer draws its own parameters.
            variable_axes={"params": 0},
            split_rngs={"params": True},
            # A survival rate for each layer; the same tables and segment ids for all of them.
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.depth,
        )
        return stack(**self._fields(), name="stack")(x, drop, *shared)

    def _drop(self) -> Drop:
        """The stochastic depth of each layer: [depth] rates, [depth, 2] keys."""
        # The rate rises linearly with depth: early blocks build what all later ones need.
        rates = 1 - jnp.linspace(0.0, self.drop_path, self.depth)
        rng = LazyRng.create(self.scope.rngs["dropout"], "stack", "combine")  # type: ignore[union-attr]

        def keys(layer: Array) -> Array:
            # The paths and numbers by which Flax draws inside a scan, which it traces twice. They
            # are written out, so that every policy, and a resume of an older run, draws the same.
            return jnp.stack([LazyRng(layer, (*rng.suffix, n)).as_jax_rng() for n in (3, 4)])

        return Drop(rates, jax.vmap(keys)(jax.random.split(rng.rng, self.depth)))

    def _fields(self) -> dict[str, Any]:
        names = (
            "heads",
            "mlp",
            "layer_scale",
            "attention_bias",
            "qk_norm",
            "attention",
            "longest",
            "dtype",
            "epsilon",
            "lora",
            "mlp_hidden",
        )
        stored = "none" if remat_name(self.remat) == "none" else "products"
        return {name: getattr(self, name) for name in names} | {"remat": stored}

    def _in_parts(
        self, every: int, x: Array, drop: Drop | None, shared: tuple, *, frozen: int
    ) -> tuple:
        """The stack on the same parameters [depth, ...], in groups, or with its first blocks apart.

        No gradient flows into the first `frozen` blocks, so they store nothing.
        """
        params = self.variables["params"]["stack"]
        if not frozen:
            return self._grouped(every, x, (params, drop), shared)
        low = jax.tree.map(lambda v: v[:frozen], (params, drop))
        high = jax.tree.map(lambda v: v[frozen:], (params, drop))
        held = (jax.lax.stop_gradient(low[0]), low[1])
        x, early = self._grouped(0, jax.lax.stop_gradient(x), held, shared)
        if frozen == self.depth:
            return x, early
        x, late = self._grouped(every, x, high, shared)
        return x, jnp.concatenate([early, late])

    def _grouped(self, every: int, x: Array, layers: tuple, shared: tuple) -> tuple:
        """Layers (parameters, stochastic depth) in groups of `every` blocks, of which the first is
        computed again; 0 for no groups.

        One scan over single blocks would store the same of each. So the groups are scanned.
        """
        block = Block(**self._fields(), parent=None)

        def one(x: Array, layer: tuple) -> tuple[Array, Array]:
            own, drop = layer
            return block.apply({"params": own}, x, drop, *shared)

        def group(x: Array, layers: tuple, barrier: bool = False) -> tuple[Array, Array]:
            again = jax.checkpoint(one, prevent_cse=barrier)
            x, own = again(x, jax.tree.map(lambda v: v[0], layers))
            x, others = jax.lax.scan(one, x, jax.tree.map(lambda v: v[1:], layers))
            return x, jnp.concatenate([own[None], others])

        if every < 2:
            return jax.lax.scan(jax.checkpoint(one, prevent_cse=False) if every else one, x, layers)
        depth = len(jax.tree.leaves(layers)[0])
        whole = depth // every * every
        groups = jax.tree.map(lambda v: v[:whole].reshape(-1, every, *v.shape[1:]), layers)
        x, blocks = jax.lax.scan(group, x, groups)
        blocks = blocks.reshape(whole, *x.shape)
        if whole < depth:
            # Outside of a loop the compiler would merge the block with its second run.
            x, last = group(x, jax.tree.map(lambda v: v[whole:], layers), barrier=True)
            blocks = jnp.concatenate([blocks, last])
        return x, blocks
