"""A step's rows in parts, one after the other, so that one part's activations are in memory.

Axes: B rows of a step, C parts of R rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from mmv_jax.parallel import shards_of


@flax.struct.dataclass
class Part:
    """Which part of a step's rows is at work.

    Attributes:
      index: its number, int32 [].
      count: of all parts.
    """

    index: Any
    count: int = flax.struct.field(pytree_node=False)

    def of(self, x: Array) -> Array:
        """The part's rows [R, ...] of an array [B, ...]."""
        return cut(x, self.count)[self.index]


def in_parts(run: Callable[[Part | None, Any], Any], count: int, rows: Any) -> Any:
    """`run(part, rows)` for each of `count` parts of the rows; its arrays are joined to [B, ...].

    With one part, `run` is called once, with None. With several, the forward pass stores their
    results alone, and the backward pass runs each part again: a gradient of all rows together, at
    the activations of one part. So a loss that reads all results is the same as without parts.

    Args:
      rows: a tree of arrays [B, ...].

    Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
      (arXiv 2101.06983), section 3.
    """
    if count == 1:
        return run(None, rows)

    def one(given: tuple[Array, Any]) -> Any:
        index, own = given
        return run(Part(index, count), own)

    parts = jax.tree.map(partial(cut, count=count), rows)
    # In a loop the compiler cannot merge the second run with the first, so no barrier is needed.
    found = jax.lax.map(jax.checkpoint(one, prevent_cse=False), (jnp.arange(count), parts))
    return jax.tree.map(join, found)


def cut(x: Array, count: int) -> Array:
    """Rows [B, ...] as parts [C, R, ...]; each part has as many rows of every device, so that no
    row moves.
    """
    rest = x.shape[1:]
    x = x.reshape(shards_of("rows"), count, -1, *rest).swapaxes(0, 1)
    return _on_rows(x.reshape(count, -1, *rest))


def join(x: Array) -> Array:
    """The rows [B, ...] of parts [C, R, ...]: the inverse of `cut`."""
    count, rest = x.shape[0], x.shape[2:]
    x = x.reshape(count, shards_of("rows"), -1, *rest).swapaxes(0, 1)
    return x.reshape(-1, *rest)


def _on_rows(x: Array) -> Array:
    return nn.with_logical_constraint(x, (None, "rows", *(None,) * (x.ndim - 2)))
