"""Costs of parts of a model in closed form: FLOPs of a step, and bytes a token."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from mmv_jax.models.blocks import hidden_width

F32 = 4  # bytes


@dataclass(frozen=True)
class Flops:
    """FLOPs of one part of a step over all devices; a multiply-add counts as two.

    Attributes:
      forward, backward: matrix products outside attention.
      again: products that the backward pass computes a second time, since they were not stored.
      attention: scores and weighted sums, forward and backward, of the expected rows; the backward
        pass costs twice the forward pass.
    """

    forward: int = 0
    backward: int = 0
    again: int = 0
    attention: int = 0

    @property
    def products(self) -> int:
        """FLOPs outside attention that the compiled program has."""
        return self.forward + self.backward + self.again

    @property
    def model(self) -> int:
        """FLOPs that training needs, however it is done: the measure of utilisation."""
        return self.forward + self.backward + self.attention


def block_flops(width: int, mlp: str) -> int:
    """Forward FLOPs a token of a block's matrix products, without attention's scores and sums."""
    # 4 width²: queries, keys, values and the way out.
    # The gated MLP has a gate beside its two matrices.
    matrices = 3 if mlp == "swiglu" else 2
    return 2 * (4 * width**2 + matrices * width * hidden_width(width, mlp))


def block_bytes(module: Any, mlp: str, remat: bool) -> int:
    """Bytes a token that a block stores for the backward pass.

    It stores its input in float32; without remat also its products and the operands of attention.

    Args:
      module: has `width` and `dtype`.
    """
    width, hidden = module.width, hidden_width(module.width, mlp) * (2 if mlp == "swiglu" else 1)
    # qkv, rotated queries and keys, what attention found, its way out, both of the MLP.
    products = (3 + 2 + 1 + 1 + 1) * width + hidden
    return F32 * width + (0 if remat else jnp.dtype(module.dtype).itemsize * products)


def backward_bytes(module: Any, mlp: str, remat: bool) -> int:
    """Bytes a token that the backward pass of a block holds.

    It holds gradients of the block's products and of its input; with remat the products again.
    """
    products = block_bytes(module, mlp, remat=False) - F32 * module.width
    # x, its gradient, a norm; queries and keys five times
    in_float32 = F32 * (3 + (10 if getattr(module, "qk_norm", False) else 0)) * module.width
    return (2 if remat else 1) * products + in_float32
