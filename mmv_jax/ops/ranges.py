"""Ranges of segments: each token's span, and each block's range of blocks that its segments touch.

Axes: B rows, L tokens, N blocks of a row.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Int


def segment_spans(segment_ids: Int[Array, "B L"]) -> tuple[Int[Array, "B L"], Int[Array, "B L"]]:
    """First token of each token's segment, and the token after its last; both are 0 at padding."""
    rows, length = segment_ids.shape
    position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    changes, edge = segment_ids[:, 1:] != segment_ids[:, :-1], jnp.ones((rows, 1), bool)
    # A running maximum carries a segment's start to its later tokens; a running minimum from the
    # right carries its end to the earlier ones.
    first = lax.cummax(jnp.where(jnp.concatenate([edge, changes], 1), position, 0), axis=1)
    last = lax.cummin(
        jnp.where(jnp.concatenate([changes, edge], 1), position, length), axis=1, reverse=True
    )
    return jnp.where(segment_ids > 0, first, 0), jnp.where(segment_ids > 0, last + 1, 0)


def block_ranges(
    first: Int[Array, "B L"], last: Int[Array, "B L"], block: int
) -> tuple[Int[Array, "B N"], Int[Array, "B N"]]:
    """Range [low, high) of key blocks in its row for each query block; empty for padding.

    Args:
      first, last: as `segment_spans` returns them.
      block: tokens of a block; divides L.
    """
    rows, length = first.shape
    # Padding has first = 0, which would extend the range to block 0; here it counts as `length`.
    low = jnp.where(last > 0, first, length).reshape(rows, -1, block).min(-1) // block
    high = -(-last.reshape(rows, -1, block).max(-1) // block)
    # In a block of padding low is beyond high = 0; the minimum makes the range empty.
    return jnp.minimum(low, high), high
