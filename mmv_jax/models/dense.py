"""Dense layers over packed rows, whose gradients leave each device as its kernel is spread.

Axes: B rows, L tokens, D width, E features.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.parallel import as_stored, shards_of

KERNEL_INIT = nn.initializers.xavier_uniform()


def flat(layer: Callable[[Array], Array], x: Float[Array, "*batch D"]) -> Float[Array, "*batch E"]:
    """Apply a layer to the tokens as one plain matrix, whatever their leading axes.

    Over two batch axes XLA transposes and copies activations for a weight's gradient (CPU: twice
    the time). The gradients of scales are sums over both axes; where one axis has length 1, they
    take 20 times as long.
    """
    if shards_of("tokens") > 1:
        # Rows of a device, each with a part of its tokens, are no contiguous part of one matrix.
        return layer(x)
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def hidden_width(width: int, mlp: str, chosen: int | None = None) -> int:
    """Channels inside the MLP: `chosen`, or else 8/3 D for the gated "swiglu" and 4 D for others.

    8/3 D is rounded up to a multiple of 8. Both cost the same.
    """
    if chosen is not None:
        return chosen
    # -(-8 width // 24) rounds (8 / 3 width) / 8 up, so that 8 times it is a multiple of 8.
    return -(-8 * width // 24) * 8 if mlp == "swiglu" else 4 * width


def dense(features: int, *, kernel_init: Callable = KERNEL_INIT, **options: Any) -> nn.Dense:
    """Make a dense layer whose gradient leaves each device as its kernel is spread."""
    return nn.Dense(features, kernel_init=kernel_init, dot_general=_product, **options)


def _product(x: Array, kernel: Array, axes: Any, **options: Any) -> Array:
    return jax.lax.dot_general(x, as_stored(kernel), axes, **options)


class SideBySide(nn.Module):
    """The outputs of `parts` dense layers with one kernel [D, parts * features].

    A mesh that splits hidden channels gives each device its share of every part. Of the plain
    product it would give some devices queries and others values.
    """

    parts: int
    features: int
    bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> list[Array]:
        size = self.parts * self.features
        kernel = self.param("kernel", KERNEL_INIT, (x.shape[-1], size)).astype(self.dtype)
        kernel = as_stored(kernel).reshape(-1, self.parts, self.features)
        kernel = nn.with_logical_constraint(kernel, (None, None, "hidden"))
        y = jnp.einsum("bld,dpe->blpe", x.astype(self.dtype), kernel)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (size,)).astype(self.dtype)
            y = y + bias.reshape(1, 1, self.parts, self.features)
        y = nn.with_logical_constraint(y, ("rows", "tokens", None, "hidden"))
        return [y[:, :, n] for n in range(self.parts)]
