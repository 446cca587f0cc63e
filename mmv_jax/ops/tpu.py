"""Segment attention for TPUs (Pallas).

The keys of a row stay in VMEM; a query block visits only the key blocks that its segments span.
Logits are laid out as [keys, queries]. So each statistic of a query (span, maximum, sum) is a row
along the lanes, and a counter tells which keys it sees: ids of keys are never read. Every array
passes HBM once and stays [B, L, H * K] there: nothing is transposed outside the kernels.

Axes: B rows, L tokens, H heads, K head dim; T tokens of a block; G heads of a group, which share
the 128 lanes of a register. A step of the grid is one query block of one group of one row.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from mmv_jax.ops.ranges import block_ranges, segment_spans

BLOCK = 128
LANES = 128
LARGEST_PART = 8  # blocks of a row's sums that are written in one step
TILES = 8 * 2**20  # bytes of VMEM for everything but rows
# Finite, so that a block without any visible key gives exp(0) and not NaN. The first visible key
# scales that weight down to 0.
MASKED = -1e30
# Tokens that a query block visits, for the scheduler's estimate of cost. The true number is known
# only at run time.
TYPICAL_SPAN = 1024
# Bytes of rows in VMEM up to which the next row is fetched while the kernel works on this one.
DOUBLE_BUFFERED = 48 * 2**20
# Bytes of rows that fit the VMEM of every generation since v5e (7x has the smallest: 64 MiB).
VMEM = 56 * 2**20


def forward(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H K"],
    segment_ids: Int[Array, "B L"],
) -> tuple[Float[Array, "B L H K"], Float[Array, "B H L"]]:
    """The output, and the log of each query's softmax sum for the backward pass."""
    plan = _Plan(q.shape, segment_ids)
    out, log_total = plan.call(
        _forward_kernel,
        inputs=[("tile", plan.flat(q)), ("row", plan.flat(k)), ("row", plan.flat(v))],
        outputs=[("tile", v.dtype), ("statistic", jnp.float32)],
        products=2,
    )
    return plan.heads_apart(out), plan.ungrouped(log_total)


def backward(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H K"],
    segment_ids: Int[Array, "B L"],
    out: Float[Array, "B L H K"],
    log_total: Float[Array, "B H L"],
    grad: Float[Array, "B L H K"],
) -> tuple[Float[Array, "B L H K"], Float[Array, "B L H K"], Float[Array, "B L H K"]]:
    """Gradients of q, k and v in one pass.

    The gradients of a row's keys and values are summed in VMEM while its query blocks pass.
    """
    plan = _Plan(q.shape, segment_ids)
    tiles, rows = (q, grad, out), (k, v)
    dq, dk, dv = plan.call(
        _backward_kernel,
        inputs=[("tile", plan.flat(x)) for x in tiles]
        + [("row", plan.flat(x)) for x in rows]
        + [("statistic", plan.grouped(log_total))],
        outputs=[("tile", q.dtype), ("sums", k.dtype), ("sums", v.dtype)],
        products=5,
    )
    return plan.heads_apart(dq), plan.heads_apart(dk), plan.heads_apart(dv)


def fits(length: int, heads: int, width: int, dtype: DTypeLike) -> bool:
    """Whether the kernels support this dtype and VMEM holds keys, values and their gradients."""
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        return False
    lanes = _group(heads, width) * width
    # Keys and values in their dtype, and their gradients' sums in float32;
    # VMEM pads to whole registers.
    return length * (lanes + -lanes % LANES) * 2 * (jnp.dtype(dtype).itemsize + 4) <= VMEM


def _group(heads, width):
    """Number of heads in a group: a block is whole registers wide, or as wide as the array."""
    whole = [g for g in range(1, heads + 1) if heads % g == 0 and g * width % LANES == 0]
    return whole[0] if whole else heads


