"""Encoders behind one protocol: a study in, a CLS vector and patch tokens with their places out.
Axes: n patch tokens, D width.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.checkpoint import restore_encoder
from mmv_jax.data.crops import Crops, Geometry, Triple, kept_tokens, whole_crops
from mmv_jax.data.rows import study_batches
from mmv_jax.errors import UserError
from mmv_jax.models.kinds import PATCH
from mmv_jax.models.sizes import make_encoder
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class Encoded:
    """What an encoder says about one study.

    Attributes:
      study: its position in the index.
      patches: in the order of the view's kept patches.
      early: the same tokens after earlier layers (`early_layers`), for heads that read several
        depths; none where an encoder has no such layers.
    """

    study: int
    cls: Float[np.ndarray, " D"]
    patches: Float[np.ndarray, "n D"]
    early: Float[np.ndarray, "E n D"]


def early_layers(depth: int) -> tuple[int, ...]:
    """Which of `depth` blocks are read beside the last one: those at a quarter, half and three
    quarters, as in UNETR (arXiv 2103.10504).

    Example:
      >>> early_layers(12)
      (2, 5, 8)
    """
    return tuple(max(depth * quarter // 4, 1) - 1 for quarter in (1, 2, 3))


@runtime_checkable
class StudyEncoder(Protocol):
    """What is asked of an encoder. `fingerprint` changes with everything that could change a
    feature.
    """

    @property
    def fingerprint(self) -> str: ...

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        """The crop that stands for each study, and which of its patches the encoder reads."""
        ...

    def encode(self, store: Store, studies: Int[np.ndarray, " N"]) -> Iterator[Encoded]:
        """Each study once, in any order."""
        ...


@dataclass(frozen=True)
class Whole:
    """How whole studies become rows: the keyword arguments of `study_batches`."""

    grids: Mapping[int, Triple]
    patch: Triple
    registers: int
    length: int
    rows: int
    coordinates: str

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        crops = whole_crops(geometry, self.grids, self.patch)
        return crops, kept_tokens(geometry, crops)

    def batches(
        self, store: Store, studies: Int[np.ndarray, " N"]
    ) -> Iterator[dict[str, np.ndarray]]:
        return study_batches(store, studies.tolist(), **self.__dict__)


def segments(
    batch: Mapping[str, np.ndarray],
) -> Iterator[tuple[int, int, int, Bool[np.ndarray, " L"]]]:
    """(study, row, position of its CLS, which tokens of the row are its patches) of each segment of
    a batch.
    """
    for row, s in zip(*np.nonzero(batch["study"] >= 0)):
        patches = (batch["segment_ids"][row] == s + 1) & (batch["kinds"][row] == PATCH)
        yield int(batch["study"][row, s]), int(row), int(batch["cls_index"][row, s]), patches


@dataclass(frozen=True)
class Ours:
    """An encoder of this project, trained or with random weights."""

    encoder: nn.Module
    params: Any
    whole: Whole

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
            tokens, early = map(np.asarray, _tokens(self.encoder, self.params, *inputs))
            for study, row, cls, patches in segments(batch):
                yield Encoded(study, tokens[row, cls], tokens[row, patches], early[:, row, patches])


@jax.jit(static_argnums=0)
def _tokens(encoder, params, patches, coords_mm, kinds, segment_ids):
    out = encoder.apply({"params": params}, patches, coords_mm, kinds, segment_ids)
    return out["tokens"], out["blocks"][jnp.array(early_layers(encoder.depth))]


@dataclass(frozen=True)
class PatchPixels:
    """The floor of pixels for segmentation: a patch is its own voxels, and the study's vector is
    their mean.
    """

    whole: Whole

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([repr(self.whole), "pixels"]).encode()).hexdigest()[:16]

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        return self.whole.views(geometry)

    def encode(self, store: Store, studies: Int[np.ndarray, " N"]) -> Iterator[Encoded]:
        plane = self.whole.patch[1] * self.whole.patch[2]
        planar = (store.index["ndim"] == 2).to_numpy()
        for batch in self.whole.batches(store, studies):
            for study, row, _, where in segments(batch):
                patches = batch["patches"][row, where]
                # a planar patch is one slice, repeated
                patches = patches[:, :plane] if planar[study] else patches
                yield Encoded(study, patches.mean(axis=0), patches, patches[None][:0])


def restore(
    checkpoint: str | Path,
    rows: Mapping[str, int],
    grids: Mapping[str, Triple | None] = MappingProxyType({}),
) -> tuple[Ours, dict]:
    """The encoder of a checkpoint, and the checkpoint's config.

    Args:
      rows: `length` and `rows` of the batches that are encoded.
      grids: voxels at most of the view that shows a whole "planar" study or "volume"; what is
        absent or None is as large as a global crop was in training.
    """
    params, config = restore_encoder(checkpoint)
    if "crops" not in config:
        raise UserError(
            f"--checkpoint {checkpoint}: its encoder was fitted to tiles of mammograms, and shows"
            " no whole study: `mmv bac` applies it."
        )
    group = config["encoder"]
    encoder = make_encoder(**group | {"patch": tuple(group["patch"])})  # JSON has no tuples
    chosen = {
        name: tuple(grids.get(name) or config["crops"][name]["global_grid"])
        for name in ("planar", "volume")
    }
    sizes = {2: chosen["planar"], 3: chosen["volume"]}
    whole = Whole(
        sizes,
        encoder.patch,
        encoder.registers,
        **rows,
        coordinates=config["data"].get("coordinates", "mm"),
    )
    return Ours(encoder, params, whole), config


def with_fresh_weights(ours: Ours, seed: int) -> Ours:
    """The floor of random weights: the same encoder as training would begin with it."""
    return Ours(ours.encoder, fresh_params(ours.encoder, seed), ours.whole)


def fresh_params(encoder: nn.Module, seed: int) -> Any:
    """Parameters drawn anew."""
    row = (
        jnp.zeros((1, 8, int(np.prod(encoder.patch)))),
        jnp.zeros((1, 8, 3)),
        jnp.full((1, 8), PATCH),
        jnp.ones((1, 8), jnp.int32),
    )
    # jit: the forward pass, unread, is not run
    return jax.jit(lambda key: encoder.init(key, *row)["params"])(jax.random.key(seed))
