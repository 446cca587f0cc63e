"""Segment attention in portable JAX: query blocks, each with the range of key blocks that its segments span.

Axes: B rows, L tokens, H heads, K head dim; N blocks of T tokens, all rows' blocks in one list.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

BLOCK = 64
MASKED = -1e30  # finite, so that a block without any visible key gives exp(0) and not NaN; its weight is wiped out later


def key_ranges(segment_ids: Int[Array, "B L"], block: int) -> tuple[Int[Array, "B N"], Int[Array, "B N"]]:
    """For each query block, the first key block that its segments touch, and the end of that range (equal where all is padding)."""
    rows, length = segment_ids.shape
    position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    changes = segment_ids[:, 1:] != segment_ids[:, :-1]
    edge = jnp.ones((rows, 1), bool)
    start = lax.cummax(jnp.where(jnp.concatenate([edge, changes], 1), position, 0), axis=1)
    last = lax.cummin(jnp.where(jnp.concatenate([changes, edge], 1), position, length), axis=1, reverse=True)
    real = segment_ids > 0
    low = jnp.where(real, start, length).reshape(rows, -1, block).min(-1) // block
    high = jnp.where(real, last, -1).reshape(rows, -1, block).max(-1) // block + 1
    return jnp.minimum(low, high), high


def _blocks(x, block):
    rows, length, heads, dim = x.shape
    return x.reshape(rows * length // block, block, heads, dim).swapaxes(1, 2).astype(_accumulator(x))


def _rows(x, rows):
    blocks, heads, block, dim = x.shape
    return x.swapaxes(1, 2).reshape(rows, blocks * block // rows, heads, dim)


def _accumulator(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def _list_of_blocks(segment_ids, block):
    """Ids of queries and of keys (padding differs, so it never matches), and key ranges, for the blocks of all rows in one list."""
    rows, length = segment_ids.shape
    low, high = key_ranges(segment_ids, block)
    offset = jnp.arange(rows, dtype=jnp.int32)[:, None] * (length // block)
    key_ids = segment_ids.reshape(-1, block)
    return jnp.where(key_ids > 0, key_ids, -1), key_ids, (low + offset).reshape(-1), (high + offset).reshape(-1)


def forward(
    q: Float[Array, "B L H K"], k: Float[Array, "B L H K"], v: Float[Array, "B L H K"], segment_ids: Int[Array, "B L"]
) -> tuple[Float[Array, "B L H K"], Float[Array, "B H L"]]:
    """The output, and the log of each query's softmax sum, which the backward pass starts from. L must be a multiple of BLOCK."""
    rows, length, heads, dim = q.shape
    q_blocks, k_blocks, v_blocks = _blocks(q, BLOCK) * dim**-0.5, _blocks(k, BLOCK), _blocks(v, BLOCK)
    query_ids, key_ids, low, high = _list_of_blocks(segment_ids, BLOCK)

    def query_block(i):
        ids = query_ids[i][:, None]

        def key_block(j, carry):
            out, top, total = carry
            logits = jnp.einsum("hqk,htk->hqt", q_blocks[i], k_blocks[j])
            logits = jnp.where((ids == key_ids[j][None])[None], logits, MASKED)
            new_top = jnp.maximum(top, logits.max(-1, keepdims=True))
            weights, shrink = jnp.exp(logits - new_top), jnp.exp(top - new_top)
            out = out * shrink + jnp.einsum("hqt,htk->hqk", weights, v_blocks[j])
            return out, new_top, total * shrink + weights.sum(-1, keepdims=True)

        column = jnp.zeros((heads, BLOCK, 1), q_blocks.dtype)
        out, top, total = lax.fori_loop(low[i], high[i], key_block, (jnp.zeros_like(q_blocks[i]), column + MASKED, column))
        real = (ids > 0)[None]
        return jnp.where(real, out / total, 0), jnp.where(real, top + jnp.log(total), -MASKED)[..., 0]

    out, log_total = lax.map(query_block, jnp.arange(len(low)))
    return _rows(out, rows).astype(v.dtype), log_total.reshape(rows, -1, heads, BLOCK).swapaxes(1, 2).reshape(rows, heads, length)


def backward(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H K"],
    segment_ids: Int[Array, "B L"],
    out: Float[Array, "B L H K"],
    log_total: Float[Array, "B H L"],
    grad: Float[Array, "B L H K"],
) -> tuple[Float[Array, "B L H K"], Float[Array, "B L H K"], Float[Array, "B L H K"]]:
    """Gradients of q, k and v. The weights are computed again, block by block, so that memory stays linear in L."""
    rows, length, heads, dim = q.shape
    q_blocks, k_blocks, v_blocks = _blocks(q, BLOCK) * dim**-0.5, _blocks(k, BLOCK), _blocks(v, BLOCK)
    grad_blocks = _blocks(grad, BLOCK)
    query_ids, key_ids, low, high = _list_of_blocks(segment_ids, BLOCK)
    log_total = log_total.reshape(rows, heads, -1, BLOCK).swapaxes(1, 2).reshape(-1, heads, BLOCK, 1)
    # Row sums of weights * dweights, without the weights: sum_t p_t (g . v_t) = g . out (FlashAttention-2, algorithm 2, line 4).
    through_sum = (grad_blocks * _blocks(out, BLOCK)).sum(-1, keepdims=True)

    def query_block(i, carry):
        ids = query_ids[i][:, None]

        def key_block(j, carry):
            dq, dk, dv = carry
            logits = jnp.einsum("hqk,htk->hqt", q_blocks[i], k_blocks[j])
            weights = jnp.exp(jnp.where((ids == key_ids[j][None])[None], logits, MASKED) - log_total[i])
            dlogits = weights * (jnp.einsum("hqk,htk->hqt", grad_blocks[i], v_blocks[j]) - through_sum[i])
            dk = dk.at[j].add(jnp.einsum("hqt,hqk->htk", dlogits, q_blocks[i]))
            dv = dv.at[j].add(jnp.einsum("hqt,hqk->htk", weights, grad_blocks[i]))
            return dq + jnp.einsum("hqt,htk->hqk", dlogits, k_blocks[j]), dk, dv

        dq_blocks, dk, dv = carry
        dq, dk, dv = lax.fori_loop(low[i], high[i], key_block, (jnp.zeros_like(q_blocks[i]), dk, dv))
        return dq_blocks.at[i].set(dq), dk, dv

    zeros = jnp.zeros_like(q_blocks)
    dq, dk, dv = lax.fori_loop(0, len(low), query_block, (zeros, zeros, zeros))
    return (_rows(dq, rows) * dim**-0.5).astype(q.dtype), _rows(dk, rows).astype(k.dtype), _rows(dv, rows).astype(v.dtype)
