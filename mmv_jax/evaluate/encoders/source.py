"""The interface of a source of encoders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmv_jax.evaluate.encoders.base import StudyEncoder


@dataclass(frozen=True)
class EncoderSource:
    """A package with weights, or a family of folders; register one in `encoders.table.SOURCES`.

    Attributes:
      load: makes the encoder from its group in the config, `config.encoders.NAME`. It imports its
        packages itself, so that a missing one is found only when the source is used.
      install: what pip must install for it, "mmv_jax[torch]"; "" for nothing.
      needs_folder: whether the group must have a `folder`.
    """

    load: Callable[[Mapping[str, Any]], StudyEncoder]
    install: str = ""
    needs_folder: bool = False
