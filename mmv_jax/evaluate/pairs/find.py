"""Patients with a study of each of two modalities, and what is known of them. Axes: N pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.columns import column, numbers_of
from mmv_jax.evaluate.tasks.odd_studies import images_of
from mmv_jax.evaluate.tasks.task import SPLITS

FEWEST = 20  # pairs of a split, below which a subspace or a retrieval says nothing
PLACES = ("shared", "first", "second")  # where factors were planted


@dataclass(frozen=True)
class Pairs:
    """Pairs of studies of the same patients.

    Attributes:
      names: of the two modalities.
      studies: positions in the index, of the first modality and of the second.
      split: of each pair.
      flow: how many patients of the store there are, and why others are in no pair.
    """

    names: tuple[str, str]
    studies: Int[np.ndarray, "2 N"]
    split: np.ndarray
    flow: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.split)

    @property
    def why_none(self) -> str:
        """Why nothing can be said of pairs, in words; empty where it can."""
        counts = {name: int((self.split == name).sum()) for name in SPLITS}
        if min(counts.values()) >= FEWEST:
            return ""
        words = ", ".join(f"{count} of {name}" for name, count in counts.items())
        return (
            f"{len(self)} patients have a {self.names[0]} and a {self.names[1]} study ({words});"
            f" at least {FEWEST} of each split are needed"
        )


def find_pairs(index: pd.DataFrame, names: tuple[str, str]) -> Pairs:
    """The pairs of a store: of each patient the first study of each modality.

    Raises:
      UserError: the store has no study of a modality.
    """
    modality = index["modality"].to_numpy(str)
    for name in names:
        if not (modality == name).any():
            raise UserError(
                f"config.pairs names the modality {name!r}, of which the store has no study. It"
                f" has {', '.join(sorted(set(modality)))}."
            )
    # Studies of other splits are measured by nobody.
    used = np.isin(index["split"].to_numpy(str), SPLITS)
    own = [
        {
            patient: n
            # Backwards, so that the first study of a patient is the one that stays.
            for n, patient in reversed(list(zip(index.index, index["patient"])))
            if modality[n] == name and used[n]
        }
        for name in names
    ]
    # In the order of the index, so that a store gives the same pairs each time.
    both = sorted(set(own[0]) & set(own[1]), key=lambda patient: own[0][patient])
    studies = np.array([[side[patient] for patient in both] for side in own], np.int64)
    patients = index["patient"]
    flow = {
        "studies in the store": len(index),
        "patients in the store": int(patients.nunique()),
        f"patients without {names[0]}": int(patients.nunique()) - len(own[0]),
        f"patients without {names[1]}": int(patients.nunique()) - len(own[1]),
        "patients with both": len(both),
        "further studies of these": int(
            (patients.isin(both) & np.isin(modality, names) & used).sum() - 2 * len(both)
        ),
    }
    # A patient is in one split: the ingest refuses others.
    split = index["split"].to_numpy(str)[studies[0]]
    return Pairs(names, studies.reshape(2, -1), split, flow)


def odd_pairs(index: pd.DataFrame, pairs: Pairs) -> Iterator[str]:
    """Sentences about pairs that are one image twice, or images in several pairs."""
    first, second = (images_of(index, own) for own in pairs.studies)
    if same := int((first == second).sum()):
        yield f"{same} of {len(first)} pairs have the same pixels on both sides."
    if several := int((pd.Series(first).duplicated() | pd.Series(second).duplicated()).sum()):
        yield (
            f"{several} pairs have an image that another patient's pair has too: two ids of one"
            " patient?"
        )


@dataclass(frozen=True)
class Factor:
    """A quantity of each pair, and where it was planted.

    Attributes:
      values: NaN where it is not known; 0 and 1 of two classes.
      place: of `PLACES`.
    """

    name: str
    values: Float[np.ndarray, " N"]
    place: str

    @property
    def has_classes(self) -> bool:
        known = self.values[~np.isnan(self.values)]
        return bool(np.isin(known, (0.0, 1.0)).all())


def read_factors(
    index: pd.DataFrame, pairs: Pairs, named: Mapping[str, Sequence[str]]
) -> list[Factor]:
    """The factors of a config, read from the labels of either study of a pair.

    Args:
      named: labels by place.
    Raises:
      UserError: an unknown place or label, or a label that neither is a number nor has two values.
    """
    found = []
    for place, labels in named.items():
        if place not in PLACES:
            raise UserError(f"config.factors has {place!r}. There are: {', '.join(PLACES)}.")
        # One name may stand without brackets.
        for label in (labels,) if isinstance(labels, str) else labels:
            asked_by = f"config.factors.{place}"
            values = column(index, label, asked_by)
            # The second study, if it has the label: a volume measures what a projection guesses.
            second, first = (
                values.iloc[pairs.studies[side]].reset_index(drop=True) for side in (1, 0)
            )
            # What the first modality alone has is not looked for in the second.
            if place == "first":
                second, first = first, second
            both = second.where(second.notna() & (second.astype(str) != ""), first)
            found.append(Factor(label, _numbers(both, label, asked_by), place))
    return found


def _numbers(values: pd.Series, label: str, asked_by: str) -> Float[np.ndarray, " N"]:
    """Numbers as they are; of two texts the later one in alphabetical order is 1."""
    if pd.to_numeric(values, errors="coerce").notna().any():
        return numbers_of(values, label, asked_by)
    known = sorted(set(values.dropna().astype(str)) - {""})
    if len(known) != 2:
        raise UserError(
            f"{asked_by}: {label!r} is text of {len(known)} different values. Name a number, or a"
            " label of two values."
        )
    return values.map({known[0]: 0.0, known[1]: 1.0}).to_numpy(np.float64)
