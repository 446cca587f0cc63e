"""The table of encoders from elsewhere, which are evaluated beside the trained one."""

from collections.abc import Mapping
from typing import Any

from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.huggingface import HUGGINGFACE
from mmv_jax.evaluate.encoders.imagenet import EFFICIENTNET_LITE0
from mmv_jax.evaluate.encoders.inflated import INFLATED
from mmv_jax.evaluate.encoders.own import OWN
from mmv_jax.evaluate.encoders.source import EncoderSource
from mmv_jax.registry import Registry

SOURCES: Registry[EncoderSource] = Registry("encoder package")
SOURCES.register("huggingface", HUGGINGFACE)
SOURCES.register("efficientnet-lite0", EFFICIENTNET_LITE0)
SOURCES.register("i3resnet", INFLATED)
SOURCES.register("i3d", INFLATED)
SOURCES.register("checkpoint", OWN)


def load_encoder(name: str, group: Mapping[str, Any]) -> StudyEncoder:
    """Load the encoder of a group of `config.encoders`, from its `package`, `checkpoint` or
    `folder`.

    Raises:
      UserError: the package is unknown or not installed, or the folder holds no encoder.
    """
    asked = group.get("package", "checkpoint" if "checkpoint" in group else "huggingface")
    if asked not in SOURCES:
        raise UserError(
            f"config.encoders.{name}.package is {asked!r}. There is {', '.join(SOURCES)}."
        )
    source = SOURCES[asked]
    if source.needs_folder and "folder" not in group:
        raise UserError(f"config.encoders.{name}: {asked} needs a `folder`.")
    try:
        return source.load(group)
    except ImportError as error:
        # A source imports its packages in `load`, so a missing one is found here.
        advice = source.install or error.name or "what it imports"
        raise UserError(
            f"config.encoders.{name}: {asked} needs packages that are not installed:"
            f" pip install '{advice}'."
        ) from error
