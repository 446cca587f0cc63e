"""Segment attention and its peers, forward and backward: dense with a mask in XLA, and PyTorch.

PyTorch works on one segment at a time.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mmv_jax.bench.run import NO_TORCH, case, in_turn, seconds, use_every_core, worker
from mmv_jax.ops.attention import segment_attention


class Layout(NamedTuple):
    """Rows of segments, by their lengths in tokens; all rows have `length` tokens."""

    name: str
    length: int
    rows: tuple[tuple[int, ...], ...]
    heads: int
    width: int


def short_segments(rows: int, length: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Rows filled with segments of 5 to 200 tokens, as with small studies."""
    rng = np.random.default_rng(seed)
    filled = []
    for _ in range(rows):
        # More segments than fit into a row; the cumulative sum cuts them off.
        lengths = rng.integers(5, 201, size=length)
        filled.append(
            tuple(
                int(n) for n in lengths[: np.searchsorted(np.cumsum(lengths), length, side="right")]
            )
        )
    return tuple(filled)


LAYOUTS = (
    Layout(
        name="1 row of 4096, 8 segments of 512, 6 x 64",
        length=4096,
        rows=((512,) * 8,),
        heads=6,
        width=64,
    ),
    Layout(
        name="1 row of 4096, segments of 49 to 1200, 6 x 64",
        length=4096,
        rows=((196, 700, 100, 1200, 49, 343, 196, 784, 300, 100),),
        heads=6,
        width=64,
    ),
    Layout(
        name="16 rows of 512, segments of 5 to 200, 3 x 64",
        length=512,
        rows=short_segments(16, 512),
        heads=3,
        width=64,
    ),
)
# Lengths of rows, for the growth of cost with the number of segments.
LENGTHS = (2048, 4096, 8192, 16384, 32768)


def bench_attention(
    layouts: Sequence[Layout] = LAYOUTS, lengths: Sequence[int] = LENGTHS, turns: int = 5
) -> dict:
    """Median times, and the exponent of cost in the number of segments.

    PyTorch (extra `torch`) runs in a second process, so that two pools of threads never share one.
    Without it its cases are left out.

    Returns:
      `{"bench": "attention", "cases": [...], "notes": [...]}`; cases as `mmv bench --json` prints
      them.
    """
    use_every_core()
    cases, notes = [], []
    with_torch = find_spec("torch") is not None
    if not with_torch:
        notes.append(NO_TORCH)
    for layout in layouts:
        timed = {"ours": _timed(layout, "auto"), "dense": _timed(layout, "dense")}
        if with_torch:
            with _torch_worker(layout) as torch_run:
                median = in_turn({**timed, "torch": torch_run}, turns)
            cases.append(
                case(
                    layout.name,
                    median["ours"],
                    median["torch"],
                    "PyTorch scaled_dot_product_attention per segment",
                )
            )
        else:
            median = in_turn(timed, turns)
        cases.append(case(layout.name, median["ours"], median["dense"], "dense-masked XLA"))
    exponent = cost_exponent(lengths, turns)
    name = f"exponent of cost in L, segments of 512, L = {lengths[0]} to {lengths[-1]}"
    cases.append(
        {
            "case": name,
            "ours": exponent,
            "peer": 1.0,
            "peer_name": "linear",
            "ratio": 1 / exponent,
            "unit": "exponent",
        }
    )
    return {"bench": "attention", "cases": cases, "notes": notes}


def cost_exponent(lengths: Sequence[int], turns: int) -> float:
    """Slope of log seconds over log row length, for segments of 512 tokens.

    A shorter row is one segment.
    """
    timed = {
        str(n): _timed(
            Layout(name="", length=n, rows=((min(512, n),) * max(n // 512, 1),), heads=3, width=64),
            "auto",
        )
        for n in lengths
    }
    median = in_turn(timed, turns)
    # The slope is 1 where cost is linear; dense attention tends to 2.
    return float(np.polyfit(np.log(lengths), np.log(list(median.values())), 1)[0])


def segment_ids(layout: Layout) -> jax.Array:
    """Segment ids [B, L], numbered from 1 in each row."""
    ids = np.zeros((len(layout.rows), layout.length), np.int32)
    for row, lengths in zip(ids, layout.rows, strict=True):
        row[: sum(lengths)] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return jnp.asarray(ids)


def _timed(layout: Layout, backend: str) -> Callable[[], float]:
    ids = segment_ids(layout)
    q, k, v = jax.random.normal(jax.random.key(0), (3, *ids.shape, layout.heads, layout.width))
    q, k, v, ids = _over_devices(q, k, v, ids)

    def loss(q, k, v):
        # Squares: with a plain sum the gradient of the output would be 1 everywhere.
        return jnp.square(segment_attention(q, k, v, ids, backend=backend)).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    return partial(seconds, gradient, *(q, k, v))


def _over_devices(q, k, v, ids):
    """The arrays split over all devices: by rows, else by heads, if the number divides.

    The split is the same for our attention and for the dense one.
    """
    devices = jax.device_count()
    # Axes of [B, L, H, K]: 0 is rows, 2 is heads.
    axes = [axis for axis in (0, 2) if q.shape[axis] % devices == 0]
    if not axes:
        return q, k, v, ids
    mesh = jax.make_mesh((devices,), ("all",), axis_types=(AxisType.Auto,))
    # Segment ids have no heads: they are split over rows, or else replicated.
    placed = jax.device_put((q, k, v), NamedSharding(mesh, P(*[None] * axes[0], "all")))
    return *placed, jax.device_put(ids, NamedSharding(mesh, P("all") if axes[0] == 0 else P()))


def _torch_worker(layout: Layout) -> AbstractContextManager[Callable[[], float]]:
    return worker(
        "mmv_jax.bench.torch_attention",
        json.dumps(layout.rows),
        str(layout.heads),
        str(layout.width),
    )
