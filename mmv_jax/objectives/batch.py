"""Access to packed rows for loss terms.

Axes: B rows, N places, S segments, D width.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmv_jax.ops.pool import segment_mean

Batch = Mapping[str, Array]
Params = dict[str, Any]


def inputs(batch: Batch) -> tuple[Array, ...]:
    """The arguments of the encoder: patches, coords_mm, kinds and segment_ids."""
    return batch["patches"], batch["coords_mm"], batch["kinds"], batch["segment_ids"]


def take(x: Array, index: Int[Array, "B N"]) -> Array:
    """`x[b, index[b, n]]`; 0 where the index is -1."""
    # Trailing axes of length 1 broadcast over the features of `x`.
    there = (index >= 0).reshape(*index.shape, *[1] * (x.ndim - 2))
    taken = jnp.take_along_axis(
        x, jnp.maximum(index, 0).reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1
    )
    return jnp.where(there, taken, jnp.zeros((), x.dtype))


def marked(index: Int[Array, "B N"], length: int) -> Bool[Array, "B length"]:
    """A mask that is True at the positions in `index`; -1 marks none."""
    rows = jnp.arange(index.shape[0])[:, None]
    return (
        # -1 would mark the last place: it is sent beyond the end, where it is dropped.
        jnp.zeros((index.shape[0], length), bool)
        .at[rows, jnp.where(index >= 0, index, length)]
        .set(True, mode="drop")
    )


def per_segment(tokens: Array, ids: Array, where: Array, batch: Batch) -> Float[Array, "N D"]:
    """The mean token of each segment over the places `where` alone, without a gradient.

    N = B S; 0 for a segment without such a place.
    """
    means = segment_mean(tokens, ids, batch["study"].shape[1], where=where)
    return jax.lax.stop_gradient(means).reshape(-1, means.shape[-1])
