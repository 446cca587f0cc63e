"""Whole models that transformers saved, such as the folder of microsoft/rad-dino: names stay.

It makes one safe folder of a pickle, or of a model with a head, and says what it was trained on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmv_jax.convert.beside import CONFIG
from mmv_jax.convert.layout import PublishedLayout, Rule, Tower, keep, refuse_side, unused
from mmv_jax.errors import UserError

KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "swin")
# Of no use here: code of the folder, and the width of its floats, which are 32 bits now.
DROPPED = ("auto_map", "dtype", "torch_dtype", "id2label", "label2id")


def _rules(_tower: Tower) -> tuple[Rule, ...]:
    return (
        keep(r"((?:embeddings|encoder|layer|layernorm|norm|rope_embeddings)\..*)", r"\1"),
        *unused(r"pooler\..*"),  # its global vector is CLS, or the mean of the normed patches
    )


def _config(tower: Tower) -> dict[str, Any]:
    refuse_side(tower)
    about = tower.beside.get(CONFIG, {})
    if about.get("model_type") not in KINDS:
        raise UserError(
            f"{CONFIG} beside it has the model_type {about.get('model_type')}. These are read:"
            f" {', '.join(KINDS)}."
        )
    return {key: value for key, value in about.items() if key not in DROPPED}


def _preprocessing(_tower: Tower, _config: Mapping[str, Any]) -> dict[str, Any]:
    raise UserError("preprocessor_config.json must lie beside it: it says how its images are made.")


SAVED_MODEL = PublishedLayout(
    about="a DINOv2, ViT or Swin as transformers saves it, with its config.json; RAD-DINO's folder",
    marks=("embeddings.patch_embeddings.projection.weight", "layernorm.weight"),
    rules=_rules,
    config=_config,
    preprocessing=_preprocessing,
)
SAVED_DINOV3 = replace(
    SAVED_MODEL,
    about="a DINOv3 as transformers saves it, with its config.json",
    marks=("embeddings.patch_embeddings.weight", "embeddings.cls_token", "norm.weight"),
)
