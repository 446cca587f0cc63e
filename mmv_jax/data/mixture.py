"""Mixture: the studies that an epoch shows, and how often. Axes: N lines of an epoch."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mmv_jax.data.crops import View
from mmv_jax.data.resample import Boxes
from mmv_jax.errors import UserError

UNKNOWN = "unknown"  # group of studies without a value in the group column


def mix(
    studies: np.ndarray, group: np.ndarray, mixture: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Studies of an epoch's lines, each group with its share.

    The group that is largest relative to its share sets the length of the epoch: its studies come
    once. Those of the other groups come in whole rounds, plus a random rest.
    """
    counts = {name: int((group == name).sum()) for name in mixture}
    # The length at which a group's studies, shown once, make up exactly its share.
    lines = max(count * sum(mixture.values()) / mixture[name] for name, count in counts.items())
    chosen = []
    for name, count in counts.items():
        own, wanted = (
            studies[group == name],
            # At least once each: rounding must not drop a study.
            max(round(lines * mixture[name] / sum(mixture.values())), count),
        )
        chosen += [own] * (wanted // count) + [rng.permutation(own)[: wanted % count]]
    return np.concatenate(chosen)


def groups_of(index: pd.DataFrame, by: str) -> pd.Series:
    """Group of each study: its value in column `by` of the index, or UNKNOWN.

    Raises:
      UserError: the index has no such column.
    """
    if by not in index:
        raise UserError(
            f"The store's index has no column {by!r} to group studies by. Use 'modality', or a"
            " label such as 'label_source' (config.data.mixture_by, or --where)."
        )
    return index[by].astype(object).where(index[by].notna(), UNKNOWN).astype(str)


def studies_of(
    store: Boxes,
    splits: Sequence[str],
    views: Mapping[int, Sequence[View]],
    mixture: Mapping[str, float] | None,
    groups: pd.Series,
) -> np.ndarray:
    """Lines of the index that are trained on, ascending.

    Raises:
      UserError: no such study, or a mixture with unknown groups or shares that are not positive.
    """
    index = store.index
    fits = index["split"].isin(list(splits)) & index["ndim"].isin(list(views))
    words = " and ".join(map(repr, splits))
    if mixture is not None:
        there = sorted(set(groups[fits]))
        wrong = [name for name, share in mixture.items() if name not in there or share <= 0]
        if wrong:
            raise UserError(
                f"The mixture gives {wrong[0]} a share of {mixture[wrong[0]]}, but shares are"
                f" positive, and {words} have {', '.join(there)}."
            )
        fits &= groups.isin(list(mixture))
    if not fits.any():
        raise UserError(
            f"The store has no study of {words} that the views can show. Its splits are"
            f" {', '.join(sorted(set(index['split'])))}."
        )
    return np.flatnonzero(fits)