class _Plan:
    """Layout of the arrays of one call: padding, groups, blocks, and their transfer to VMEM."""

    def __init__(self, shape, segment_ids):
        self.rows, self.length, self.heads, self.width = shape
        self.padded = self.length + -self.length % BLOCK
        self.blocks = self.padded // BLOCK
        # A divisor of the number of blocks, so that all parts of the sums are equally long.
        self.part = math.gcd(self.blocks, LARGEST_PART)
        self.group = _group(self.heads, self.width)
        first, last = segment_spans(jnp.pad(segment_ids, ((0, 0), (0, self.padded - self.length))))
        self.spans = jnp.stack([first, last], axis=1)
        low, high = block_ranges(first, last, BLOCK)
        self.ranges = low.reshape(-1), high.reshape(-1)

    def flat(self, x):
        return jnp.pad(x, ((0, 0), (0, self.padded - self.length), (0, 0), (0, 0))).reshape(
            self.rows, self.padded, -1
        )

    def heads_apart(self, x):
        return x[:, : self.length].reshape(self.rows, self.length, self.heads, self.width)

    def grouped(self, x):
        return jnp.pad(x, ((0, 0), (0, 0), (0, self.padded - self.length))).reshape(
            self.rows, -1, self.group, self.padded
        )

    def ungrouped(self, x):
        return x.reshape(self.rows, self.heads, self.padded)[:, :, : self.length]

    def call(self, kernel, inputs, outputs, products):
        """Run a kernel, one step a query block; if rows are summed, one more step a part of the
        sums.
        """
        sums = [kind for kind, _ in outputs].count("sums")
        lanes = self.group * self.width
        row_values = self.padded * (lanes + -lanes % LANES)
        fetched = sum(row_values * x.dtype.itemsize for kind, x in inputs if kind == "row")
        summed = sums * row_values * 4
        buffers = 2 if 2 * fetched + summed <= DOUBLE_BUFFERED else 1
        spec = functools.partial(self._spec, buffers=buffers)
        call = functools.partial(
            pl.pallas_call,
            functools.partial(kernel, group=self.group, width=self.width, blocks=self.blocks),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=2,
                grid=(
                    self.rows,
                    self.heads // self.group,
                    self.blocks + (self.blocks // self.part if sums else 0),
                ),
                in_specs=[spec("spans")] + [spec(kind) for kind, _ in inputs],
                out_specs=[spec(kind) for kind, _ in outputs],
                scratch_shapes=[pltpu.VMEM((self.padded, lanes), jnp.float32)] * sums,
            ),
            out_shape=[self._shape(kind, dtype) for kind, dtype in outputs],
            compiler_params=pltpu.CompilerParams(
                # The last axis runs in order: sums are carried from one query block to the next.
                dimension_semantics=("parallel", "parallel", "arbitrary"),
                vmem_limit_bytes=buffers * fetched + summed + TILES,
            ),
            cost_estimate=self._cost(inputs, outputs, products),
            name=kernel.__name__.strip("_"),
        )
        # Chosen by the platform of compilation, which may differ from the one of tracing. Other
        # platforms interpret the kernel, for tests.
        arrays = (*self.ranges, self.spans, *(x for _, x in inputs))
        return lax.platform_dependent(
            *arrays, tpu=call(interpret=False), default=call(interpret=True)
        )

    def _spec(self, kind, buffers):
        # The last query block stays in place while sums are written.
        lanes, queries = self.group * self.width, self.blocks - 1
        if kind == "tile":
            return pl.BlockSpec(
                (1, BLOCK, lanes), lambda b, g, i, *_: (b, jnp.minimum(i, queries), g)
            )
        if kind == "row":
            return pl.BlockSpec(
                (1, self.padded, lanes),
                lambda b, g, i, *_: (b, 0, g),
                pipeline_mode=pl.Buffered(buffers),
            )
        # The index stays 0 until all query blocks are done,
        # so no part is written before it is complete.
        if kind == "sums":
            return pl.BlockSpec(
                (1, self.part * BLOCK, lanes),
                lambda b, g, i, *_: (b, jnp.maximum(i - self.blocks, 0), g),
            )
        if kind == "spans":
            return pl.BlockSpec((1, 2, BLOCK), lambda b, g, i, *_: (b, 0, jnp.minimum(i, queries)))
        return pl.BlockSpec(
            (1, 1, self.group, BLOCK), lambda b, g, i, *_: (b, g, 0, jnp.minimum(i, queries))
        )

    def _shape(self, kind, dtype):
        flat = (self.rows, self.padded, self.heads * self.width)
        return jax.ShapeDtypeStruct(
            (
                (self.rows, self.heads // self.group, self.group, self.padded)
                if kind == "statistic"
                else flat
            ),
            dtype,
        )

    def _cost(self, inputs, outputs, products):
        logits = self.rows * self.heads * self.padded * min(self.padded, TYPICAL_SPAN)
        moved = [x for _, x in inputs] + [self._shape(kind, dtype) for kind, dtype in outputs]
        return pl.CostEstimate(
            flops=2 * products * logits * self.width,
            transcendentals=logits,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in moved),
        )


