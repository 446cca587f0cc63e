"""Pooling of packed rows by segment, and gathering by place.

Axes: B rows, L tokens, S segments of a row, N places, D width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmv_jax.ops.spread import on_places


def segment_mean(
    x: Float[Array, "B L D"],
    segment_ids: Int[Array, "B L"],
    segments: int,
    where: Bool[Array, "B L"] | None = None,
) -> Float[Array, "B {segments} D"]:
    """Mean token of each segment, over the tokens of `where` if it is given; 0 for a segment
    without any.

    It is a product of a 0-1 matrix [B, S, L] with the tokens, in full float32 precision. A scatter
    would run one token after the other.

    Args:
      segment_ids: segment s of the result has id s + 1; 0 is padding.

    Example:
      >>> x = jnp.array([[[1.0], [3.0], [7.0], [9.0]]])
      >>> segment_mean(x, jnp.array([[1, 1, 2, 0]]), 2)[0, :, 0].tolist()
      [2.0, 7.0]
    """
    members = segment_ids[:, None, :] == jnp.arange(1, segments + 1)[None, :, None]
    if where is not None:
        members &= where[:, None, :]
    members = members.astype(jnp.float32)
    totals = jnp.einsum(
        "bsl,bld->bsd", members, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    return (totals / jnp.maximum(members.sum(-1, keepdims=True), 1)).astype(x.dtype)


def gather_tokens(x: Float[Array, "B L D"], index: Int[Array, "B N"]) -> Float[Array, "B N D"]:
    """The tokens at the places `index` of each row; zeros where it is -1.

    Example:
      >>> gather_tokens(jnp.array([[[1.0], [3.0], [7.0]]]), jnp.array([[2, -1]]))[0, :, 0].tolist()
      [7.0, 0.0]
    """
    # NumPy indexing reads -1 as the last token, so -1 reads token 0 and is set to 0 below.
    taken = jnp.take_along_axis(x, jnp.maximum(index, 0)[..., None], axis=1)
    return on_places(jnp.where(index[..., None] >= 0, taken, 0))
