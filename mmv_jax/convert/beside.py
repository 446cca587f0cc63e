"""What the JSON files beside a checkpoint say of its tower."""

from collections.abc import Mapping
from typing import Any

from mmv_jax.convert.layout import Tower, preprocessor
from mmv_jax.errors import UserError

OPEN_CLIP, CONFIG = "open_clip_config.json", "config.json"


def open_clip_model(tower: Tower) -> Mapping[str, Any]:
    """`model_cfg` of open_clip's config, which some repositories call config.json.

    Raises:
      UserError: neither file has one.
    """
    for name in (OPEN_CLIP, CONFIG):
        # transformers' config.json has the same name, but no `model_cfg`.
        if isinstance(about := tower.beside.get(name, {}).get("model_cfg"), dict):
            return about
    raise UserError(
        f"{OPEN_CLIP} must lie beside the weights: it says which activation and which images the"
        " model was trained with."
    )


def tower_config(tower: Tower, width: int) -> Mapping[str, Any]:
    """The part of transformers' config.json that is of the vision tower; empty if there is none.

    Args:
      width: of the tower. A config of another width is that of a language model around it.
    """
    said = tower.beside.get(CONFIG, {})
    for own in (said.get("vision_config"), said.get("visual"), said):
        if isinstance(own, Mapping) and own.get("hidden_size") == width:
            return own
    return {}


def declared_preprocessing(tower: Tower, config: Mapping[str, Any]) -> dict[str, Any]:
    """Side, means and deviations by open_clip's config or by timm's.

    Raises:
      UserError: there is neither.
    """
    if found := declared_in(tower, config):
        return found
    raise UserError(
        f"means and deviations of its images are not known: put {OPEN_CLIP}, timm's {CONFIG} or"
        " preprocessor_config.json, as they are published, beside the weights."
    )


def declared_in(tower: Tower, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """As `declared_preprocessing`; None where no file says it."""
    for about in (tower.beside.get(OPEN_CLIP, {}), tower.beside.get(CONFIG, {})):
        # open_clip has a group of its own for it; timm one of two, by its version.
        for said in (about.get("preprocess_cfg"), about.get("pretrained_cfg"), about):
            if isinstance(said, dict) and {"mean", "std"} <= said.keys():
                return preprocessor(config["image_size"], said["mean"], said["std"])
    return None
