"""Vision transformers of timm: with a CLS token (BiomedCLIP's tower), and SigLIP's, which pools by
attention.

Source: timm, `models/vision_transformer.py`; open_clip puts `visual.trunk.` before the names.
"""

from typing import Any

from mmv_jax.convert.beside import declared_preprocessing, open_clip_model
from mmv_jax.convert.layout import (
    PublishedLayout,
    Rule,
    Tower,
    keep,
    refuse_side,
    square,
    thirds,
    unused,
)
from mmv_jax.errors import UserError

BLOCK = r"blocks\.(\d+)\."
KINDS = ("weight", "bias")
# Widths of published models whose heads are not 64 wide.
HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16}
# SigLIP in timm has the exact GELU, but for these.
TANH = ("vit_so400m_patch16_siglip", "vit_giantopt", "vit_large_patch16_siglip_512")


def heads_of(width: int) -> int:
    """The number of heads of a published model of this width.

    Raises:
      UserError: no published model has this width.
    """
    if width not in HEADS and width % 64:
        raise UserError(f"a model of {width} channels is none that was published.")
    return HEADS.get(width, width // 64)


def _split(parts: tuple[str, ...]) -> tuple[Rule, ...]:
    """Rules for queries, keys and values in one tensor."""
    return tuple(
        Rule(rf"{BLOCK}attn\.qkv\.{kind}", tuple(f"{part}.{kind}" for part in parts), thirds)
        for kind in KINDS
    )


def _vit_rules(_tower: Tower) -> tuple[Rule, ...]:
    layer = r"encoder.layer.\1."
    inner = tuple(f"{layer}attention.attention.{part}" for part in ("query", "key", "value"))
    return (
        keep("cls_token", "embeddings.cls_token"),
        keep("pos_embed", "embeddings.position_embeddings"),
        keep(r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embeddings.projection.\1"),
        *_split(inner),
        keep(rf"{BLOCK}attn\.proj\.(weight|bias)", rf"{layer}attention.output.dense.\2"),
        keep(rf"{BLOCK}norm1\.(weight|bias)", rf"{layer}layernorm_before.\2"),
        keep(rf"{BLOCK}norm2\.(weight|bias)", rf"{layer}layernorm_after.\2"),
        keep(rf"{BLOCK}mlp\.fc1\.(weight|bias)", rf"{layer}intermediate.dense.\2"),
        keep(rf"{BLOCK}mlp\.fc2\.(weight|bias)", rf"{layer}output.dense.\2"),
        keep(r"norm\.(weight|bias)", r"layernorm.\1"),
        *unused(r"head\.(weight|bias)"),
    )


def _shape(tower: Tower, special: int) -> dict[str, Any]:
    """What the configs of both kinds have in common."""
    refuse_side(tower)
    width, patch = tower.kernel("patch_embed.proj.weight")
    return {
        "hidden_size": width,
        "num_hidden_layers": tower.count("blocks."),
        "num_attention_heads": heads_of(width),
        "intermediate_size": tower.shape("blocks.0.mlp.fc1.weight")[0],
        "layer_norm_eps": 1e-6,
        "image_size": patch * square(tower.shape("pos_embed")[1], special, "pos_embed"),
        "patch_size": patch,
    }


def _vit_config(tower: Tower) -> dict[str, Any]:
    return {"model_type": "vit", **_shape(tower, 1), "hidden_act": "gelu", "qkv_bias": True}


def _siglip_rules(_tower: Tower) -> tuple[Rule, ...]:
    layer = r"encoder.layers.\1."
    inner = tuple(f"{layer}self_attn.{part}_proj" for part in "qkv")
    pool = "head.attention."
    return (
        Rule("pos_embed", ("embeddings.position_embedding.weight",), lambda x: [x[0]]),
        keep(r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embedding.\1"),
        *_split(inner),
        keep(rf"{BLOCK}attn\.proj\.(weight|bias)", rf"{layer}self_attn.out_proj.\2"),
        keep(rf"{BLOCK}norm([12])\.(weight|bias)", rf"{layer}layer_norm\2.\3"),
        keep(rf"{BLOCK}mlp\.fc([12])\.(weight|bias)", rf"{layer}mlp.fc\2.\3"),
        keep(r"norm\.(weight|bias)", r"post_layernorm.\1"),
        keep(r"attn_pool\.latent", "head.probe"),
        # PyTorch's own attention has queries, keys and values in one tensor.
        keep(r"attn_pool\.q\.(weight|bias)", rf"{pool}in_proj_\1#0"),
        keep(r"attn_pool\.kv\.(weight|bias)", rf"{pool}in_proj_\1#1"),
        keep(r"attn_pool\.proj\.(weight|bias)", rf"{pool}out_proj.\1"),
        keep(r"attn_pool\.norm\.(weight|bias)", r"head.layernorm.\1"),
        keep(r"attn_pool\.mlp\.fc([12])\.(weight|bias)", r"head.mlp.fc\1.\2"),
    )


def _siglip_config(tower: Tower) -> dict[str, Any]:
    name = open_clip_model(tower).get("vision_cfg", {}).get("timm_model_name", "")
    tanh = str(name).startswith(TANH)
    return {
        "model_type": "siglip_vision_model",
        **_shape(tower, 0),
        "hidden_act": "gelu_pytorch_tanh" if tanh else "gelu",
    }


TIMM_VIT = PublishedLayout(
    about="a ViT of timm with CLS; BiomedCLIP's tower of open_clip",
    marks=("blocks.0.attn.qkv.weight", "pos_embed", "cls_token", "patch_embed.proj.weight"),
    unmarked=("blocks.0.ls1.gamma", "attn_pool.latent", "rope_embed.periods"),
    rules=_vit_rules,
    config=_vit_config,
    preprocessing=declared_preprocessing,
)
TIMM_SIGLIP = PublishedLayout(
    about="a SigLIP of open_clip and timm",
    marks=("attn_pool.latent", "blocks.0.attn.qkv.weight", "pos_embed"),
    rules=_siglip_rules,
    config=_siglip_config,
    preprocessing=declared_preprocessing,
)
