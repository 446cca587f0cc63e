"""The interface of a loss term, and what a term is given. A new term is one file and one line in
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

# What a term can need. Passes of the encoder: the student's over the visible tokens of the prefix,
# the teacher's over the prefix, the student's over whole rows.
VISIBLE, TEACHER, STUDENT = "visible", "teacher", "student"
# Of the rows: patches that the student sees as a mask token, and more than one view of a study.
MASKED, VIEWS = "masked", "views"
# What rows hold besides: features of teachers (`data/teachers.py`), and patches before distortion.
TARGETS, CLEAN = "targets", "clean"


@dataclass(frozen=True)
class Seen:
    """What the encoder saw in a step. Only the passes are there that a term needs.

    Attributes:
      batch: the rows.
      prefix: the encoder's inputs (patches [B, F, P], coords_mm, kinds, segment_ids) over the part
        of the rows that holds the global crops.
      tokens: of each pass: `VISIBLE` [B, V, D], `TEACHER` [B, F, D], `STUDENT` [B, L, D].
      blocks: of the pass `TEACHER`: its tokens after each block, [depth, B, F, D].
      cls: CLS tokens [B, S, D] of the passes `TEACHER` (of global crops) and `STUDENT` (of all);
        zeros where there is none.
      is_global: which segments are global crops of a study.
      temperature: the teacher's at this step.
      key: for random numbers of the term's own.
    """

    batch: Batch
    prefix: tuple[Array, ...]
    tokens: Mapping[str, Array]
    blocks: Mapping[str, Array]
    cls: Mapping[str, Array]
    is_global: Bool[Array, "B S"]
    temperature: Float[Array, ""]
    key: Array


@dataclass(frozen=True)
class Work:
    """How much a step works on: on one device, or on all together.

    Attributes:
      rows: how many there are.
      length, prefix, visible, masked, segments: of one row; what no term needs is 0.
      row_squares, prefix_squares: the expected sums, over the segments of a row and over its global
        ones, of the squares of their lengths; 0 where bytes are asked for.
    """

    rows: int
    length: int
    prefix: int
    visible: int
    masked: int
    segments: int
    row_squares: float = 0.0
    prefix_squares: float = 0.0


@dataclass(frozen=True)
class Term:
    """A loss term of pretraining, with all that a run and preflight must know of it.

    A subclass is a frozen dataclass. Its fields beside `encoder` are its options: the keys of
    `config.objective` with those names, which have the fields' defaults. Two terms may share a key,
    as `dino` and `ibot` do. The key with the term's own name in the table is its weight:

        @dataclass(frozen=True)
        class Roughness(Term):
            roughness_power: float = 2.0
            needs: ClassVar[frozenset[str]] = frozenset({STUDENT})
            ...

        TERMS.register("roughness", Roughness)

        c.objective.roughness, c.objective.roughness_power = 0.1, 1.0  # in a config

    Attributes:
      encoder: the run's; a term that runs it itself counts that in `flops`.
      needs: passes and properties of rows, of the names above.
      module: the name of the term's own parameters in the student; "" for none. It stays as it is:
        checkpoints hold it.
      follows: whether the teacher keeps a moving average of them.
      told_as: what `mmv status` calls the loss, where its fall by itself shows that the run learns;
        "" where its target moves, as a teacher's does.
    """

    encoder: nn.Module
    needs: ClassVar[frozenset[str]] = frozenset()
    module: ClassVar[str] = ""
    follows: ClassVar[bool] = False
    told_as: ClassVar[str] = ""

    @classmethod
    def more_needs(cls, options: Mapping[str, Any]) -> frozenset[str]:
        """What some options need of the rows beside `needs`.

        Args:
          options: the config's group `objective`.
        """
        return frozenset()

    def init(self, key: Array, seen: Seen) -> Params:
        """The term's own parameters; asked only where `module` has a name.

        Args:
          seen: zeros of the right shapes.
        """
        raise NotImplementedError

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The term without its weight, and further numbers for the log, by names of their own.

        Args:
          student, teacher: all parameters; the term's own are `student[self.module]`.
        """
        raise NotImplementedError

    def flops(self, work: Work) -> dict[str, Flops]:
        """What the term costs beside the passes that it needs, by part."""
        raise NotImplementedError

    def stored_bytes(self, work: Work, remat: bool) -> dict[str, int]:
        """What it keeps for its backward pass, by kind of array; beside its parameters.

        Args:
          remat: whether blocks store their input alone.
        """
        raise NotImplementedError

    def working_bytes(self, work: Work, remat: bool) -> dict[str, int]:
        """What comes and goes beside that. Of a kind that several terms or the encoder have, such
        as "a block's backward", the largest counts: they are not worked with at the same time.
        """
        return {}

    @classmethod
    def verdict(cls, metrics: Mapping[str, float | int], options: Mapping[str, Any]) -> list[str]:
        """What the numbers of a step show to be wrong, one sentence each.

        Args:
          options: the config's group `objective`.
        """
        return []
