"""Segment attention for GPUs (Pallas, Triton).

A program is one query block of one head; it visits only the key blocks that its segments span. The
backward pass runs twice over the same pairs of blocks: once for the queries' gradients, once for
those of keys and values. That is seven products instead of five, but no atomic sum, so a step gives
the same bits each time.

Axes: B rows, L tokens, H heads, K head dim; T tokens of a block; N blocks of a row. Arrays stay [B,
L, H, K]: nothing is transposed outside the kernels.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from mmv_jax.ops.ranges import block_ranges, segment_spans

BLOCK = 64
WIDEST = 128  # head dim up to which the tiles of a program fit the shared memory of an A100 or H100
# Finite, so that a block without any visible key gives exp(0) and not NaN. The first visible key
# scales that weight down to 0.
MASKED = -1e30
# Tokens that a query block visits, for the scheduler's estimate of cost. The true number is known
# only at run time.
TYPICAL_SPAN = 1024


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
        inputs=[("tile", plan.padded(q)), ("row", plan.padded(k)), ("row", plan.padded(v))],
        outputs=[("tile", v.dtype), ("statistic", jnp.float32)],
        products=2,
    )
    return plan.cut(out), log_total[:, :, : q.shape[1]]


def backward(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H K"],
    segment_ids: Int[Array, "B L"],
    out: Float[Array, "B L H K"],
    log_total: Float[Array, "B H L"],
    grad: Float[Array, "B L H K"],
) -> tuple[Float[Array, "B L H K"], Float[Array, "B L H K"], Float[Array, "B L H K"]]:
    """Gradients of q, k and v."""
    plan = _Plan(q.shape, segment_ids)
    # The softmax's sum gives all logits of a query one common gradient term:
    # sum_t p_t (g . v_t) = g . out. So it needs no weights.
    shared = (grad.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).transpose(0, 2, 1)
    q, k, v, grad = map(plan.padded, (q, k, v, grad))
    sums = [plan.padded_statistic(log_total), plan.padded_statistic(shared)]
    (dq,) = plan.call(
        _query_kernel,
        inputs=[
            ("tile", q),
            ("tile", grad),
            ("row", k),
            ("row", v),
            *(("statistic", x) for x in sums),
        ],
        outputs=[("tile", q.dtype)],
        products=3,
    )
    dk, dv = plan.call(
        _key_kernel,
        inputs=[
            ("tile", k),
            ("tile", v),
            ("row", q),
            ("row", grad),
            *(("statistics", x) for x in sums),
        ],
        outputs=[("tile", k.dtype), ("tile", v.dtype)],
        products=4,
    )
    return plan.cut(dq), plan.cut(dk), plan.cut(dv)


def fits(width: int, dtype: DTypeLike) -> bool:
    """Whether the kernels support this dtype with heads of this width."""
    return width <= WIDEST and jnp.dtype(dtype) in (jnp.float32, jnp.bfloat16)


class _Plan:
    """Layout of the arrays of one call: padding and blocks."""

    def __init__(self, shape, segment_ids):
        self.rows, self.length, self.heads, self.width = shape
        self.more = -self.length % BLOCK
        # Triton's tiles are powers of two, and its products at least 16 wide.
        self.lanes = max(16, pl.next_power_of_2(self.width))
        self.blocks = (self.length + self.more) // BLOCK
        first, last = segment_spans(jnp.pad(segment_ids, ((0, 0), (0, self.more))))
        self.spans, self.ranges = (first, last), block_ranges(first, last, BLOCK)

    def padded(self, x):
        return jnp.pad(x, ((0, 0), (0, self.more), (0, 0), (0, self.lanes - self.width)))

    def padded_statistic(self, x):
        return jnp.pad(x, ((0, 0), (0, 0), (0, self.more)))

    def cut(self, x):
        return x[:, : self.length, :, : self.width]

    def call(self, kernel, inputs, outputs, products):
        """Run a kernel for each block of each head of each row."""
        call = functools.partial(
            pl.pallas_call,
            functools.partial(kernel, scale=self.width**-0.5),
            grid=(self.blocks, self.heads, self.rows),
            in_specs=[
                _SPECS["bound"],
                _SPECS["bound"],
                _SPECS["span"],
                _SPECS["span"],
                *(self._spec(kind) for kind, _ in inputs),
            ],
            out_specs=[self._spec(kind) for kind, _ in outputs],
            out_shape=[self._shape(kind, dtype) for kind, dtype in outputs],
            compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
            cost_estimate=self._cost(inputs, outputs, products),
            name=kernel.__name__.strip("_"),
        )
        # Chosen by the platform of compilation, which may differ from the one of tracing. Other
        # platforms interpret the kernel, for tests.
        arrays = (*self.ranges, *self.spans, *(x for _, x in inputs))
        return lax.platform_dependent(
            *arrays, cuda=call(interpret=False), default=call(interpret=True)
        )

    def _spec(self, kind):
        # The grid is (block, head, row). None in a block's shape drops that axis in the kernel.
        if kind == "tile":
            return pl.BlockSpec((None, BLOCK, None, self.lanes), lambda i, h, b: (b, i, h, 0))
        if kind == "row":
            return pl.BlockSpec(
                (None, self.blocks * BLOCK, None, self.lanes), lambda i, h, b: (b, 0, h, 0)
            )
        if kind == "statistics":
            return pl.BlockSpec((None, None, self.blocks * BLOCK), lambda i, h, b: (b, h, 0))
        return pl.BlockSpec((None, None, BLOCK), lambda i, h, b: (b, h, i))

    def _shape(self, kind, dtype):
        tokens = self.blocks * BLOCK
        shape = (
            (self.rows, tokens, self.heads, self.lanes)
            if kind == "tile"
            else (self.rows, self.heads, tokens)
        )
        return jax.ShapeDtypeStruct(shape, dtype)

    def _cost(self, inputs, outputs, products):
        tokens = self.blocks * BLOCK
        logits = self.rows * self.heads * tokens * min(tokens, TYPICAL_SPAN)
        moved = [x for _, x in inputs] + [self._shape(kind, dtype) for kind, dtype in outputs]
        return pl.CostEstimate(
            flops=2 * products * logits * self.lanes,
            transcendentals=logits,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in moved),
        )


_SPECS = {
    "bound": pl.BlockSpec((None, 1), lambda i, h, b: (b, i)),
    "span": pl.BlockSpec((None, BLOCK), lambda i, h, b: (b, i)),
}


def _forward_kernel(low, high, first, last, q, k, v, out, log_total, *, scale):
    queries, first, last = q[...], first[...], last[...]
    start = (
        jnp.zeros(q.shape, jnp.float32),
        jnp.full((BLOCK,), MASKED, jnp.float32),
        jnp.zeros((BLOCK,), jnp.float32),
    )

    def visit(j, carry):
        summed, top, total = carry
        keys = pl.ds(j * BLOCK, BLOCK)
        logits = jnp.where(
            _visible(j, first, last), _product(queries, k[keys, :].T) * scale, MASKED
        )
        new_top = jnp.maximum(top, logits.max(1))
        weights, shrink = jnp.exp(logits - new_top[:, None]), jnp.exp(top - new_top)
        # Weights are rounded to the dtype of the values for the product; sums stay in float32.
        summed = summed * shrink[:, None] + _product(weights.astype(v.dtype), v[keys, :])
        return summed, new_top, total * shrink + weights.sum(1)

    summed, top, total = lax.fori_loop(low[0], high[0], visit, start)
    # Padding has an empty span. If no block was visited its sum is 0, and 0 / 0 would be NaN.
    real = first < last
    total = jnp.where(real, total, 1)
    out[...] = jnp.where(real[:, None], summed / total[:, None], 0).astype(out.dtype)
    log_total[...] = jnp.where(real, top + jnp.log(total), -MASKED)


def _query_kernel(low, high, first, last, q, grad, k, v, log_total, shared, dq, *, scale):
    queries, grads, first, last = q[...], grad[...], first[...], last[...]
    log_total, shared = log_total[...][:, None], shared[...][:, None]

    def visit(j, summed):
        keys = pl.ds(j * BLOCK, BLOCK)
        key_block = k[keys, :]
        logits = jnp.where(_visible(j, first, last), _product(queries, key_block.T) * scale, MASKED)
        weights = jnp.exp(logits - log_total)
        dlogits = weights * (_product(grads, v[keys, :].T) - shared)
        return summed + _product(dlogits.astype(key_block.dtype), key_block)

    dq[...] = (
        # The logits' scale is a factor of the whole gradient: it is applied once, after the loop.
        lax.fori_loop(low[0], high[0], visit, jnp.zeros(q.shape, jnp.float32)) * scale
    ).astype(dq.dtype)


def _key_kernel(low, high, first, last, k, v, q, grad, log_total, shared, dk, dv, *, scale):
    """Gradients of keys and values.

    Within a segment, visibility is symmetric, so the queries' spans and block ranges serve keys
    too.
    """
    key_block, value_block, first, last = k[...], v[...], first[...], last[...]

    def visit(j, carry):
        dk_sum, dv_sum = carry
        those = pl.ds(j * BLOCK, BLOCK)
        queries, grads = q[those, :], grad[those, :]
        # [keys, queries]
        logits = jnp.where(_visible(j, first, last), _product(key_block, queries.T) * scale, MASKED)
        weights = jnp.exp(logits - log_total[those][None])
        dlogits = weights * (_product(value_block, grads.T) - shared[those][None])
        return dk_sum + _product(dlogits.astype(queries.dtype), queries), dv_sum + _product(
            weights.astype(grads.dtype), grads
        )

    nothing = jnp.zeros(k.shape, jnp.float32)
    dk_sum, dv_sum = lax.fori_loop(low[0], high[0], visit, (nothing, nothing))
    dk[...] = (dk_sum * scale).astype(dk.dtype)
    dv[...] = dv_sum.astype(dv.dtype)


def _visible(j, first, last):
    """A mask [T, T]: which tokens of block `j` each token of the program's block sees."""
    position = j * BLOCK + jnp.arange(BLOCK)
    return (position[None] >= first[:, None]) & (position[None] < last[:, None])


def _product(a, b):
    """A matrix product [T, T] or [T, K]; float32 is not rounded to TF32."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)
