"""Export of a checkpoint's encoder: weights (safetensors, a folder for `transformers`), or the
whole forward pass (StableHLO, ONNX).
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmv_jax.checkpoint import named_tensors
from mmv_jax.data.tokens import study_options
from mmv_jax.errors import UserError
from mmv_jax.export.describe import architecture, model_card, plain, preparation
from mmv_jax.export.huggingface import shipped, write_folder
from mmv_jax.export.programs import PLATFORMS, onnx, stablehlo
from mmv_jax.files import write_whole
from mmv_jax.models.backbone import Backbone
from mmv_jax.models.encoder import Encoder
from mmv_jax.models.sizes import make_encoder
from mmv_jax.provenance import METADATA, provenance
from mmv_jax.released import restore_weights

FORMATS = ("safetensors", "stablehlo", "huggingface", "onnx")
LOADERS = ("load_numpy.py", "load_torch.py")
# Groups of the config that another program needs to feed the encoder. The patients of the training
# are not exported.
TOLD = ("encoder", "crops", "rows")


def export(
    checkpoint: str | os.PathLike,
    kind: str,
    out: Path,
    *,
    half: bool = False,
    weights: str = "encoder",
) -> str:
    """Write the encoder of a checkpoint, with a model card; return a summary in words.

    "safetensors": the parameters, named by their path ("blocks.stack.project.qkv.kernel"; the
    leading axis of blocks is the layer). The metadata has, as JSON, `architecture` (heads, rotary
    waves, epsilons, ...), `preparation` (how a study becomes patches), `config` (the groups `TOLD`)
    and `mmv_jax` (provenance). `load_numpy.py` and `load_torch.py` are copied beside it.

    "huggingface": a folder for `AutoModel` and `AutoImageProcessor` of transformers.

    "stablehlo": a serialised `jax.export.Exported` of (patches [B, L, P], coords_mm [B, L, 3],
    kinds [B, L], segment_ids [B, L]) -> tokens [B, L, D]. It holds the parameters, and works for
    any B, the L of training's rows, and CPU, CUDA and TPU.

    "onnx": the same for any B and L, in float32.

    The card is `OUT.md`; for a folder it is `OUT/README.md`.

    Args:
      half: whether "safetensors" keeps parameters as float16; loaders compute in float32.
      weights: which of the weights that the run kept, see `released.restore_weights`.
    Raises:
      UserError: `half` with another format, an unknown format, a place that is not writable, no
        whole checkpoint of a pretraining, or a network that the format does not support.
    """
    _check_place(kind, out)
    if half and kind != "safetensors":
        raise UserError(f"--half is for --format safetensors, not {kind}. Leave it out.")
    restored = restore_weights(checkpoint, weights)
    if half:  # rounded before the digest is taken: it names the weights that are loaded again
        params = jax.tree.map(lambda x: np.asarray(x, np.float16).astype(x.dtype), restored.trees)
        restored = restored._replace(trees=params)
    params, config = restored.trees["encoder"], restored.config
    if "crops" not in config:
        raise UserError(
            f"--checkpoint {checkpoint}: it is no checkpoint of `mmv pretrain`, whose rows an"
            " export describes. Give the workdir of one."
        )
    # Only the dense backend consists of operations that every platform has.
    encoder = make_encoder(**config["encoder"] | {"attention": "dense", "remat": False})
    _check_supported(kind, encoder)
    kept = np.float16 if half else None  # None: as in the checkpoint
    tensors = {name: np.ascontiguousarray(x, kept) for name, x in named_tensors(params).items()}
    if lost := [name for name, x in tensors.items() if not np.isfinite(x).all()]:
        raise UserError(
            f"--checkpoint {checkpoint}: {lost[0]} has values that are not finite"
            f"{' in 16 bits; leave out --half' if half else ''}."
        )
    record = provenance("mmv export", config={"format": kind}, weights=restored.origin())
    about = {"architecture": architecture(encoder), "preparation": preparation(config)}
    metadata = {name: json.dumps(value) for name, value in about.items()}
    metadata |= {"config": json.dumps(_told(config)), METADATA: json.dumps(record)}
    parameters = sum(x.size for x in tensors.values())
    said = config.get("pretraining", {})
    learnt = {"teachers": said.get("teachers", []), "began": said.get("init", [])}
    card = model_card(kind, out.name, about=about, record=record, parameters=parameters, **learnt)
    if kind == "huggingface":
        _write_huggingface(out, tensors, about, metadata=metadata, card=card)
        return f"{out}: a folder for transformers, {parameters:,} parameters"
    if kind == "safetensors":
        said = _write_safetensors(out, tensors, metadata)
    elif kind == "stablehlo":
        length = config["rows"]["length"]
        # L is fixed in the program: rows are as long as in training.
        write_whole(out, stablehlo(encoder, params, length))
        said = f"tokens [B, {length}, {encoder.width}] of rows of {length} tokens, for"
        said += f" {', '.join(PLATFORMS)}"
    else:
        write_whole(out, onnx(encoder, tensors, about["architecture"], metadata))
        said = f"tokens [B, L, {encoder.width}] of rows of any length"
    write_whole(out.with_name(f"{out.name}.md"), card)
    return f"{out}: {said}; its model card is {out.name}.md"


def _check_supported(kind: str, encoder: Backbone) -> None:
    """Refuse a network that a format cannot hold."""
    if kind in ("huggingface", "onnx") and not isinstance(encoder, Encoder):
        raise UserError(
            f"--format {kind} supports only the backbone 'vit', and this checkpoint has another."
            " Choose safetensors or stablehlo."
        )
    if kind in ("huggingface", "onnx") and not plain(encoder):
        raise UserError(
            f"--format {kind} does not have the positions or the activation of public encoders,"
            " which this checkpoint has (config.init.folder). Choose safetensors or stablehlo."
        )


def _check_place(kind: str, out: Path) -> None:
    """Refuse an unknown format, and a place that is not writable."""
    if kind not in FORMATS:
        raise UserError(f"--format is {kind!r}; choose one of {', '.join(FORMATS)}.")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: its folder does not exist. Make it first.")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: its folder may not be written to. Give another.")
    if kind == "huggingface" and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists already. Give the name of a new folder.")
    if kind != "huggingface" and out.is_dir():
        raise UserError(f"--out {out} is a folder. Give the name of a file in it.")


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    about = {name: config[name] for name in TOLD if name in config}
    # Nothing else of the group `data`: it may name a folder.
    about["data"] = study_options(config.get("data", {}))
    return about


def _write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> str:
    from safetensors.numpy import save

    # Not `save_file`: its file can be read by its owner alone, whatever the umask.
    write_whole(path, save(dict(tensors), metadata={"format": "flax", **metadata}))
    for name in LOADERS:
        write_whole(path.with_name(name), shipped(name))
    return (
        f"{len(tensors)} tensors, {sum(x.size for x in tensors.values()):,} parameters; beside it"
        f" {' and '.join(LOADERS)}"
    )


def _write_huggingface(
    out: Path,
    tensors: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    *,
    metadata: Mapping[str, str],
    card: str,
) -> None:
    """Write the folder under another name first, so that it appears whole or not at all."""
    part = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".part", dir=out.parent))
    try:
        write_folder(part, tensors, about, metadata)
        (part / "README.md").write_text(card)
        part.chmod(0o755)  # mkdtemp makes it for its owner alone
        # A folder can be renamed over an empty one; `_check_place` has refused any other.
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
