"""Segment attention: its definition ("dense"), and the choice between its backends.

Axes: B rows, L tokens, H heads, K head dim.
"""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from mmv_jax.ops import blocked, gpu, short, tpu
from mmv_jax.ops.spread import over_rows_and_heads


def segment_attention(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H K"],
    segment_ids: Int[Array, "B L"],
    *,
    backend: str = "auto",
    longest: int | None = None,
) -> Float[Array, "B L H K"]:
    """Softmax attention in which a token sees only the tokens of its own segment.

    Work grows with the squares of the segment lengths, not with L²: a query block never reads key
    blocks that share no segment with it. Every backend equals "dense", the definition, forward and
    backward.

    Args:
      q, k, v: float32 or bfloat16. The scale K**-0.5 is applied here; the softmax runs in float32.
      segment_ids: one positive id a segment, its tokens contiguous; 0 is padding.
      backend: "dense", "blocked" (any platform), "tpu", "gpu" or "auto". The kernels "tpu" and
        "gpu" are interpreted on other platforms, for tests. "auto" is "tpu" on a TPU with room for
        the row (`tpu.fits`), "gpu" on CUDA for heads that are not too wide (`gpu.fits`), else
        "blocked".
      longest: an upper bound of the segments' lengths, if one is known before. Up to
        `short.LONGEST`, "blocked" then takes each segment by itself; the kernels and "dense" ignore
        it.
    Returns:
      In the dtype of `v`; exactly 0 at padding. NaN throughout where such a bound does not hold.
    Raises:
      ValueError: there is no such backend, the row does not fit a TPU, or the heads are too wide
        for the GPU kernels.

    Example:
      >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)
      >>> segment_attention(0 * x, x, x, jnp.array([[1, 1, 2, 0]]))[0, :, 0, 0].tolist()
      [0.5, 0.5, 2.0, 0.0]

    Source: Dao, FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2, with key blocks bounded by
      segment.
    """
    if backend == "dense":
        return _dense(q, k, v, segment_ids)
    if backend not in BACKENDS:
        raise ValueError(
            f"There is no attention backend {backend!r}; there are {', '.join(BACKENDS)}."
        )
    if backend == "tpu" and not tpu.fits(q.shape[1], q.shape[2], q.shape[3], q.dtype):
        raise ValueError(
            f"Rows of {q.shape[1]} tokens with {q.shape[2]} heads of {q.shape[3]} in {q.dtype} do"
            " not fit a TPU; use backend='blocked'."
        )
    if backend == "gpu" and not gpu.fits(q.shape[3], q.dtype):
        raise ValueError(
            f"Heads of {q.shape[3]} in {q.dtype} do not fit the kernels for GPUs; use"
            " backend='blocked'."
        )
    if longest is not None and (longest > short.LONGEST or backend not in ("auto", "blocked")):
        longest = None
    return _attention(backend, longest, *(q, k, v, segment_ids))


def _dense(q, k, v, segment_ids):
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    logits = (
        jnp.einsum("blhk,bmhk->bhlm", q.astype(accumulator), k.astype(accumulator))
        * q.shape[-1] ** -0.5
    )
    # Padding sees padding here: a row of logits that is -inf throughout would give NaN.
    # The output at padding is set to 0 below.
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    weights = jax.nn.softmax(jnp.where(same[:, None], logits, -jnp.inf), axis=-1)
    out = jnp.einsum("bhlm,bmhk->blhk", weights, v.astype(accumulator))
    return jnp.where((segment_ids > 0)[..., None, None], out, 0).astype(v.dtype)


def _fastest(name, portable):
    """The pass for the platform that the call is compiled for, which may differ from the traced
    one.
    """

    def run(q, *others):
        # Where a kernel does not fit, that platform takes the portable pass.
        kernels = {}
        if tpu.fits(q.shape[1], q.shape[2], q.shape[3], q.dtype):
            kernels["tpu"] = getattr(tpu, name)
        if gpu.fits(q.shape[3], q.dtype):
            kernels["cuda"] = getattr(gpu, name)
        return (
            jax.lax.platform_dependent(q, *others, **kernels, default=portable)
            if kernels
            else portable(q, *others)
        )

    return run


_FORWARD = over_rows_and_heads("blhk, blhk, blhk, bl -> blhk, bhl")
_BACKWARD = over_rows_and_heads("blhk, blhk, blhk, bl, blhk, bhl, blhk -> blhk, blhk, blhk")
BACKENDS = ("dense", "blocked", "tpu", "gpu", "auto")


@cache
def _passes(backend: str, longest: int | None) -> tuple[Callable, Callable]:
    """The forward and the backward pass of a backend."""
    made = []
    for name, spread in (("forward", _FORWARD), ("backward", _BACKWARD)):
        if backend in ("tpu", "gpu"):
            run = getattr({"tpu": tpu, "gpu": gpu}[backend], name)
        else:
            run = getattr(blocked, name)
            if longest is not None:
                run = partial(getattr(short, name), longest=longest)
            run = _fastest(name, run) if backend == "auto" else run
        made.append(spread(run))
    return made[0], made[1]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(backend, longest, q, k, v, segment_ids):
    return _passes(backend, longest)[0](q, k, v, segment_ids)[0]


def _attention_forward(backend, longest, q, k, v, segment_ids):
    out, log_total = _passes(backend, longest)[0](q, k, v, segment_ids)
    return out, (q, k, v, segment_ids, out, log_total)


def _attention_backward(backend, longest, saved, grad):
    # None: segment ids are integers, and have no gradient.
    return *_passes(backend, longest)[1](*saved, grad), None


_attention.defvjp(_attention_forward, _attention_backward)
