"""Whole models that transformers saved, such as the folder of microsoft/rad-dino: names stay.

It makes one safe folder of a pickle, or of a model with a head, and says what it was trained on.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmv_jax.convert.beside import CONFIG
from mmv_jax.convert.layout import (
    PublishedLayout,
    Rule,
    Tower,
    keep,
    refuse_side,
    square,
    unused,
)
from mmv_jax.errors import UserError
from mmv_jax.models.public_names import GATED, GATED_DINOV3
from mmv_jax.models.public_names import KINDS as NAMES

KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "swin")
# Names outside of the blocks.
OUTSIDE = (
    r"embeddings\.(?:cls_token|mask_token|register_tokens|position_embeddings|norm"
    r"|patch_embeddings(?:\.projection)?)|layernorm|norm|rope_embeddings\.\w+"
)
SWIN_BLOCK = (
    *(f"attention.self.{part}" for part in ("query", "key", "value")),
    *("attention.output.dense", "layernorm_before", "layernorm_after"),
    *("intermediate.dense", "output.dense"),
)
# Of no use here: code of the folder, and the width of its floats, which are 32 bits now.
DROPPED = ("auto_map", "dtype", "torch_dtype", "id2label", "label2id")


def _rules(tower: Tower) -> tuple[Rule, ...]:
    """Names as they are; those within a block are listed, so that one too many is noticed."""
    about = tower.beside[CONFIG]
    return (
        *_of_blocks(about),
        keep(rf"((?:{OUTSIDE})(?:\.weight|\.bias)?)", r"\1", needed=False),
        *unused(r"pooler\..*"),  # its global vector is CLS, or the mean of the normed patches
        *unused(r".*\.relative_position_index"),
    )


def _of_blocks(about: Mapping[str, Any]) -> tuple[Rule, ...]:
    model, together = about["model_type"], about.get("qkv_bias", True)
    if model == "swin":
        block = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."
        inside = rf"{block}({'|'.join(map(re.escape, SWIN_BLOCK))})\.(weight|bias)"
        table = "attention.self.relative_position_bias_table"
        return (
            keep(inside, r"encoder.layers.\1.blocks.\2.\3.\4", needed=False),
            keep(rf"{block}{re.escape(table)}", rf"encoder.layers.\1.blocks.\2.{table}"),
            keep(
                r"encoder\.layers\.(\d+)\.downsample\.(reduction|norm)\.(weight|bias)",
                r"encoder.layers.\1.downsample.\2.\3",
                needed=False,
            ),
        )
    kind = NAMES[model]
    names = dict(kind.block)
    if about.get("use_swiglu_ffn"):
        names |= GATED
    elif about.get("use_gated_mlp"):
        names |= GATED_DINOV3
    layer, rules = re.escape(kind.layer), []
    for role, name in names.items():
        own, place = re.escape(name), rf"{kind.layer}\1.{name}"
        if role.startswith("scale"):
            rules.append(keep(rf"{layer}(\d+)\.{own}", place))
            continue
        rules.append(keep(rf"{layer}(\d+)\.{own}\.weight", f"{place}.weight"))
        attends = role in ("query", "key", "value")
        if not attends or about.get(f"{role}_bias", together):
            # DINOv3 may have no bias in attention or MLP.
            needed = model != "dinov3_vit"
            rules.append(keep(rf"{layer}(\d+)\.{own}\.bias", f"{place}.bias", needed=needed))
    return tuple(rules)


def _config(tower: Tower) -> dict[str, Any]:
    refuse_side(tower)
    about = tower.beside.get(CONFIG, {})
    if about.get("model_type") not in KINDS:
        raise UserError(
            f"{CONFIG} beside it has the model_type {about.get('model_type')}. These are read:"
            f" {', '.join(KINDS)}."
        )
    _refuse_another(tower, about)
    return {key: value for key, value in about.items() if key not in DROPPED}


def _refuse_another(tower: Tower, about: Mapping[str, Any]) -> None:
    """Refuse a config whose numbers are not those of the tensors."""
    swin = about["model_type"] == "swin"
    flat = "embeddings.patch_embeddings.weight"
    kernel = flat if flat in tower else "embeddings.patch_embeddings.projection.weight"
    width, patch = tower.kernel(kernel)
    found: dict[str, Any] = {"embed_dim" if swin else "hidden_size": width, "patch_size": patch}
    if swin:
        stages = range(tower.count("encoder.layers."))
        found["depths"] = [tower.count(f"encoder.layers.{n}.blocks.") for n in stages]
    else:
        found["num_hidden_layers"] = tower.count(NAMES[about["model_type"]].layer)
    table, registers = "embeddings.position_embeddings", "embeddings.register_tokens"
    if not swin and table in tower:
        found["image_size"] = patch * square(tower.shape(table)[1], 1, table)
    if registers in tower or "num_register_tokens" in about:
        found["num_register_tokens"] = tower.shape(registers)[1] if registers in tower else 0
    # The first DINOv2 has no registers, whatever its config says of them.
    said_of = {**about, "num_register_tokens": 0} if about["model_type"] == "dinov2" else about
    # Without one of these no model of the kind can be restored.
    needed = ["embeddings.cls_token", *([table] if _has_table(about) else [])]
    if missing := [name for name in needed if not swin and name not in tower]:
        raise UserError(f"the tensor {missing[0]} is missing. The checkpoint is not whole.")
    for name, value in found.items():
        if (said := said_of.get(name)) != value:
            raise UserError(
                f"{CONFIG} beside it says {name} {said}, and its tensors have {value}. One of the"
                " two is another model's."
            )


def _has_table(about: Mapping[str, Any]) -> bool:
    kind = NAMES.get(about["model_type"])
    return kind is not None and kind.positions == "table"


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
