"""Segment attention in portable JAX where all segments are short: each is a dense problem of its
own.

In blocks of tokens (`blocked.py`) a query of a short segment reads one to three whole blocks of
keys. Here it reads as many keys as the longest segment has.

Axes: B rows, L tokens, H heads, K head dim; C segments at once, T tokens of the longest one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from mmv_jax.ops.blocked import MASKED
from mmv_jax.ops.ranges import segment_spans

LONGEST = 128  # tokens of a segment; the blocks of `blocked.py` are faster beyond
AT_ONCE = 512  # tokens, about, that are worked on together: they stay in a core's cache


class Segments(NamedTuple):
    """The segments of all rows; the tokens of all rows are one line.

    Attributes:
      starts, sizes: first token of each segment, and its number of tokens; `real` are segments.
    """

    starts: Int[Array, " N"]
    sizes: Int[Array, " N"]
    real: Int[Array, ""]


def make_segments(segment_ids: Int[Array, "B L"]) -> Segments:
    """Find the segments of all rows."""
    first, last = segment_spans(segment_ids)
    begins = (last > 0) & (first == jnp.arange(segment_ids.shape[1])[None])
    # As many places as tokens: the number of segments is known only when the program runs.
    (starts,) = jnp.nonzero(begins.reshape(-1), size=begins.size, fill_value=0)
    sizes = jnp.where(jnp.arange(begins.size) < begins.sum(), (last - first).reshape(-1)[starts], 0)
    return Segments(starts, sizes, begins.sum())


def forward(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H K"],
    segment_ids: Int[Array, "B L"],
    *,
    longest: int,
) -> tuple[Float[Array, "B L H K"], Float[Array, "B H L"]]:
    """The output, and the log of each query's softmax sum for the backward pass.

    Args:
      longest: an upper bound of the segments' lengths. NaN throughout where it does not hold.
    """
    shape = q.shape

    def attend(there, q, k, v):
        logits = jnp.einsum("cqhk,cthk->chqt", q * shape[-1] ** -0.5, k)
        logits = jnp.where(there[:, None, None], logits, MASKED)
        top = logits.max(-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = weights.sum(-1, keepdims=True)
        out = jnp.einsum("chqt,cthk->cqhk", weights / total, v)
        return out, (top + jnp.log(total))[..., 0].swapaxes(1, 2)

    lines = [_line(x) for x in (q, k, v)]
    # At padding the log is +1e30, so that the backward pass of either form finds no weight there.
    empty = (jnp.zeros_like(lines[0]), jnp.full(lines[0].shape[:2], -MASKED))
    out, log_total = _over_segments(attend, segment_ids, lines, empty=empty, longest=longest)
    return out.reshape(shape).astype(v.dtype), log_total.reshape(shape[:3]).swapaxes(1, 2)


def backward(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H K"],
    segment_ids: Int[Array, "B L"],
    out: Float[Array, "B L H K"],
    log_total: Float[Array, "B H L"],
    grad: Float[Array, "B L H K"],
    *,
    longest: int,
) -> tuple[Float[Array, "B L H K"], Float[Array, "B L H K"], Float[Array, "B L H K"]]:
    """Gradients of q, k and v; the weights are computed again."""
    shape, scale = q.shape, q.shape[-1] ** -0.5

    def attend(there, q, k, v, out, log_total, grad):
        logits = jnp.einsum("cqhk,cthk->chqt", q * scale, k)
        both = there[:, None, :, None] & there[:, None, None]
        logits = jnp.where(both, logits, MASKED)
        weights = jnp.exp(
            logits - jnp.where(there[..., None], log_total, 0).swapaxes(1, 2)[..., None]
        )
        # The softmax's sum gives all logits of a query one common term, as in `blocked.backward`.
        shared = (grad * out).sum(-1).swapaxes(1, 2)[..., None]
        dlogits = weights * (jnp.einsum("cqhk,cthk->chqt", grad, v) - shared)
        return (
            jnp.einsum("chqt,cthk->cqhk", dlogits, k) * scale,
            jnp.einsum("chqt,cqhk->cthk", dlogits, q) * scale,
            jnp.einsum("chqt,cqhk->cthk", weights, grad),
        )

    lines = [_line(x) for x in (q, k, v, out, log_total.swapaxes(1, 2), grad)]
    empty = (jnp.zeros_like(lines[0]),) * 3
    found = _over_segments(attend, segment_ids, lines, empty=empty, longest=longest)
    dq, dk, dv = (d.reshape(shape) for d in found)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


def _line(x: Array) -> Array:
    """[B, L, ...] to the tokens of all rows in one line, in at least float32."""
    return x.reshape(-1, *x.shape[2:]).astype(jnp.promote_types(x.dtype, jnp.float32))


def _over_segments(
    run: Callable,
    segment_ids: Int[Array, "B L"],
    lines: list[Array],
    *,
    empty: tuple[Array, ...],
    longest: int,
) -> tuple[Array, ...]:
    """Apply `run` to some segments at once, until all have been worked on.

    Args:
      run: takes `there` [C, T], which tokens are of the segment, and C segments [C, T, ...] of each
        line; 0 where a segment has no token. Returns arrays [C, T, ...].
      empty: results at tokens of no segment.
    """
    tokens, at_once = len(lines[0]), max(AT_ONCE // longest, 1)
    segments = make_segments(segment_ids)
    starts, sizes = (jnp.pad(x, (0, at_once)) for x in segments[:2])

    def turn(i: Array, results: tuple[Array, ...]) -> tuple[Array, ...]:
        # The last turn has fewer segments; the rest have size 0, and read and write nothing.
        of_turn = jnp.arange(at_once) + i * at_once
        there = jnp.arange(longest)[None] < sizes[of_turn][:, None]
        places = jnp.where(there, starts[of_turn][:, None] + jnp.arange(longest)[None], tokens)
        given = [x.at[places].get(mode="fill", fill_value=0) for x in lines]
        return tuple(
            whole.at[places].set(found, mode="drop")
            for whole, found in zip(results, run(there, *given), strict=True)
        )

    results = lax.fori_loop(0, -(-segments.real // at_once), turn, empty)
    # A longer segment would be cut off without a word.
    return tuple(jnp.where(sizes.max() > longest, jnp.nan, x) for x in results)
