"""The vision tower of BLIP-2, as transformers names it: CheXagent-8b's.

It is a plain ViT whose queries, keys and values are one matrix, so it becomes a ViT.

Source: transformers, `models/blip_2/modeling_blip_2.py`.
"""

from typing import Any

from mmv_jax.convert.beside import declared_preprocessing, tower_config
from mmv_jax.convert.layout import (
    PublishedLayout,
    Rule,
    Tower,
    keep,
    refuse_side,
    square,
    thirds,
)
from mmv_jax.convert.vit import KINDS, heads_of

LAYER = r"encoder\.layers\.(\d+)\."
NEW = r"encoder.layer.\1."


def _rules(_tower: Tower) -> tuple[Rule, ...]:
    inner = tuple(f"{NEW}attention.attention.{part}" for part in ("query", "key", "value"))
    return (
        keep(r"embeddings\.class_embedding", "embeddings.cls_token"),
        keep(r"embeddings\.position_embedding", "embeddings.position_embeddings"),
        keep(
            r"embeddings\.patch_embedding\.(weight|bias)",
            r"embeddings.patch_embeddings.projection.\1",
        ),
        *(
            Rule(rf"{LAYER}self_attn\.qkv\.{kind}", tuple(f"{p}.{kind}" for p in inner), thirds)
            for kind in KINDS
        ),
        keep(rf"{LAYER}self_attn\.projection\.(weight|bias)", rf"{NEW}attention.output.dense.\2"),
        keep(rf"{LAYER}layer_norm1\.(weight|bias)", rf"{NEW}layernorm_before.\2"),
        keep(rf"{LAYER}layer_norm2\.(weight|bias)", rf"{NEW}layernorm_after.\2"),
        keep(rf"{LAYER}mlp\.fc1\.(weight|bias)", rf"{NEW}intermediate.dense.\2"),
        keep(rf"{LAYER}mlp\.fc2\.(weight|bias)", rf"{NEW}output.dense.\2"),
        keep(r"post_layernorm\.(weight|bias)", r"layernorm.\1"),
    )


def _config(tower: Tower) -> dict[str, Any]:
    refuse_side(tower)
    width, patch = tower.kernel("embeddings.patch_embedding.weight")
    said = tower_config(tower, width)
    places = tower.shape("embeddings.position_embedding")[1]
    return {
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": tower.count("encoder.layers."),
        "num_attention_heads": said.get("num_attention_heads") or heads_of(width),
        "intermediate_size": tower.shape("encoder.layers.0.mlp.fc1.weight")[0],
        "hidden_act": said.get("hidden_act", "gelu"),
        "layer_norm_eps": said.get("layer_norm_eps", 1e-6),
        "image_size": patch * square(places, 1, "embeddings.position_embedding"),
        "patch_size": patch,
        "qkv_bias": True,
    }


BLIP2 = PublishedLayout(
    about="the vision tower of BLIP-2: CheXagent-8b, whole",
    marks=(
        "embeddings.class_embedding",
        "encoder.layers.0.self_attn.qkv.weight",
        "embeddings.position_embedding",
        "post_layernorm.weight",
    ),
    rules=_rules,
    config=_config,
    preprocessing=declared_preprocessing,
)
