"""Small models of the families that papers compare, for where their real weights are not available.

They only show that the code path works. Weights are random, from a seed. A stand-in is named so in
every table and compared with nothing; draw no conclusion from it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmv_jax.errors import UserError

# 112 / 14 = 8: a small image, but a grid of patches as in the real models.
_VIT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 112,
    "patch_size": 14,
}
_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 10,
}


def _plain(transformers: Any, name: str) -> Any:
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**_VIT))


def _two_towers(transformers: Any, name: str) -> Any:
    config = getattr(transformers, f"{name}Config")(
        text_config=_TEXT, vision_config=_VIT, projection_dim=16
    )
    return getattr(transformers, f"{name}Model")(config)


def _swin(transformers: Any) -> Any:
    # 112 / 4 = 28 patches, halved twice to 7: the window of 7 divides the grid of each stage.
    config = transformers.SwinConfig(
        image_size=112,
        patch_size=4,
        embed_dim=16,
        depths=[2, 2, 2],
        num_heads=[1, 2, 4],
        window_size=7,
    )
    return transformers.SwinModel(config)


def _convnext(transformers: Any) -> Any:
    config = transformers.ConvNextConfig(
        hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], num_stages=4, image_size=112
    )
    return transformers.ConvNextModel(config)


FAMILIES: Mapping[str, Callable[[Any], Any]] = {
    "vit": lambda transformers: _plain(transformers, "ViT"),
    "dinov2": lambda transformers: _plain(transformers, "Dinov2"),  # RAD-DINO
    "clip": lambda transformers: _two_towers(transformers, "CLIP"),  # BiomedCLIP
    "siglip": lambda transformers: _two_towers(transformers, "Siglip"),  # CheXagent
    "swin": _swin,  # Ark+
    "convnext": _convnext,
}


def save_stand_in(family: str, folder: Path, seed: int = 0) -> None:
    """Save a small model of a family as `save_pretrained` would, so that it loads like a real one.

    Raises:
      UserError: the family is unknown.
      ImportError: transformers or torch is not installed.
    """
    if family not in FAMILIES:
        raise UserError(
            f"There is no family {family!r} of stand-ins. There are: {', '.join(FAMILIES)}."
        )
    import torch
    import transformers

    # The caller's random state is restored; devices=[] leaves that of accelerators alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Renamed when it is whole: a folder that is there is taken as it is.
        part = folder.with_name(f"{folder.name}.part")
        FAMILIES[family](transformers).save_pretrained(part)
        part.rename(folder)
