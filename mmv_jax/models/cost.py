"""Costs of parts of a model in closed form: FLOPs of a step, and bytes a token."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from mmv_jax.models.dense import hidden_width
from mmv_jax.models.remat import group_of, recomputed_blocks, remat_name

F32 = 4  # bytes


@dataclass(frozen=True)
class Flops:
    """FLOPs of one part of a step over all devices; a multiply-add counts as two.

    Attributes:
      forward, backward: matrix products outside attention.
      again: products that the backward pass computes a second time, since they were not stored.
      attention: scores and weighted sums, forward and backward, of the expected rows; the backward
        pass costs twice the forward pass.
      attention_again: those that the backward pass computes a second time.
    """

    forward: int = 0
    backward: int = 0
    again: int = 0
    attention: int = 0
    attention_again: int = 0

    @property
    def products(self) -> int:
        """FLOPs outside attention that the compiled program has."""
        return self.forward + self.backward + self.again

    @property
    def model(self) -> int:
        """FLOPs that training needs, however it is done: the measure of utilisation."""
        return self.forward + self.backward + self.attention

    @property
    def done(self) -> int:
        """FLOPs that a step does, what it computes again included."""
        return self.products + self.attention + self.attention_again

    def twice(self) -> "Flops":
        """The same work where the backward pass begins with a second forward pass."""
        return replace(
            self,
            again=self.again + self.forward,
            attention_again=self.attention_again + self.attention // 3,
        )


def block_flops(width: int, mlp: str, hidden: int | None = None) -> int:
    """Forward FLOPs a token of a block's matrix products, without attention's scores and sums."""
    # 4 width²: queries, keys, values and the way out.
    # The gated MLP has a gate beside its two matrices.
    matrices = 3 if mlp == "swiglu" else 2
    return 2 * (4 * width**2 + matrices * width * hidden_width(width, mlp, hidden))


def stack_bytes(module: Any, mlp: str, *, depth: int, remat: bool | str) -> int:
    """Bytes a token that a stack of blocks stores for the backward pass.

    Args:
      module: has `width` and `dtype`.
    """
    again = recomputed_blocks(remat, depth)
    # A block that is computed again stores its input in float32.
    return again * F32 * module.width + (depth - again) * block_bytes(module, mlp, remat)


def block_bytes(module: Any, mlp: str, remat: bool | str) -> int:
    """Bytes a token that a block stores which is not computed again as a whole.

    They are its input in float32, its products and the operands of attention; with "none" also what
    norms, GELU and gates leave. A rotation is linear and leaves nothing, so that queries, keys and
    values are stored once. Where queries and keys are normalised, "products" stores them before
    the norm too.
    """
    width, itemsize = module.width, jnp.dtype(module.dtype).itemsize
    hidden = _hidden(module, mlp) * (2 if mlp == "swiglu" else 1)
    # The operands of attention, what it found, its way out, both products of the MLP.
    held = F32 * width + itemsize * ((3 + 1 + 1 + 1) * width + hidden)
    if remat_name(remat) == "none":
        return held + _elementwise_bytes(module, mlp)
    # They are one product with the values.
    return held + (itemsize * 3 * width if getattr(module, "qk_norm", False) else 0)


def _elementwise_bytes(module: Any, mlp: str) -> int:
    """Bytes a token that norms, activations and scales of a block leave, if nothing is computed
    again.
    """
    width, itemsize = module.width, jnp.dtype(module.dtype).itemsize
    # SwiGLU's sigmoid and both factors; GELU's polynomial, its tangent and their products.
    arrays = 4 if mlp == "swiglu" else _left_by_gelu(approximate=mlp == "gelu")
    activation = itemsize * arrays * _hidden(module, mlp)
    # Two norms leave x less its mean, its share of the scale and the result; two scales a branch.
    norms = 7 * F32 * width
    of_heads = (4 * F32 + 2 * itemsize) * width if getattr(module, "qk_norm", False) else 0
    return activation + norms + of_heads


def _hidden(module: Any, mlp: str) -> int:
    return hidden_width(module.width, mlp, getattr(module, "mlp_hidden", None))


@cache
def _left_by_gelu(approximate: bool) -> int:
    """Arrays that GELU leaves for the backward pass: JAX 0.10 leaves five, 0.12 four."""

    def left(x):
        return jax.vjp(lambda y: jax.nn.gelu(y, approximate=approximate), x)[1]

    arrays = jax.tree.leaves(jax.eval_shape(left, jax.ShapeDtypeStruct((8,), jnp.float32)))
    return sum(array.ndim for array in arrays)  # constants of the formula have no axis


def backward_bytes(module: Any, mlp: str, remat: bool | str) -> int:
    """Bytes a token that the backward pass of a block holds.

    It holds gradients of the block's products and of its input; of a block that is computed again
    also the products.
    """
    products = block_bytes(module, mlp, remat="products") - F32 * module.width
    # x, its gradient, a norm; queries and keys five times
    in_float32 = F32 * (3 + (10 if getattr(module, "qk_norm", False) else 0)) * module.width
    return (2 if group_of(remat) else 1) * products + in_float32
