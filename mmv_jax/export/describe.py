"""Descriptions in an export: the network's numbers, the preparation of studies, a model card."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmv_jax.data.augment import BACKGROUND, HU_RANGE, OVERSHOOT
from mmv_jax.data.crops import NOMINAL_EXTENT_MM, OVERSAMPLING
from mmv_jax.data.tokens import study_options
from mmv_jax.models.backbone import Backbone
from mmv_jax.models.blocks import EPSILON
from mmv_jax.models.dense import hidden_width
from mmv_jax.models.encoder import Encoder
from mmv_jax.models.kinds import CLS, PATCH, REGISTER
from mmv_jax.store.intensity import AIR_HU, FLAT, SHARE_OF_CELL, SHARE_OF_RANGE

ACTIVATIONS = {"gelu": "gelu-tanh", "gelu_exact": "gelu", "swiglu": "silu-gated"}


def plain(encoder: Encoder) -> bool:
    """Whether an encoder has this project's own positions and activation, not a public one's."""
    own = encoder.positions == "rotary" and encoder.epsilon == EPSILON
    return own and encoder.mlp != "gelu_exact"


def architecture(encoder: Backbone) -> dict[str, Any]:
    """The numbers of the network that its tensors do not show.

    For a backbone other than the ViT these are only its fields.
    """
    if not isinstance(encoder, Encoder):
        names = ("width", "depth", "patch", "registers")
        return {"network": type(encoder).__name__} | {n: getattr(encoder, n) for n in names}
    # Everything below is needed to compute the same numbers, and the tensors do not show it.
    head = encoder.width // encoder.heads
    return {
        # The loaders beside an export compute "vit" alone, and refuse another name.
        "network": "vit" if plain(encoder) else f"vit with the positions {encoder.positions!r}",
        "width": encoder.width,
        "depth": encoder.depth,
        "heads": encoder.heads,
        "head_channels": head,
        "attention_scale": head**-0.5,
        "patch": list(encoder.patch),
        "registers": encoder.registers,
        "mlp": encoder.mlp,
        "hidden": hidden_width(encoder.width, encoder.mlp, encoder.mlp_hidden),
        "activation": ACTIVATIONS[encoder.mlp],
        "norm_epsilon": encoder.epsilon,
        "layer_scale": encoder.layer_scale is not None,
        "attention_bias": encoder.attention_bias,
        "qk_norm": encoder.qk_norm,
        "rotary": {
            "scale_mm": encoder.scale_mm,
            "base": encoder.rope_base,
            # As `rotary_tables` makes them: a sixth of the head for each axis, rounded down.
            "pairs": 3 * (head // 6),
            "order": "channel i turns with channel i + pairs; a third of the pairs for z, y, x",
        },
        "kinds": {"padding": 0, "cls": CLS, "first_register": REGISTER, "patch": PATCH},
        "dtype_in_training": encoder.dtype,
    }


def preparation(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters by which a study becomes patches and positions.

    Args:
      config: of the checkpoint.
    """
    return {
        # Whole studies have the grid of training's global crops.
        "grids": {
            name: list(group["global_grid"])
            for name, group in config["crops"].items()
            if "global_grid" in group
        },
        **study_options(config.get("data", {})),
        # Keys of JSON are text.
        "oversampling": {str(ndim): most for ndim, most in OVERSAMPLING.items()},
        "nominal_extent_mm": NOMINAL_EXTENT_MM,
        "background": BACKGROUND,
        "intensities": {
            "HU": {"window": list(HU_RANGE), "to": [-1, 1], "clipped_at": 1.0},
            "raw": {"percentiles": [0.5, 99.5], "to": [-1, 1], "clipped_at": OVERSHOOT},
            "shape": {"window": [0, 1], "to": [-1, 1], "clipped_at": 1.0},
        },
        "empty_cells": {
            "air_hu": AIR_HU,
            "share_of_cell": SHARE_OF_CELL,
            "share_of_range": SHARE_OF_RANGE,
            "flat": FLAT,
        },
    }