def _forward_kernel(low, high, spans, q, k, v, out, log_total, *, group, width, blocks):
    first, last, visited = _of_this_block(low, high, spans, blocks)
    start = (
        jnp.zeros((width, BLOCK), jnp.float32),
        jnp.full((1, BLOCK), MASKED, jnp.float32),
        jnp.zeros((1, BLOCK), jnp.float32),
    )

    def visit(j, carry):
        keys, visible = _keys_of_block(j, first, last)
        after = []
        for h, (summed, top, total) in enumerate(carry):
            lanes = pl.ds(h * width, width)
            logits = _product(k[0, keys, lanes], q[0, :, lanes], 1, 1) * width**-0.5
            logits = jnp.where(visible, logits, MASKED)
            new_top = jnp.maximum(top, logits.max(0, keepdims=True))
            weights, shrink = jnp.exp(logits - new_top), jnp.exp(top - new_top)
            summed = summed * shrink + _product(v[0, keys, lanes], weights.astype(v.dtype), 0, 0)
            after.append((summed, new_top, total * shrink + weights.sum(0, keepdims=True)))
        return tuple(after)

    real = first < last
    for h, (summed, top, total) in enumerate(lax.fori_loop(*visited, visit, (start,) * group)):
        out[0, :, pl.ds(h * width, width)] = jnp.where(real, summed / total, 0).T.astype(out.dtype)
        log_total[0, 0, pl.ds(h, 1), :] = jnp.where(real, top + jnp.log(total), -MASKED)


def _backward_kernel(
    low, high, spans, q, grad, out, k, v, log_total, dq, dk, dv, dk_sums, dv_sums,
    *, group, width, blocks,
):  # fmt: skip
    i = pl.program_id(2)
    first, last, visited = _of_this_block(low, high, spans, blocks)

    @pl.when(i == 0)
    def _():
        dk_sums[...], dv_sums[...] = jnp.zeros_like(dk_sums), jnp.zeros_like(dv_sums)

    @pl.when(i < blocks)
    def _():
        # The softmax's sum gives all logits of a query one common gradient term:
        # sum_t p_t (g . v_t) = g . out. It is needed as a row, which a product gives.
        both = [
            grad[0, :, lanes].astype(jnp.float32) * out[0, :, lanes].astype(jnp.float32)
            for lanes in _lanes(group, width)
        ]
        # 8 equal lines are the smallest tile of float32; the first is kept.
        shared = [_product(jnp.ones((8, width), jnp.float32), x, 1, 1)[:1] for x in both]

        def visit(j, carry):
            keys, visible = _keys_of_block(j, first, last)
            after = []
            for h, lanes in enumerate(_lanes(group, width)):
                queries, grads, key_block = q[0, :, lanes], grad[0, :, lanes], k[0, keys, lanes]
                logits = _product(key_block, queries, 1, 1) * width**-0.5
                weights = jnp.exp(
                    jnp.where(visible, logits, MASKED) - log_total[0, 0, pl.ds(h, 1), :]
                )
                dlogits = weights * (_product(v[0, keys, lanes], grads, 1, 1) - shared[h])
                dv_sums[keys, lanes] += _product(weights.astype(grads.dtype), grads, 1, 0)
                dk_sums[keys, lanes] += _product(dlogits.astype(queries.dtype), queries, 1, 0)
                after.append(carry[h] + _product(key_block, dlogits.astype(key_block.dtype), 0, 0))
            return tuple(after)

        start = (jnp.zeros((width, BLOCK), jnp.float32),) * group
        for lanes, dq_block in zip(
            _lanes(group, width), lax.fori_loop(*visited, visit, start), strict=True
        ):
            dq[0, :, lanes] = (dq_block.T * width**-0.5).astype(dq.dtype)

    @pl.when(i >= blocks)
    def _():
        size = dk.shape[1]
        part = pl.ds(pl.multiple_of((i - blocks) * size, BLOCK), size)
        dk[0] = (dk_sums[part, :] * width**-0.5).astype(dk.dtype)
        dv[0] = dv_sums[part, :].astype(dv.dtype)


def _lanes(group, width):
    return [pl.ds(h * width, width) for h in range(group)]


def _of_this_block(low, high, spans, blocks):
    """Spans of this block's queries, two rows [1, T], and the range of key blocks to visit."""
    # Ranges of all rows form one list. Steps that write sums keep the last query block.
    block = pl.program_id(0) * blocks + jnp.minimum(pl.program_id(2), blocks - 1)
    return spans[0, 0:1, :], spans[0, 1:2, :], (low[block], high[block])


def _keys_of_block(j, first, last):
    """The slice of key block `j`, and which of its keys [T, T] each query sees."""
    start = pl.multiple_of(j * BLOCK, BLOCK)
    position = start + lax.broadcasted_iota(jnp.int32, (BLOCK, BLOCK), 0)
    return pl.ds(start, BLOCK), (position >= first) & (position < last)


def _product(a, b, axis_a, axis_b):
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(
        a,
        b,
        (((axis_a,), (axis_b,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
