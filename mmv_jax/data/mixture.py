"""Which studies an epoch shows, and how often each group of them. Axes: N lines of an epoch."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mmv_jax.data.crops import View
from mmv_jax.data.resample import Boxes
from mmv_jax.errors import UserError

UNKNOWN = "unknown"  # the group of studies that have no value in the column of groups


def mix(
    studies: np.ndarray, group: np.ndarray, mixture: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    """The studies of an epoch's lines, each group with its share of them.

    The epoch is as long as the group needs that is largest for its share: its studies come once,
    those of the others in whole rounds and a random rest.
    """
    counts = {name: int((group == name).sum()) for name in mixture}
    # The length at which a group's own studies, shown once, make up exactly its share.
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
    """The group of each study: its value in a column of the index; UNKNOWN where it has none."""
    if by not in index:
        raise UserError(
            f"mixture_by is {by!r}, which the store's index does not have. Use 'modality', or a"
            " label such as 'label_source'."
        )
    return index[by].astype(object).where(index[by].notna(), UNKNOWN).astype(str)


def studies_of(
    store: Boxes,
    splits: Sequence[str],
    views: Mapping[int, Sequence[View]],
    mixture: Mapping[str, float] | None,
    groups: pd.Series,
) -> np.ndarray:
    """The lines of the index that are trained on."""
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
