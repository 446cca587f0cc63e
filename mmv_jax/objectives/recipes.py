"""Objectives as others published them: values of `config.objective` under one name."""

import difflib
from collections.abc import Mapping
from typing import Any

from mmv_jax.errors import UserError

RECIPES: dict[str, dict[str, Any]] = {
    # Oquab et al. (arXiv 2304.07193), with the values of the code that they released
    # (ssl_default_config.yaml). Its prototypes begin as PyTorch's linear layer does: uniform, with
    # a variance of 1 / (3 * 256).
    "dinov2": {
        "dino": 1.0,
        "ibot": 1.0,
        "ibot_over": "global",
        "koleo": 0.1,
        "koleo_by_crop": True,
        "prototypes": 65536,
        "hidden": 2048,
        "bottleneck": 256,
        "prototype_std": 0.036,
    },
    # Siméoni et al. (arXiv 2508.10104), with the values that were released for a ViT-L
    # (vitl_im1k_lin834.yaml). Gram anchoring has a weight in a later phase alone, 2.0 in its
    # release; so have local crops, whose weight falls to 0.5 (dino_local). The configuration does
    # not say how prototypes begin: here as the heads' other layers do.
    "dinov3": {
        "dino": 1.0,
        "ibot": 1.0,
        "ibot_over": "global",
        "koleo": 0.1,
        "koleo_by_crop": True,
        "prototypes": 65536,
        "hidden": 2048,
        "bottleneck": 256,
        "prototype_std": 0.02,
    },
}


def with_recipe(group: Mapping[str, Any]) -> dict[str, Any]:
    """The group `objective` of a config, with the values of its `recipe` where it has none.

    Raises:
      UserError: there is no such recipe.

    Example:
      >>> with_recipe({"recipe": "dinov2", "koleo": 0.2})["koleo"]
      0.2
    """
    own = dict(group)
    name = own.pop("recipe", "")
    if not name:
        return own
    if name not in RECIPES:
        close = difflib.get_close_matches(str(name), RECIPES, n=1)
        advice = f"Did you mean {close[0]}?" if close else f"There is: {', '.join(RECIPES)}."
        raise UserError(f"config.objective.recipe is {name!r}. {advice}")
    return RECIPES[name] | own
