"""DINOv2 and DINOv3, as their authors publish them; RAD-DINO is a DINOv2.

Sources: github.com/facebookresearch/dinov2, `dinov2/models/vision_transformer.py`;
github.com/facebookresearch/dinov3, `dinov3/models/vision_transformer.py`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmv_jax.convert.layout import (
    IMAGENET,
    PublishedLayout,
    Rule,
    Tower,
    keep,
    preprocessor,
    refuse_side,
    square,
    thirds,
    unused,
)
from mmv_jax.errors import UserError

HEAD = 64  # width of a head in every published DINOv2
SIDE = 224  # of DINOv3's own evaluation
BASE = 100.0  # of DINOv3's rotary positions
LAYER = r"encoder.layer.\1."
ATTENTION = rf"{LAYER}attention.attention."
BLOCK = r"blocks\.(\d+)\."


def _block() -> tuple[Rule, ...]:
    """Rules of a block of DINOv2, without its MLP."""
    kinds = ("weight", "bias")
    qkv = tuple(
        Rule(
            rf"{BLOCK}attn\.qkv\.{kind}",
            tuple(f"{ATTENTION}{part}.{kind}" for part in ("query", "key", "value")),
            thirds,
        )
        for kind in kinds
    )
    rest = (
        keep(rf"{BLOCK}norm([12])\.(weight|bias)", rf"{LAYER}norm\2.\3"),
        keep(rf"{BLOCK}attn\.proj\.(weight|bias)", rf"{LAYER}attention.output.dense.\2"),
        keep(rf"{BLOCK}ls([12])\.gamma", rf"{LAYER}layer_scale\2.lambda1"),
    )
    return qkv + rest


def _dinov2_rules(tower: Tower) -> tuple[Rule, ...]:
    gated = (
        keep(rf"{BLOCK}mlp\.w12\.(weight|bias)", rf"{LAYER}mlp.weights_in.\2"),
        keep(rf"{BLOCK}mlp\.w3\.(weight|bias)", rf"{LAYER}mlp.weights_out.\2"),
    )
    plain = (keep(rf"{BLOCK}mlp\.fc([12])\.(weight|bias)", rf"{LAYER}mlp.fc\2.\3"),)
    return (
        keep("cls_token", "embeddings.cls_token"),
        keep("pos_embed", "embeddings.position_embeddings"),
        keep("mask_token", "embeddings.mask_token", needed=False),
        keep("register_tokens", "embeddings.register_tokens", needed=False),
        keep(r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embeddings.projection.\1"),
        *_block(),
        *(gated if "blocks.0.mlp.w12.weight" in tower else plain),
        keep(r"norm\.(weight|bias)", r"layernorm.\1"),
        *unused(r"(dino|ibot)_head\..*", r"head\.(weight|bias)"),
    )


def _dinov2_config(tower: Tower) -> dict[str, Any]:
    refuse_side(tower)
    width, patch = tower.kernel("patch_embed.proj.weight")
    side = square(tower.shape("pos_embed")[1], 1, "pos_embed")
    registers = tower.shape("register_tokens")[1] if "register_tokens" in tower else 0
    gated = "blocks.0.mlp.w12.weight" in tower
    if gated:
        # 4 as published: transformers takes two thirds of it and rounds up, as the model does.
        ratio, inside = 4, (int(width * 4 * 2 / 3) + 7) // 8 * 8
        found = tower.shape("blocks.0.mlp.w3.weight")[1]
    else:
        found = tower.shape("blocks.0.mlp.fc1.weight")[0]
        ratio, inside = found // width, found // width * width
    if found != inside or width % HEAD:
        raise UserError(
            f"a DINOv2 of {width} channels, {found} inside its MLP, is none that was published."
        )
    config = {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": width,
        "num_hidden_layers": tower.count("blocks."),
        "num_attention_heads": width // HEAD,
        "mlp_ratio": ratio,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": side * patch,
        "patch_size": patch,
        "qkv_bias": True,
        "use_swiglu_ffn": gated,
    }
    if registers:
        return config | {"num_register_tokens": registers}
    return config | {"use_mask_token": "mask_token" in tower}


def _without_chunk(name: str) -> str:
    """Large models are trained in chunks of blocks: blocks.CHUNK.BLOCK.norm1.weight."""
    return re.sub(r"blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)


def _dinov3_rules(tower: Tower) -> tuple[Rule, ...]:
    layer = r"layer.\1."
    parts = tuple(rf"{layer}attention.{part}_proj.weight" for part in "qkv")
    biases = tuple(rf"{layer}attention.{part}_proj.bias" for part in "qv")
    gated = "blocks.0.mlp.w1.weight" in tower
    names = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"}
    names = names if gated else {"fc1": "up_proj", "fc2": "down_proj"}
    return (
        keep("cls_token", "embeddings.cls_token"),
        keep("storage_tokens", "embeddings.register_tokens", needed=False),
        Rule("mask_token", ("embeddings.mask_token",), lambda x: [x.reshape(1, 1, -1)]),
        keep(r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embeddings.\1"),
        Rule(rf"{BLOCK}attn\.qkv\.weight", parts, thirds),
        # Keys have no bias: its third is masked out in training.
        Rule(rf"{BLOCK}attn\.qkv\.bias", biases, lambda x: thirds(x)[::2], needed=False),
        keep(rf"{BLOCK}attn\.proj\.(weight|bias)", rf"{layer}attention.o_proj.\2"),
        keep(rf"{BLOCK}ls([12])\.gamma", rf"{layer}layer_scale\2.lambda1"),
        keep(rf"{BLOCK}norm([12])\.(weight|bias)", rf"{layer}norm\2.\3"),
        *(
            keep(rf"{BLOCK}mlp\.{name}\.(weight|bias)", rf"{layer}mlp.{new}.\2")
            for name, new in names.items()
        ),
        keep(r"norm\.(weight|bias)", r"norm.\1"),
        # The periods follow from the config; crops of training have a norm of their own.
        *unused(r"rope_embed\.periods", rf"{BLOCK}attn\.qkv\.bias_mask"),
        *unused(r"local_cls_norm\.(weight|bias)"),
    )


def _dinov3_config(tower: Tower) -> dict[str, Any]:
    width, patch = tower.kernel("patch_embed.proj.weight")
    periods = tower.tensors["rope_embed.periods"].read()
    # A period for each two channels of each of the two axes.
    head = 4 * len(periods)
    if width % head or not np.allclose(
        periods, BASE ** (np.arange(len(periods)) / len(periods)), rtol=1e-2
    ):
        raise UserError("rope_embed.periods are not those of DINOv3, with the base 100.")
    gated = "blocks.0.mlp.w1.weight" in tower
    inside = tower.shape(f"blocks.0.mlp.{'w1' if gated else 'fc1'}.weight")[0]
    biased = "blocks.0.attn.qkv.bias" in tower
    return {
        "model_type": "dinov3_vit",
        "hidden_size": width,
        "num_hidden_layers": tower.count("blocks."),
        "num_attention_heads": width // head,
        "intermediate_size": inside,
        "hidden_act": "silu" if gated else "gelu",
        "layer_norm_eps": 1e-5,
        "rope_theta": BASE,
        "image_size": tower.side or SIDE,
        "patch_size": patch,
        "query_bias": biased,
        "key_bias": False,
        "value_bias": biased,
        "use_gated_mlp": gated,
        "num_register_tokens": (
            tower.shape("storage_tokens")[1] if "storage_tokens" in tower else 0
        ),
    }


def _preprocessing(_tower: Tower, config: Mapping[str, Any]) -> dict[str, Any]:
    return preprocessor(config["image_size"], *IMAGENET)


DINOV2 = PublishedLayout(
    about="DINOv2 of facebookresearch/dinov2, with registers or without; RAD-DINO's backbone file",
    marks=("blocks.0.ls1.gamma", "pos_embed", "cls_token", "blocks.0.attn.qkv.weight"),
    rules=_dinov2_rules,
    config=_dinov2_config,
    preprocessing=_preprocessing,
    tidy=_without_chunk,
)
DINOV3 = PublishedLayout(
    about="DINOv3 of facebookresearch/dinov3, ViT-S to ViT-7B",
    marks=("rope_embed.periods", "blocks.0.attn.qkv.weight"),
    rules=_dinov3_rules,
    config=_dinov3_config,
    preprocessing=_preprocessing,
)
