"""Differences between ways to train, on the same test patients. Axes: K seeds, M test patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.evaluate.pairs.measure import PairFigures
from mmv_jax.metrics.corrections import holm
from mmv_jax.metrics.intervals import Difference
from mmv_jax.metrics.jackknife import jackknifed_difference


@dataclass(frozen=True)
class WayDifference:
    """The difference of a figure between two ways, first minus second.

    Attributes:
      key: task and metric.
      p_holm: corrected for the comparisons of the same figure.
    """

    first: str
    second: str
    key: tuple[str, str]
    better_by: Difference
    p_holm: float = float("nan")

    @property
    def words(self) -> str:
        """What the test says of the first."""
        if np.isnan(self.p_holm):
            return "not defined"
        if self.p_holm >= 0.05:
            return "no significant difference"
        return "higher" if self.better_by.value > 0 else "lower"


def pairs_to_compare(asked: Any, ways: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of `config.compare`; without any, the first way with each of the others.

    Raises:
      UserError: it is no list, or a pair does not name two different ways.
    """
    if not asked:
        return [(ways[0], other) for other in ways[1:]]
    if not isinstance(asked, list | tuple):
        raise UserError(f"config.compare is {asked!r}, but must be a list of pairs of names.")
    for pair in asked:
        listed = isinstance(pair, list | tuple) and len(pair) == 2 and pair[0] != pair[1]
        if not listed or not set(map(str, pair)) <= set(ways):
            raise UserError(f"config.compare has {pair!r}: name two of {', '.join(ways)}.")
    return [(first, second) for first, second in asked]


def compare_ways(
    found: Mapping[str, Sequence[PairFigures]], pairs: Sequence[tuple[str, str]]
) -> list[WayDifference]:
    """The differences of the likeness and of every mean, with corrected p-values.

    Args:
      found: by way, the figures of each seed.
    """
    # Twins lack figures of a common space, but have all of these.
    keys = [key for key in next(iter(found.values()))[0] if _is_compared(key)]
    out = []
    for key in keys:
        own = [
            WayDifference(first, second, key, _difference(found[first], found[second], key))
            for first, second in pairs
        ]
        # Within a figure: encoders are what is compared, figures are different questions.
        corrected = holm([one.better_by.p for one in own])
        out += [replace(one, p_holm=p) for one, p in zip(own, corrected)]
    return out


def _is_compared(key: tuple[str, str]) -> bool:
    return key[0] == "means" or key == ("likeness", "debiased CKA")


def _difference(
    first: Sequence[PairFigures], second: Sequence[PairFigures], key: tuple[str, str]
) -> Difference:
    # Seed k of both ways began from the same numbers; a single fit is paired with each seed.
    seeds = min(len(first), len(second)) if min(len(first), len(second)) > 1 else None
    both = []
    for fits in (first[:seeds], second[:seeds]):
        parts = [fit[key] for fit in fits]
        both.append(
            (
                np.array([part.found.value for part in parts]),
                np.stack([np.asarray(part.left_out) for part in parts]),
            )
        )
    return jackknifed_difference(*both)
