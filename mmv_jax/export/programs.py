"""The forward pass as a program: StableHLO for JAX, ONNX for everything else.

Axes: B rows, L tokens, P voxels of a patch.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.export.shipped.load_numpy import encode
from mmv_jax.models.backbone import Backbone

PLATFORMS = ("cpu", "cuda", "tpu")
INPUTS = ("patches", "coords_mm", "kinds", "segment_ids")


def stablehlo(encoder: Backbone, params: Any, length: int) -> bytes:
    """A serialised `jax.export.Exported` for any B, with the parameters inside.

    Args:
      encoder: with the dense backend, the only one whose operations every platform has.
      length: L, the tokens of a row.
    """
    # B is a symbol, so that one program serves every number of rows.
    (rows,) = jax.export.symbolic_shape("B")

    def tokens(*inputs):
        return encoder.apply({"params": params}, *inputs)["tokens"]

    exported = jax.export.export(jax.jit(tokens), platforms=PLATFORMS)(
        *_shapes(rows, length, encoder)
    )
    return bytes(exported.serialize())


def onnx(
    encoder: Backbone,
    tensors: Mapping[str, np.ndarray],
    architecture: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> bytes:
    """An ONNX model for any B and L; inputs `INPUTS`, output `tokens`.

    The traced function is the shipped NumPy loader on JAX arrays. It has no scan over blocks, which
    the converter does not support with unknown shapes.

    Args:
      tensors: the parameters by name.
      architecture: as of `describe.architecture`.
      metadata: kept in the model.
    Raises:
      UserError: jax2onnx is not installed, or the model is larger than an ONNX file may be.
    """
    try:
        from jax2onnx import to_onnx
    except ImportError:
        raise UserError(
            "--format onnx needs jax2onnx: pip install 'mmv_jax[onnx]', or choose another format."
        ) from None
    forward = partial(encode, tensors, architecture, xp=jnp)
    # The loader broadcasts as NumPy does, which the caller's JAX may be set to refuse.
    with jax.numpy_rank_promotion("allow"):
        model = to_onnx(forward, _shapes("B", "L", encoder), model_name="mmv_jax")
    # The converter makes its own names; callers pass inputs by ours.
    _rename(model.graph, dict(zip([x.name for x in model.graph.input], INPUTS)))
    _rename(model.graph, {model.graph.output[0].name: "tokens"})
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    try:
        return model.SerializeToString()
    except ValueError:  # a protocol buffer has at most 2 GiB
        raise UserError(
            "--format onnx: the weights are more than 2 GiB, which one ONNX file cannot hold."
            " Choose safetensors or huggingface."
        ) from None


def _shapes(rows: Any, length: Any, encoder: Backbone) -> list[jax.ShapeDtypeStruct]:
    voxels = int(np.prod(encoder.patch))  # type: ignore[attr-defined]
    numbers = [jax.ShapeDtypeStruct((rows, length, last), jnp.float32) for last in (voxels, 3)]
    return [*numbers, *[jax.ShapeDtypeStruct((rows, length), jnp.int32)] * 2]


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values of an ONNX graph, wherever they are read or written."""
    for value in [*graph.input, *graph.output, *graph.value_info]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
