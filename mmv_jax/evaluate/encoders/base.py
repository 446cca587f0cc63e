"""The protocol of encoders: a study in, a CLS vector and patch tokens with their places out.

Axes: n patch tokens, D width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.data.crops import Crops, Geometry, Triple, whole_crops
from mmv_jax.data.occupancy import kept_tokens
from mmv_jax.data.study_batches import study_batches
from mmv_jax.models.kinds import PATCH
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class Encoded:
    """The features of one study.

    Attributes:
      study: its position in the index.
      patches: in the order of the view's kept patches.
      early: the same tokens after earlier layers (`early_layers`), for heads that read several
        depths. Empty where an encoder has no such layers.
      before: CLS and patch tokens after at most three blocks before the last one, each token
        standardised (`readout.standardise_tokens`). None where an encoder gives only one block.
    """

    study: int
    cls: Float[np.ndarray, " D"]
    patches: Float[np.ndarray, "n D"]
    early: Float[np.ndarray, "E n D"]
    before: Float[np.ndarray, "B T D"] | None = None


def early_layers(depth: int) -> tuple[int, ...]:
    """Indices of the blocks that are read beside the last one, of `depth` blocks.

    They lie at a quarter, half and three quarters, as in UNETR (arXiv 2103.10504).

    Example:
      >>> early_layers(12)
      (2, 5, 8)
    """
    # - 1 since blocks count from 0; `max` since a quarter of few blocks rounds down to 0.
    return tuple(max(depth * quarter // 4, 1) - 1 for quarter in (1, 2, 3))


@runtime_checkable
class StudyEncoder(Protocol):
    """The interface of an encoder. `fingerprint` changes with everything that could change a
    feature.
    """

    @property
    def fingerprint(self) -> str: ...

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        """The crop that represents each study, and a mask of the patches that the encoder reads."""
        ...

    def encode(self, store: Store, studies: Int[np.ndarray, " N"]) -> Iterator[Encoded]:
        """Each study once, in any order."""
        ...


@dataclass(frozen=True)
class WholeStudyView:
    """The keyword arguments of `study_batches`, by which whole studies become rows."""

    grids: Mapping[int, Triple]
    patch: Triple
    registers: int
    length: int
    rows: int
    coordinates: str
    tokens: str = "occupied"

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        crops = whole_crops(geometry, self.grids, self.patch)
        return crops, kept_tokens(geometry, crops, self.tokens)

    def batches(
        self, store: Store, studies: Int[np.ndarray, " N"]
    ) -> Iterator[dict[str, np.ndarray]]:
        # Fields are passed by name: they must have the names of `study_batches`'s arguments.
        return study_batches(store, studies.tolist(), **self.__dict__)


def segments(
    batch: Mapping[str, np.ndarray],
) -> Iterator[tuple[int, int, int, Bool[np.ndarray, " L"]]]:
    """(study, row, position of CLS, mask of its patches in the row) of each segment of a batch."""
    # Columns of `study` count from 0, segment ids from 1, since 0 is padding. -1 is no study.
    for row, s in zip(*np.nonzero(batch["study"] >= 0)):
        patches = (batch["segment_ids"][row] == s + 1) & (batch["kinds"][row] == PATCH)
        yield int(batch["study"][row, s]), int(row), int(batch["cls_index"][row, s]), patches