USES = {
    "safetensors": """Without this package, in NumPy or PyTorch (the loaders lie beside the file):

    from load_torch import encode, load  # or load_numpy
    weights, about = load("{name}")
    tokens = encode(weights, about, patches, coords_mm, kinds, segment_ids)

With it: `mmv_jax.load_encoder("{name}").encode("scan.nii.gz")`.""",
    "stablehlo": """    program = jax.export.deserialize(bytearray(open("{name}", "rb").read()))
    tokens = program.call(patches, coords_mm, kinds, segment_ids)""",
    "onnx": """    session = onnxruntime.InferenceSession("{name}")
    names = ("patches", "coords_mm", "kinds", "segment_ids")
    (tokens,) = session.run(None, dict(zip(names, inputs)))""",
    "huggingface": """    from transformers import AutoImageProcessor, AutoModel
    model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained("{name}", trust_remote_code=True)
    seen = model(**processor(voxels, spacing_mm=(1.0, 0.7, 0.7), unit="HU"))
    seen.pooler_output, seen.last_hidden_state""",
}


def model_card(
    kind: str,
    name: str,
    *,
    about: Mapping[str, Any],
    record: Mapping[str, Any],
    parameters: int,
    teachers: Sequence[Mapping[str, Any]] = (),
    began: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A model card in Markdown.

    Args:
      kind: a key of `USES`.
      name: of the exported file or folder.
      about: `architecture` and `preparation`.
      record: of `provenance.provenance`.
      parameters: number of parameters.
      teachers: cards of the networks whose features it learned to predict (`mmv teach`).
      began: cards of the weights that its training began from (`config.init`).
    """
    network = about["architecture"]
    rows = {
        "network": f"{network['network']}, width {network['width']}, depth {network['depth']}",
        "parameters": f"{parameters:,}",
        "patch (z, y, x)": " × ".join(map(str, network["patch"])) + " voxels",
        "registers": network["registers"],
        "whole studies (z, y, x)": ", ".join(
            f"{kind} at most {' × '.join(map(str, grid))} voxels"
            for kind, grid in about["preparation"]["grids"].items()
        ),
        "trained as": f"{record['checkpoint']}, step {record['step']}",
        "distilled from": "; ".join(dict.fromkeys(map(_teacher_in_words, teachers))),
        "began from": "; ".join(f"{card['name']} ({card.get('digest', '')})" for card in began),
        "digest of the weights": record["digest"],
        "exported": f"{record['date']}, mmv_jax {record['versions']['mmv_jax']}",
    }
    # A run without a teacher has no such row.
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value != "")
    return f"""---
library_name: {"transformers" if kind == "huggingface" else "mmv_jax"}
tags: [medical-imaging, radiology, feature-extraction]
---
# {name}

An encoder of planar (2D) and volumetric (3D) medical studies: a study in, a vector for all of it
(CLS) and one for each of its patches out.

| | |
| --- | --- |
{table}

## Use
{USES[kind].format(name=name)}

Inputs are rows of tokens: `patches` [B, L, {int(np.prod(network["patch"]))}] float32,
`coords_mm` [B, L, 3] float32 (z, y, x), `kinds` [B, L] int32 (0 padding, 1 CLS, 2 and on registers,
100 patch), `segment_ids` [B, L] int32 (0 padding, then a number for each study). Tokens of one
study see no other study.

## How a study becomes patches
    {json.dumps(about["preparation"])}

## Intended use and limits
For research: features for probes, retrieval and fine-tuning. It is no medical device and gives no
diagnosis. What it is worth was measured only where a report says so; on scanners, populations and
diseases that its training did not have, it may be worth less, and nothing in its output says so.
The weights were trained on images of patients: names, dates and identifiers were not among the
inputs, but how much of single images can be recovered from weights is not known.
"""


def _teacher_in_words(card: Mapping[str, Any]) -> str:
    return f"{card['name']}, trained on {card['trained_on']}, licence {card['licence']}"
