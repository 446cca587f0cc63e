"""Spreading a pass over rows and heads: `vmap` adds rows, a mesh splits rows and heads.

Neither needs collectives. Axes: B rows, L tokens, H heads, K head dim.
"""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmv_jax.parallel import shards_of

# The letters of a rule that a mesh may split, and their names in the model's axis rules.
LOGICAL = {"b": "rows", "h": "heads"}


def over_rows_and_heads(rule: str) -> Callable:
    """Make a decorator for passes over [B, ...] arrays that `vmap` and a mesh can spread.

    Loop bounds that come from segment ids are opaque to both. `vmap` would run every row as long as
    the longest one and copy all carried arrays at each step. The partitioner would gather all rows
    on every device.

    Where a mesh and logical axis rules are set, the pass is a shard_map by the rules for rows and
    heads. TPUs need this: their compiler refuses to partition custom calls. Without rules, the pass
    follows the sharding of its first operand (CPU and GPU).

    Args:
      rule: the axes of operands and results in one letter each, as in "blhk, bl -> blhk". Whole
        rows of whole heads are independent, so that axes b and h may be split over a mesh; all
        others are gathered first.
    Returns:
      A decorator of functions that take and return a flat sequence of arrays. Every operand and
      result has axis b first.
    """
    operands, results = (side.replace(" ", "").split(",") for side in rule.split("->"))
    whole = tuple(
        axis for axis in dict.fromkeys("".join(operands + results)) if axis not in LOGICAL
    )

    def decorate(run: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
        partitioned = custom_partitioning(run)
        partitioned.def_partition(
            partition=lambda mesh, shapes, _: (
                mesh,
                run,
                *_as_the_first_operand(mesh, shapes[0].sharding, operands, results),
            ),
            # The form that JAX wants has a space between factors: "b l h k, b l -> b l h k".
            sharding_rule=", ".join(map(" ".join, operands))
            + " -> "
            + ", ".join(map(" ".join, results)),
            need_replication_factors=whole,
        )

        @jax.custom_batching.custom_vmap
        def spread(*arrays):
            # The first operand has both axes that a mesh may split;
            # their sizes hold for all arrays.
            axes = _mesh_axes(dict(zip(operands[0], arrays[0].shape, strict=True)))
            if axes is None:
                return partitioned(*arrays)
            specs = [
                tuple(PartitionSpec(*map(axes.get, term)) for term in side)
                for side in (operands, results)
            ]
            return jax.shard_map(run, in_specs=specs[0], out_specs=specs[1], check_vma=False)(
                *arrays
            )

        @spread.def_vmap
        def merge_into_rows(size, batched, *arrays):
            full = [
                x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
                for x, is_batched in zip(arrays, batched, strict=True)
            ]
            out = spread(*(x.reshape(-1, *x.shape[2:]) for x in full))
            return tuple(x.reshape(size, -1, *x.shape[1:]) for x in out), (True,) * len(out)

        return spread

    return decorate


def over_rows(run: Callable[..., Array], rows: Sequence[Array], whole: Sequence[Array]) -> Array:
    """`run(*rows, *whole)`, an array [B, N]; each device has its own rows and all of `whole`.

    The arrays of `rows` are [B, N, ...] with independent places: where the mesh divides them, the
    devices that have the same rows share out the places.

    Use it for a loop that reads `whole` in every turn. Each device sums its own part of the
    gradient of `whole`, and only that sum crosses the mesh. The partitioner would send one sum a
    turn.
    """
    axes = _mesh_axes({"b": len(rows[0])})
    if axes is None:
        return run(*rows, *whole)
    places = nn.logical_to_mesh_axes(("places",))[0] if _divides(rows[0]) else None
    split = PartitionSpec(axes["b"], places)
    in_specs = (*[split] * len(rows), *[PartitionSpec()] * len(whole))
    return jax.shard_map(run, in_specs=in_specs, out_specs=split, check_vma=False)(*rows, *whole)


def on_places(x: Array) -> Array:
    """Tokens [B, N, D] that a loss term reads, shared out over the devices that have the same
    rows, where the mesh divides them.
    """
    if shards_of("places") == 1:
        return x
    names = ("rows", "places" if _divides(x) else None, *(None,) * (x.ndim - 2))
    return nn.with_logical_constraint(x, names)


def _divides(x: Array) -> bool:
    return x.shape[1] % shards_of("places") == 0


def _mesh_axes(sizes: Mapping[str, int]) -> dict | None:
    """Mesh axes of rows and heads by the rules in force, for the axes in `sizes`.

    None without a mesh or rules, inside a shard_map, or where a size does not divide.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules() or AxisType.Manual in mesh.axis_types:
        return None
    split = [axis for axis in LOGICAL if axis in sizes]
    names = nn.logical_to_mesh_axes(tuple(LOGICAL[axis] for axis in split))
    if any(sizes[axis] % shards_of(LOGICAL[axis]) for axis in split):
        return None
    return dict(zip(split, names, strict=True))


def _as_the_first_operand(mesh, sharding, operands, results):
    """Shardings of results and operands: rows and heads as in the first operand, all other axes
    whole.
    """
    # A sharding that axis names cannot express (rows that the mesh does not divide) has no spec.
    # Its axes stay whole.
    spec = getattr(sharding, "spec", ())
    kept = {
        axis: placed for axis, placed in zip(operands[0], spec, strict=False) if axis in LOGICAL
    }
    return tuple(
        tuple(NamedSharding(mesh, PartitionSpec(*map(kept.get, term))) for term in side)
        for side in (results, operands)
    )
