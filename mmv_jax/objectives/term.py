"""The interface of a loss term, and the inputs of a term. A new term is one file and one line in
`table.py`.

Axes: B rows, L tokens of a row, F of its prefix, V visible ones, S segments, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from mmv_jax.models.cost import Flops
from mmv_jax.objectives.batch import Batch, Params

# Needs of a term: three passes of the encoder. The student sees the prefix's visible tokens, the
# teacher the whole prefix, the student whole rows.
VISIBLE, TEACHER, STUDENT = "visible", "teacher", "student"
# Properties of the rows: masked patches in the student's input, and several views of a study.
MASKED, VIEWS = "masked", "views"
# Further contents of the rows: teachers' features (`data/teachers.py`), undistorted patches.
TARGETS, CLEAN = "targets", "clean"
# The module of a frozen encoder: the one that a run begins from (`config.init`).
EARLIER = "earlier_teacher"


@dataclass(frozen=True)
class Seen:
    """The encoder's inputs and outputs in a step. Only the passes that a term needs are present.

    Attributes:
      batch: the rows.
      prefix: the encoder's inputs (patches [B, F, P], coords_mm, kinds, segment_ids) over the part
        of the rows that holds the global crops.
      tokens: of each pass: `VISIBLE` [B, V, D], `TEACHER` [B, F, D], `STUDENT` [B, L, D].
      blocks: tokens after each block of the pass `TEACHER`, [depth, B, F, D].
      cls: CLS tokens [B, S, D] of the passes `TEACHER` (of global crops) and `STUDENT` (of all
        crops); zeros where a segment has none.
      is_global: which segments are global crops of a study.
      temperature: the teacher's at this step.
      key: for random numbers of the term's own.
      parts: in which the rows of a step pass through blocks, one after the other (`ops.parts`).
    """

    batch: Batch
    prefix: tuple[Array, ...]
    tokens: Mapping[str, Array]
    blocks: Mapping[str, Array]
    cls: Mapping[str, Array]
    is_global: Bool[Array, "B S"]
    temperature: Float[Array, ""]
    key: Array
    parts: int = 1


@dataclass(frozen=True)
class Work:
    """The size of a step, on one device or on all together.

    Attributes:
      rows: number of rows.
      length, prefix, visible, masked, segments: counts in one row; 0 where no term needs them.
      parts: in which the rows pass through blocks.
      row_squares, prefix_squares: expected sums of squared segment lengths, over all segments of a
        row and over its global ones. 0 where only bytes are asked for.
    """

    rows: int
    length: int
    prefix: int
    visible: int
    masked: int
    segments: int
    row_squares: float = 0.0
    prefix_squares: float = 0.0
    parts: int = 1


@dataclass(frozen=True)
class Term:
    """A loss term of pretraining, with its needs, parameters, FLOPs and bytes.

    A subclass is a frozen dataclass. Its fields beside `encoder` are its options: keys of
    `config.objective` with the same names, whose defaults are those of the fields. Two terms may
    share a key, as `dino` and `ibot` do. The key with the term's own name in the table is its
    weight:

        @dataclass(frozen=True)
        class Roughness(Term):
            roughness_power: float = 2.0
            needs: ClassVar[frozenset[str]] = frozenset({STUDENT})
            ...

        TERMS.register("roughness", Roughness)

        c.objective.roughness, c.objective.roughness_power = 0.1, 1.0  # in a config

    Attributes:
      encoder: the run's; a term that applies it itself counts that in `flops`.
      needs: passes and properties of rows, by the names above.
      module: the name of the term's own parameters in the student; "" for none. Do not rename it:
        checkpoints hold it.
      follows: whether the teacher keeps a moving average of these parameters.
      held: whether these parameters stay as the run begins with them.
      told_as: the loss's name in `mmv status`, if its fall by itself shows that the run learns. ""
        if its target moves, as a teacher's does.
    """

    encoder: nn.Module
    needs: ClassVar[frozenset[str]] = frozenset()
    module: ClassVar[str] = ""
    follows: ClassVar[bool] = False
    held: ClassVar[bool] = False
    told_as: ClassVar[str] = ""

    @classmethod
    def more_needs(cls, options: Mapping[str, Any]) -> frozenset[str]:
        """Needs beside `needs` that some options have.

        Args:
          options: the config's group `objective`.
        """
        return frozenset()

    def init(self, key: Array, seen: Seen) -> Params:
        """The term's own parameters; called only where `module` has a name.

        Args:
          seen: zeros of the right shapes.
        """
        raise NotImplementedError

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss without its weight, and further numbers for the log, under names of their own.

        Args:
          student, teacher: all parameters; the term's own are `student[self.module]`.
        """
        raise NotImplementedError

    def flops(self, work: Work) -> dict[str, Flops]:
        """FLOPs of the term beside the passes that it needs, by part."""
        raise NotImplementedError

    def stored_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        """Bytes that the term stores for its backward pass, by kind of array, without its
        parameters.

        Args:
          remat: of the encoder (`config.encoder.remat`).
        """
        raise NotImplementedError

    def working_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        """Bytes that the term holds for a while, beside the stored ones, by kind of array.

        Several terms or the encoder may name one kind, such as "a block's backward". They do not
        need it at the same time, so the largest counts.
        """
        return {}

    @classmethod
    def verdict(cls, metrics: Mapping[str, float | int], options: Mapping[str, Any]) -> list[str]:
        """Faults in the metrics of a step, one sentence each.

        Args:
          options: the config's group `objective`.
        """
        return []
