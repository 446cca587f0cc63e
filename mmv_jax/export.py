"""The encoder of a checkpoint, for others: its weights as safetensors, or the whole forward pass as
StableHLO.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmv_jax.checkpoint import restore_encoder
from mmv_jax.errors import UserError
from mmv_jax.files import replacing, write_whole
from mmv_jax.models.sizes import make_encoder

FORMATS = ("safetensors", "stablehlo")
PLATFORMS = ("cpu", "cuda", "tpu")
# What another program must know to feed the encoder; the patients that it was trained on stay with
# the checkpoint.
TOLD = ("encoder", "crops", "rows")


def export(checkpoint: str | os.PathLike, kind: str, out: Path) -> str:
    """Writes the encoder of a checkpoint to a file, and says in words what is in it.

    "safetensors": the parameters, named by their path ("blocks.attention.out.kernel"; the leading
    axis of blocks is the layer), and the parts `TOLD` of the config as JSON in the file's metadata.
    "stablehlo": a serialised `jax.export.Exported` of (patches [B, L, P], coords_mm [B, L, 3],
    kinds [B, L], segment_ids [B, L]) -> tokens [B, L, D] with the parameters inside, for any B, the
    L of training's rows, and CPU, CUDA and TPU;
    `jax.export.deserialize(bytearray(path.read_bytes())).call(...)` runs it without this package.

    Raises:
      UserError: an unknown format, a folder that is not there, or no whole checkpoint of a
        pretraining.
    """
    if kind not in FORMATS:
        raise UserError(f"--format is {kind!r}; choose one of {', '.join(FORMATS)}.")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: its folder does not exist. Make it first.")
    params, config = restore_encoder(checkpoint)
    if "crops" not in config:
        raise UserError(
            f"--checkpoint {checkpoint}: it is no checkpoint of `mmv pretrain`, whose rows an"
            " export describes. Give the workdir of one."
        )
    if kind == "safetensors":
        with replacing(out) as part:
            said = _write_safetensors(params, config, part)
    else:
        program, said = _stablehlo(params, config)
        write_whole(out, program)
    return f"{out}: {said}"


def _write_safetensors(params: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> str:
    from safetensors.numpy import save_file

    tensors = {
        ".".join(key.key for key in keys): np.ascontiguousarray(x)
        for keys, x in jax.tree_util.tree_leaves_with_path(params)
    }
    about = {name: config[name] for name in TOLD}
    # Of the group `data` nothing else: it may name a folder.
    about["data"] = {"coordinates": config.get("data", {}).get("coordinates", "mm")}
    save_file(tensors, path, metadata={"format": "flax", "config": json.dumps(about)})
    return (
        f"{len(tensors)} tensors, {sum(x.size for x in tensors.values()):,} parameters, the"
        " encoder's config in the metadata"
    )


def _stablehlo(params: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[bytes, str]:
    # The dense backend alone is made of operations that every platform has.
    encoder = make_encoder(**config["encoder"] | {"attention": "dense", "remat": False})
    (rows,) = jax.export.symbolic_shape("B")
    length, voxels = config["rows"]["length"], int(np.prod(encoder.patch))
    inputs = [
        jax.ShapeDtypeStruct((rows, length, *last), dtype)
        for last, dtype in (((voxels,), jnp.float32), ((3,), jnp.float32))
    ]
    inputs += [jax.ShapeDtypeStruct((rows, length), jnp.int32)] * 2

    def tokens(*inputs):
        return encoder.apply({"params": params}, *inputs)["tokens"]

    exported = jax.export.export(jax.jit(tokens), platforms=PLATFORMS)(*inputs)
    return (
        bytes(exported.serialize()),
        (
            f"tokens [B, {length}, {encoder.width}] of rows of {length} tokens, for"
            f" {', '.join(PLATFORMS)}"
        ),
    )
