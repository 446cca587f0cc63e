"""Towers of CLIP and SigLIP: open_clip's own transformer, and those that transformers saved.

MedSigLIP and the tower of CheXagent (XraySigLIP) are of the second kind. Sources: open_clip,
`transformer.py`; transformers, `models/siglip` and `models/clip`.
"""

from collections.abc import Mapping
from typing import Any

from mmv_jax.convert.beside import CONFIG, declared_preprocessing, open_clip_model, tower_config
from mmv_jax.convert.layout import (
    HALF,
    PublishedLayout,
    Rule,
    Tower,
    keep,
    preprocessor,
    refuse_side,
    square,
    thirds,
)
from mmv_jax.convert.vit import KINDS, heads_of
from mmv_jax.errors import UserError

BLOCK = r"transformer\.resblocks\.(\d+)\."
LAYER = r"encoder.layers.\1."
# Keys of open_clip's `vision_cfg` that change no feature of the tower, or that are read here.
KNOWN = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "patch_dropout"}
# Of transformers' names, at either kind of tower.
SAVED = r"encoder\.layers\.(\d+)\."


def _open_clip_rules(_tower: Tower) -> tuple[Rule, ...]:
    return (
        keep("class_embedding", "embeddings.class_embedding"),
        keep("positional_embedding", "embeddings.position_embedding.weight"),
        keep(r"conv1\.weight", "embeddings.patch_embedding.weight"),
        # The missing "e" is in transformers' own name.
        keep(r"ln_pre\.(weight|bias)", r"pre_layrnorm.\1"),
        keep(r"ln_post\.(weight|bias)", r"post_layernorm.\1"),
        # PyTorch's attention keeps queries, keys and values as thirds of one matrix.
        *(
            Rule(
                rf"{BLOCK}attn\.in_proj_{kind}",
                tuple(f"{LAYER}self_attn.{part}_proj.{kind}" for part in "qkv"),
                thirds,
            )
            for kind in KINDS
        ),
        keep(rf"{BLOCK}attn\.out_proj\.(weight|bias)", rf"{LAYER}self_attn.out_proj.\2"),
        keep(rf"{BLOCK}ln_([12])\.(weight|bias)", rf"{LAYER}layer_norm\2.\3"),
        keep(rf"{BLOCK}mlp\.c_fc\.(weight|bias)", rf"{LAYER}mlp.fc1.\2"),
        keep(rf"{BLOCK}mlp\.c_proj\.(weight|bias)", rf"{LAYER}mlp.fc2.\2"),
        Rule("proj", needed=False),  # into the space that images and texts share
    )


def _open_clip_config(tower: Tower) -> dict[str, Any]:
    refuse_side(tower)
    about = open_clip_model(tower)
    said = about.get("vision_cfg", {})
    if set(said) - KNOWN:
        raise UserError(
            f"its vision_cfg has {', '.join(sorted(set(said) - KNOWN))}, which CLIP of transformers"
            " has not."
        )
    width, patch = tower.kernel("conv1.weight")
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "num_hidden_layers": tower.count("transformer.resblocks."),
        "num_attention_heads": width // int(said.get("head_width", 64)),
        "intermediate_size": tower.shape("transformer.resblocks.0.mlp.c_fc.weight")[0],
        "hidden_act": "quick_gelu" if about.get("quick_gelu") else "gelu",
        "layer_norm_eps": 1e-5,
        "image_size": patch
        * square(tower.shape("positional_embedding")[0], 1, "positional_embedding"),
        "patch_size": patch,
    }


def _saved_rules(tower: Tower) -> tuple[Rule, ...]:
    """Names as they are; every one is listed, so that a tensor of another model is noticed."""
    siglip = "embeddings.class_embedding" not in tower
    same = [
        rf"{SAVED}(layer_norm1|layer_norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)",
        rf"{SAVED}(self_attn\.)(q_proj|k_proj|v_proj|out_proj)\.(weight|bias)",
    ]
    outside = ["embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"]
    outside += [f"post_layernorm.{kind}" for kind in KINDS]
    if siglip:
        outside += ["embeddings.patch_embedding.bias"]
        if "head.probe" in tower:
            outside += ["head.probe", *(f"head.attention.in_proj_{kind}" for kind in KINDS)]
            layers = ("attention.out_proj", "layernorm", "mlp.fc1", "mlp.fc2")
            outside += [f"head.{layer}.{kind}" for layer in layers for kind in KINDS]
    else:
        outside += ["embeddings.class_embedding", *(f"pre_layrnorm.{kind}" for kind in KINDS)]
    return (
        keep(same[0], r"encoder.layers.\1.\2.\3"),
        keep(same[1], r"encoder.layers.\1.\2\3.\4"),
        *(keep(name.replace(".", r"\."), name) for name in outside),
        Rule(r"embeddings\.position_ids", needed=False),
    )


def _saved_config(tower: Tower) -> dict[str, Any]:
    refuse_side(tower)
    special = int("embeddings.class_embedding" in tower)
    width, patch = tower.kernel("embeddings.patch_embedding.weight")
    said = tower_config(tower, width)
    if special and "hidden_act" not in said and "model_type" not in tower.beside.get(CONFIG, {}):
        # CLIP has one of two activations, and the weights do not say which.
        raise UserError(
            f"{CONFIG}, as it was published, must lie beside the weights: it says which activation"
            " the model was trained with."
        )
    table = tower.shape("embeddings.position_embedding.weight")[0]
    known = {"hidden_act", "layer_norm_eps", "num_attention_heads"}
    return {
        "model_type": "clip_vision_model" if special else "siglip_vision_model",
        "hidden_act": "quick_gelu" if special else "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-5 if special else 1e-6,
        **({} if "num_attention_heads" in said else {"num_attention_heads": heads_of(width)}),
        **{key: value for key, value in said.items() if key in known},
        "hidden_size": width,
        "num_hidden_layers": tower.count("encoder.layers."),
        "intermediate_size": tower.shape("encoder.layers.0.mlp.fc1.weight")[0],
        "image_size": patch * square(table, special, "the table of positions"),
        "patch_size": patch,
        **({} if special else {"vision_use_head": "head.probe" in tower}),
    }


def _saved_preprocessing(tower: Tower, config: Mapping[str, Any]) -> dict[str, Any]:
    if config["model_type"] == "siglip_vision_model":
        return preprocessor(config["image_size"], *HALF)  # of every SigLIP
    return declared_preprocessing(tower, config)


OPEN_CLIP_VIT = PublishedLayout(
    about="a CLIP of open_clip with a transformer of its own",
    marks=("transformer.resblocks.0.attn.in_proj_weight", "conv1.weight", "class_embedding"),
    rules=_open_clip_rules,
    config=_open_clip_config,
    preprocessing=declared_preprocessing,
)
SAVED_TOWER = PublishedLayout(
    about="a tower of CLIP or SigLIP as transformers saves it: MedSigLIP, CheXagent's XraySigLIP",
    marks=(
        "embeddings.patch_embedding.weight",
        "encoder.layers.0.self_attn.q_proj.weight",
        "post_layernorm.weight",
    ),
    rules=_saved_rules,
    config=_saved_config,
    preprocessing=_saved_preprocessing,
)
