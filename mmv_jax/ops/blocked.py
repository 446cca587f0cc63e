"""Segment attention in portable JAX: a query block reads only the key blocks that its segments
span.

Axes: B rows, L tokens, H heads, K head dim; N blocks of T tokens. The blocks of all rows form one
list.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from mmv_jax.ops.ranges import block_ranges, segment_spans

BLOCK = 64
# Finite, so that a block without any visible key gives exp(0) and not NaN. The first visible key
# scales that weight down to 0.
MASKED = -1e30


class BlockSpans(NamedTuple):
    """Segment ids of all blocks, and the key blocks [low, high) that each query block has to read.

    The range is empty for a block of padding.
    """

    query_ids: Int[Array, "N T"]  # padding is -1 here and 0 in key_ids, so that it matches nothing
    key_ids: Int[Array, "N T"]
    low: Int[Array, " N"]
    high: Int[Array, " N"]


def make_blocks(segment_ids: Int[Array, "B L"], block: int = BLOCK) -> BlockSpans:
    """Cut rows into blocks, with each row padded to whole blocks.

    Ranges count from the first block of the first row.
    """
    ids = jnp.pad(segment_ids, ((0, 0), (0, -segment_ids.shape[1] % block)))
    low, high = block_ranges(*segment_spans(ids), block)
    # The blocks of all rows form one list, so a row's ranges are shifted by the blocks before it.
    row_start = jnp.arange(len(ids), dtype=jnp.int32)[:, None] * (ids.shape[1] // block)
    ids = ids.reshape(-1, block)
    return BlockSpans(
        jnp.where(ids > 0, ids, -1),
        ids,
        (low + row_start).reshape(-1),
        (high + row_start).reshape(-1),
    )


def forward(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H K"],
    segment_ids: Int[Array, "B L"],
) -> tuple[Float[Array, "B L H K"], Float[Array, "B H L"]]:
    """The output, and the log of each query's softmax sum for the backward pass."""
    shape, blocks = q.shape, make_blocks(segment_ids)
    queries, keys, values = _cut(q) * shape[-1] ** -0.5, _cut(k), _cut(v)

    def attend(i):
        ids = blocks.query_ids[i][:, None]

        def add_key_block(j, carry):
            out, top, total = carry
            logits = jnp.einsum("hqk,htk->hqt", queries[i], keys[j])
            logits = jnp.where((ids == blocks.key_ids[j][None])[None], logits, MASKED)
            # Online softmax: all sums are relative to the largest logit so far,
            # and are scaled down when a larger one comes.
            new_top = jnp.maximum(top, logits.max(-1, keepdims=True))
            weights, shrink = jnp.exp(logits - new_top), jnp.exp(top - new_top)
            out = out * shrink + jnp.einsum("hqt,htk->hqk", weights, values[j])
            return out, new_top, total * shrink + weights.sum(-1, keepdims=True)

        zeros = jnp.zeros_like(queries[i])
        start = (zeros, zeros[..., :1] + MASKED, zeros[..., :1])
        out, top, total = lax.fori_loop(blocks.low[i], blocks.high[i], add_key_block, start)
        real = (ids > 0)[None]
        # At padding the log is +1e30,
        # so that the backward pass finds weights of exp(-1e30) = 0 there.
        return jnp.where(real, out / total, 0), jnp.where(real, top + jnp.log(total), -MASKED)

    out, log_total = lax.map(attend, jnp.arange(len(blocks.low)))
    return _joined(out, shape).astype(v.dtype), _joined(log_total, shape)[..., 0].swapaxes(1, 2)


def backward(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H K"],
    segment_ids: Int[Array, "B L"],
    out: Float[Array, "B L H K"],
    log_total: Float[Array, "B H L"],
    grad: Float[Array, "B L H K"],
) -> tuple[Float[Array, "B L H K"], Float[Array, "B L H K"], Float[Array, "B L H K"]]:
    """Gradients of q, k and v.

    The weights are computed again, block by block, so memory stays linear in L.
    """
    shape, blocks = q.shape, make_blocks(segment_ids)
    queries, keys, values, grads = _cut(q) * shape[-1] ** -0.5, _cut(k), _cut(v), _cut(grad)
    log_totals = _cut(log_total.swapaxes(1, 2)[..., None], padding=-MASKED)
    # The softmax's sum gives all logits of a query one common gradient term:
    # sum_t p_t (g . v_t) = g . out. So it needs no weights.
    shared = (grads * _cut(out)).sum(-1, keepdims=True)

    def attend(i, carry):
        ids = blocks.query_ids[i][:, None]

        def add_key_block(j, carry):
            dq, dk, dv = carry
            logits = jnp.einsum("hqk,htk->hqt", queries[i], keys[j])
            weights = jnp.exp(
                jnp.where((ids == blocks.key_ids[j][None])[None], logits, MASKED) - log_totals[i]
            )
            dlogits = weights * (jnp.einsum("hqk,htk->hqt", grads[i], values[j]) - shared[i])
            # `queries` holds the scale already, so dk needs none; dq gets it after the loop.
            dk = dk.at[j].add(jnp.einsum("hqt,hqk->htk", dlogits, queries[i]))
            dv = dv.at[j].add(jnp.einsum("hqt,hqk->htk", weights, grads[i]))
            return dq + jnp.einsum("hqt,htk->hqk", dlogits, keys[j]), dk, dv

        dq, dk, dv = carry
        dq_block, dk, dv = lax.fori_loop(
            blocks.low[i], blocks.high[i], add_key_block, (jnp.zeros_like(queries[i]), dk, dv)
        )
        return dq.at[i].set(dq_block), dk, dv

    zeros = jnp.zeros_like(queries)
    # In sequence: several query blocks add to the gradients of the same keys.
    dq, dk, dv = lax.fori_loop(0, len(blocks.low), attend, (zeros, zeros, zeros))
    return (
        (_joined(dq, shape) * shape[-1] ** -0.5).astype(q.dtype),
        _joined(dk, shape).astype(k.dtype),
        _joined(dv, shape).astype(v.dtype),
    )


def _cut(x, padding=0.0):
    """[B, L, H, K] to blocks [N, H, T, K] in at least float32."""
    rows, length, heads, width = x.shape
    x = jnp.pad(
        x.astype(jnp.promote_types(x.dtype, jnp.float32)),
        ((0, 0), (0, -length % BLOCK), (0, 0), (0, 0)),
        constant_values=padding,
    )
    return x.reshape(-1, BLOCK, heads, width).swapaxes(1, 2)


def _joined(x, shape):
    """Blocks [N, H, T, K] back to [B, L, H, K], without the padding."""
    rows, length, heads, _ = shape
    return x.swapaxes(1, 2).reshape(rows, -1, heads, x.shape[-1])[:, :length]
