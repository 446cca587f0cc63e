"""Low-rank adapters beside the kernels of blocks (LoRA), and their sum with the kernels.

Axes: B rows, L tokens, D inputs, E outputs, R rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.errors import UserError
from mmv_jax.models.dense import flat
from mmv_jax.parallel import as_stored

KERNELS = ("qkv", "attention_out", "mlp_inner", "mlp_out")
SUFFIX = "_lora"  # of an adapter's name, behind that of its layer
# Uniform within ±1 / sqrt(D), as the authors' code draws it.
DOWN_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclass(frozen=True)
class Lora:
    """Continued pretraining of low-rank adapters; the encoder's other weights stay as they are.

    A kernel W becomes W + scale · down · up. `up` begins at 0, so that the first features are those
    of the weights that the run begins from (config.init). With `optimizer.last_blocks` the last
    blocks and the last norm learn as well.

    Attributes:
      rank: of every adapter.
      scale: factor of an adapter's product; α / rank of the paper.
      kernels: that have an adapter: "qkv" (one for queries, keys and values together),
        "attention_out", "mlp_inner", "mlp_out".

    Source: Hu et al., LoRA (arXiv 2106.09685), section 4.1; for continued pretraining together with
      the last blocks, Khanna et al., ExPLoRA (arXiv 2406.10973).
    """

    rank: int = 8
    scale: float = 1.0
    kernels: tuple[str, ...] | list[str] = KERNELS

    def __post_init__(self):
        whole = isinstance(self.rank, int) and not isinstance(self.rank, bool)
        if not whole or self.rank < 1:
            raise UserError(f"config.lora.rank is {self.rank!r}. Set a whole number from 1 on.")
        if not isinstance(self.scale, int | float) or not 0 < self.scale < float("inf"):
            raise UserError(f"config.lora.scale is {self.scale!r}. Set a number above 0.")
        listed = isinstance(self.kernels, list | tuple)
        if not listed or not self.kernels or not set(self.kernels) <= set(KERNELS):
            raise UserError(
                f"config.lora.kernels is {self.kernels!r}. List some of {', '.join(KERNELS)}."
            )
        # JSON has no tuples, and a field of a module must be hashable.
        object.__setattr__(self, "kernels", tuple(self.kernels))

    def parameters(self, width: int, hidden: int, gates: int) -> int:
        """Number of parameters of a block's adapters.

        Args:
          hidden: channels inside the MLP; `gates` is 2 where it has a gate beside them, else 1.
        """
        sides = {
            "qkv": 4 * width,
            "attention_out": 2 * width,
            "mlp_inner": width + gates * hidden,
            "mlp_out": hidden + width,
        }
        return self.rank * sum(sides[name] for name in self.kernels)


class Adapter(nn.Module):
    """scale · x · down · up."""

    features: int
    rank: int
    scale: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
        down = self.param("down", DOWN_INIT, (x.shape[-1], self.rank))
        up = self.param("up", nn.initializers.zeros, (self.rank, self.features))
        down, up = (as_stored(side).astype(self.dtype) for side in (down, up))
        inner = x.astype(self.dtype) @ down * self.scale
        # As one of a batch of products, so that the policy "products" of `remat` does not store
        # it: it is as large as the layer's own output, and cheap to compute again.
        return jnp.einsum("nlr,nre->nle", inner[None], up[None])[0]


def adapted(
    parts: Sequence[Array], x: Array, *, name: str, lora: Lora | None, dtype: str
) -> list[Array]:
    """Outputs of the layer `name` on x, with those of its adapter where it has one.

    Call it in a compact method, which then owns the adapter.

    Args:
      parts: the output [B, L, E], or equal parts of it.
    """
    if lora is None or name not in lora.kernels:
        return list(parts)
    features = sum(part.shape[-1] for part in parts)
    adapter = Adapter(features, lora.rank, lora.scale, dtype, name=name + SUFFIX)
    extra = jnp.split(flat(adapter, x), len(parts), axis=-1)
    return [part + own for part, own in zip(parts, extra, strict=True)]


def is_adapter(path: Sequence[str]) -> bool:
    """Whether a parameter's path leads through an adapter."""
    return any(name.endswith(SUFFIX) for name in path)


def without_adapters(tree: Any) -> Any:
    """The same parameters, less those of adapters."""
    if not isinstance(tree, Mapping):
        return tree
    return {name: without_adapters(own) for name, own in tree.items() if not name.endswith(SUFFIX)}


def merged(trees: dict[str, Any], config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Items of a checkpoint with adapters summed into their kernels, and its config without them.

    Of a checkpoint without adapters, both as they are.

    Args:
      trees: nested dicts of arrays, of one device.
    """
    if not config.get("lora"):
        return trees, config
    scale = Lora(**config["lora"]).scale
    rest = {name: value for name, value in config.items() if name != "lora"}
    return {name: _summed(tree, scale) for name, tree in trees.items()}, rest


def _summed(tree: Any, scale: float) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    out = {}
    for name, own in tree.items():
        adapter = tree.get(name + SUFFIX)
        if adapter is not None and "kernel" in own:
            # TPUs and GPUs would round the factors, but the kernel is kept whole.
            exact = jax.lax.Precision.HIGHEST
            product = jnp.matmul(adapter["down"], adapter["up"], precision=exact)
            out[name] = {**own, "kernel": own["kernel"] + scale * product}
        # Moments of an adapter stand alone: their kernel has none.
        elif not (name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in tree):
            out[name] = _summed(own, scale)
    return out
