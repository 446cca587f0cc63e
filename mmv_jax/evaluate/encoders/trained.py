"""The encoder of a checkpoint, and the same encoder with random weights."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from mmv_jax.data.crops import Crops, Geometry, Triple
from mmv_jax.data.tokens import study_options
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded, WholeStudyView, early_layers, segments
from mmv_jax.evaluate.encoders.readout import LAST, standardise_tokens
from mmv_jax.models.kinds import PATCH
from mmv_jax.models.sizes import make_encoder
from mmv_jax.released import restore_weights
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder of this project, trained or with random weights.

    Attributes:
      origin: `checkpoint`, `step` and `digest` of trained weights; empty for random ones.
    """

    encoder: nn.Module
    params: Any
    whole: WholeStudyView
    origin: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.encoder, self.whole)).encode())
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        return self.whole.views(geometry)

    def encode(self, store: Store, studies: Int[np.ndarray, " N"]) -> Iterator[Encoded]:
        for batch in self.whole.batches(store, studies):
            inputs = (batch[name] for name in ("patches", "coords_mm", "kinds", "segment_ids"))
            tokens, early, before = map(np.asarray, _tokens(self.encoder, self.params, *inputs))
            for study, row, cls, patches in segments(batch):
                # CLS first, then the patches, as `readout.levels_of` joins them.
                own = np.r_[cls, np.flatnonzero(patches)]
                yield Encoded(
                    study,
                    tokens[row, cls],
                    tokens[row, patches],
                    early[:, row, patches],
                    before=standardise_tokens(before[:, row][:, own]) if len(before) else None,
                )


# A Flax module is hashable: static, it is part of the compilation's key.
@jax.jit(static_argnums=0)
def _tokens(encoder, params, *inputs):
    out = encoder.apply({"params": params}, *inputs)
    blocks = out["blocks"]
    # The LAST - 1 blocks before the last one; the last one's output is `tokens`.
    before = blocks[max(encoder.depth - LAST, 0) : encoder.depth - 1]
    return out["tokens"], blocks[jnp.array(early_layers(encoder.depth))], before


def restore(
    checkpoint: str | Path,
    rows: Mapping[str, int],
    grids: Mapping[str, Triple | None] = MappingProxyType({}),
    weights: str = "encoder",
) -> tuple[TrainedEncoder, dict]:
    """Restore the encoder of a checkpoint, with the checkpoint's config.

    Args:
      rows: `length` and `rows` of the batches to encode.
      grids: the most voxels of the view of a whole "planar" study or "volume". If absent or None,
        the view is as large as a global crop was in training.
      weights: which of the weights that the run kept, see `released.restore_weights`.
    Raises:
      UserError: the encoder was fitted to tiles of mammograms.
    """
    restored = restore_weights(checkpoint, weights)
    params, config = restored.trees["encoder"], restored.config
    if "crops" not in config:
        raise UserError(
            f"--checkpoint {checkpoint}: its encoder was fitted to tiles of mammograms and cannot"
            " encode a whole study. Use `mmv bac` to apply it."
        )
    group = config["encoder"]
    encoder = make_encoder(**group | {"patch": tuple(group["patch"])})  # JSON has no tuples
    chosen = {
        name: tuple(grids.get(name) or config["crops"][name]["global_grid"])
        for name in ("planar", "volume")
    }
    sizes = {2: chosen["planar"], 3: chosen["volume"]}
    options: dict[str, Any] = {**rows, **study_options(config["data"])}
    whole = WholeStudyView(sizes, encoder.patch, encoder.registers, **options)
    return TrainedEncoder(encoder, params, whole, restored.origin()), config


def with_fresh_weights(trained: TrainedEncoder, seed: int) -> TrainedEncoder:
    """The floor of random weights: the same encoder as at the start of training."""
    return TrainedEncoder(trained.encoder, fresh_params(trained.encoder, seed), trained.whole)


def fresh_params(encoder: nn.Module, seed: int) -> Any:
    """Freshly drawn parameters of an encoder."""
    return _drawn(encoder, jax.random.key(seed))


@jax.jit(static_argnums=0)
def _drawn(encoder, key):
    # Eight tokens will do: no parameter's shape depends on the length of a row.
    row = (
        jnp.zeros((1, 8, int(np.prod(encoder.patch)))),
        jnp.zeros((1, 8, 3)),
        jnp.full((1, 8), PATCH),
        jnp.ones((1, 8), jnp.int32),
    )
    # jit removes the forward pass, since nobody reads it.
    return encoder.init(key, *row)["params"]
