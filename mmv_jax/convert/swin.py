"""Swin transformers of timm and of their authors; Ark+ is one.

Sources: timm 0.5.4 and later, `models/swin_transformer.py`; jlianglab/Ark, `models.py`.
"""

import math
from collections.abc import Mapping
from typing import Any

from mmv_jax.convert.layout import (
    IMAGENET,
    PublishedLayout,
    Rule,
    Tower,
    keep,
    preprocessor,
    thirds,
    unused,
)
from mmv_jax.convert.vit import KINDS
from mmv_jax.errors import UserError

BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."
LAYER = r"encoder.layers.\1.blocks.\2."
DOWN = ("reduction.weight", "norm.weight", "norm.bias")


def _rules(tower: Tower) -> tuple[Rule, ...]:
    stages = tower.count("layers.")
    # Until timm 0.6 a stage ends with the halving of its grid; since then the next begins with it.
    first = 0 if f"layers.0.downsample.{DOWN[0]}" in tower else 1
    halvings = tuple(
        keep(
            f"layers.{first + n}.downsample.{name}".replace(".", r"\."),
            f"encoder.layers.{n}.downsample.{name}",
        )
        for n in range(stages - 1)
        for name in DOWN
    )
    parts = tuple(f"{LAYER}attention.self.{part}" for part in ("query", "key", "value"))
    table = "relative_position_bias_table"
    return (
        keep(r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embeddings.projection.\1"),
        keep(r"patch_embed\.norm\.(weight|bias)", r"embeddings.norm.\1"),
        *(
            Rule(rf"{BLOCK}attn\.qkv\.{kind}", tuple(f"{p}.{kind}" for p in parts), thirds)
            for kind in KINDS
        ),
        keep(rf"{BLOCK}attn\.{table}", rf"{LAYER}attention.self.{table}"),
        keep(rf"{BLOCK}attn\.proj\.(weight|bias)", rf"{LAYER}attention.output.dense.\3"),
        keep(rf"{BLOCK}norm1\.(weight|bias)", rf"{LAYER}layernorm_before.\3"),
        keep(rf"{BLOCK}norm2\.(weight|bias)", rf"{LAYER}layernorm_after.\3"),
        keep(rf"{BLOCK}mlp\.fc1\.(weight|bias)", rf"{LAYER}intermediate.dense.\3"),
        keep(rf"{BLOCK}mlp\.fc2\.(weight|bias)", rf"{LAYER}output.dense.\3"),
        *halvings,
        keep(r"norm\.(weight|bias)", r"layernorm.\1"),
        # Both follow from the config; heads and Ark's projector come after the features.
        *unused(rf"{BLOCK}attn\.relative_position_index", rf"{BLOCK}attn_mask"),
        *unused(r"(head|head_dist|omni_heads|projector)\..*"),
    )


def _config(tower: Tower) -> dict[str, Any]:
    stages = tower.count("layers.")
    width, patch = tower.kernel("patch_embed.proj.weight")
    tables = [
        tower.shape(f"layers.{n}.blocks.0.attn.relative_position_bias_table") for n in range(stages)
    ]
    window = (math.isqrt(tables[0][0]) + 1) // 2
    depths = [tower.count(f"layers.{n}.blocks.") for n in range(stages)]
    side = tower.side or _side(tower, window, patch) or patch * window * 2 ** (stages - 1)
    # transformers cuts windows at the edge in another way than timm does.
    if side % (patch * 2 ** (stages - 1) * window):
        raise UserError(
            f"--side {side}: {window} windows must divide the last grid, so that it is a multiple"
            f" of {patch * 2 ** (stages - 1) * window} pixels."
        )
    return {
        "model_type": "swin",
        "image_size": side,
        "patch_size": patch,
        "embed_dim": width,
        "depths": depths,
        "num_heads": [heads for _, heads in tables],
        "window_size": window,
        "mlp_ratio": tower.shape("layers.0.blocks.0.mlp.fc1.weight")[0] / width,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "drop_path_rate": 0.0,
    }


def _side(tower: Tower, window: int, patch: int) -> int:
    """Pixels of a side of the images, by the number of windows of the first mask; 0: no mask."""
    name = "layers.0.blocks.1.attn_mask"
    return patch * window * math.isqrt(tower.shape(name)[0]) if name in tower else 0


def _preprocessing(_tower: Tower, config: Mapping[str, Any]) -> dict[str, Any]:
    return preprocessor(config["image_size"], *IMAGENET)


SWIN = PublishedLayout(
    about="a Swin of timm or of its authors; Ark+ (its teacher)",
    marks=("layers.0.blocks.0.attn.relative_position_bias_table", "patch_embed.proj.weight"),
    # The second version of Swin, which transformers has under another name.
    unmarked=("layers.0.blocks.0.attn.cpb_mlp.0.weight",),
    rules=_rules,
    config=_config,
    preprocessing=_preprocessing,
)
