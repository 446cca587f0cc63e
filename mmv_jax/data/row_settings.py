"""The settings of training rows, as one value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from mmv_jax.data.augment import DEFAULT, Augmentation
from mmv_jax.data.crops import View
from mmv_jax.data.tokens import RowShape


@dataclass(frozen=True, kw_only=True)
class RowSettings(RowShape):
    """What rows follow from, besides their store. See `RowShape` for their shape.

    Attributes:
      views: for each dimensionality (2, 3) the views cut from a study, global views first.
      per_step: rows of a step, over all hosts.
      seed: of all draws.
      coordinates: see `tokens.token_coordinates`.
      tokens: the patches of a crop that become tokens: "occupied", those with more than background,
        or "all".
      mixture: each group's share of the lines of an epoch, see `mix`. None: every study once.
      mixture_by: index column with the groups; a study without a value is "unknown".
      splits: the splits to train on.
      augment, strength: whether crops are augmented, and how strongly.
      packing: how studies are packed into rows, "best_fit" or "fewest" (see `packing.make_plan`).
      batches: "mixed", or "alternating" for steps of one group of `mixture_by` each.
      teachers: folders of features, see `teachers.Teacher`.
    """

    views: Mapping[int, Sequence[View]]
    per_step: int
    seed: int
    coordinates: str = "mm"
    tokens: str = "occupied"
    mixture: Mapping[str, float] | None = None
    mixture_by: str = "modality"
    teachers: Sequence[str] = ()
    splits: Sequence[str] = ("train",)
    augment: bool = True
    strength: Augmentation = DEFAULT
    packing: str = "fewest"
    batches: str = "mixed"

    @property
    def shape(self) -> RowShape:
        return RowShape(**{field.name: getattr(self, field.name) for field in fields(RowShape)})
