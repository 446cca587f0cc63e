"""Groups of studies by a metadata column: one for each value, or bands of a number.

Axes: N studies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.columns import FEW, is_empty, unknown_of_two

MOST = 8  # the most values of a column that become groups by themselves
OPTIONS = ("edges", "quantiles", "positives")  # of a grouping in a config


@dataclass(frozen=True)
class Grouping:
    """The groups of the studies of a task.

    Attributes:
      column: the metadata column.
      names: the group of each study, "" where the column is empty.
      order: the groups in the order of the report.
      positives: only positive studies are grouped, and each group is compared with all negative
        studies. Use it for lesions by size, since a study without a lesion has none, or for
        positives by whether a tube gives them away.
    """

    column: str
    names: np.ndarray
    order: tuple[str, ...]
    positives: bool = False

    def __getitem__(self, chosen: np.ndarray) -> "Grouping":
        return replace(self, names=self.names[chosen])


def make_grouping(
    values: pd.Series,
    column: str,
    asked_by: str,
    fitted_on: Bool[np.ndarray, " N"],
    *,
    edges: Sequence[float | int] = (),
    quantiles: int = 0,
    positives: bool = False,
) -> Grouping:
    """Make groups from the values of a column.

    Args:
      asked_by: the place in the config, for errors.
      fitted_on: the studies for the quantiles: never those of the test split.
      edges: of bands, ascending: (40, 60) gives "under 40", "40 to 60" and "60 and over".
      quantiles: number of bands with equal counts.
      positives: as in `Grouping`.
    Raises:
      UserError: bands of a column that is not numeric, or that are none; more than `MOST` values
        without bands; or all values in one group.
    """
    if not isinstance(positives, bool):
        # A word such as "no" would be true.
        raise UserError(f"{asked_by}.positives is {positives!r}, but must be True or False.")
    numbers = finite_numbers(values)
    wrong = np.isnan(numbers) & ~is_empty(values)
    if edges or quantiles:
        # A few words or infinite numbers leave their own studies out, and `odd_groups` tells it.
        if np.isnan(numbers).all() or wrong.sum() > FEW * (~is_empty(values)).sum():
            raise UserError(
                f"{asked_by}: {column!r} is not a column of numbers, so it has no bands. Leave"
                " edges and quantiles out."
            )
        _check_bands(edges, quantiles, asked_by)
        cuts = np.asarray(edges, np.float64) if edges else _quantiles(numbers[fitted_on], quantiles)
        bands = _bands(numbers, cuts, column, positives)
        if len(there := set(bands.names.tolist()) - {""}) == 1:
            raise UserError(
                f"{asked_by}: all values of {column!r} lie in one band, {there.pop()!r}. Give other"
                " edges, or leave it out."
            )
        return bands
    # A single word makes the column text.
    numeric = not (np.isnan(numbers).all() or wrong.any())
    text = (
        np.array([f"{n:g}" for n in numbers], object)
        if numeric
        else values.fillna("").astype(str).to_numpy(object)
    )
    # Beside two classes a code such as -1 is not known, as in a label.
    names = np.where(unknown_of_two(values), "", text).astype(str)
    # As text, 10 would sort before 9.
    found = sorted(set(names.tolist()) - {""}, key=float if numeric else str)
    if not 2 <= len(found) <= MOST:
        raise UserError(
            f"{asked_by}: {column!r} has {len(found)} different values. Give `edges` or `quantiles`"
            " of bands, or another column."
        )
    return Grouping(column, names, tuple(found), positives)


def finite_numbers(values: pd.Series) -> np.ndarray:
    """The numbers of a column; NaN where a cell is empty, a word or infinite."""
    numbers = pd.to_numeric(values.replace("", np.nan), errors="coerce").to_numpy(np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def with_intersections(
    groupings: tuple[Grouping, ...], asked: Sequence[Sequence[str]], asked_by: str
) -> tuple[Grouping, ...]:
    """The groupings, and the crossings of some of them: "F, under 40". A study that lacks one of
    the values is in none.

    Raises:
      UserError: a crossing names a column that is no grouping, or not two columns.
    """
    by_column = {grouping.column: grouping for grouping in groupings}
    crossed = []
    for columns in asked:
        listed = isinstance(columns, list | tuple) and all(isinstance(c, str) for c in columns)
        if not listed or len(set(columns)) < 2 or len(set(columns)) < len(columns):
            raise UserError(
                f"{asked_by}.intersections has {columns!r}, but each must be a list of two or more"
                ' columns: (("sex", "age"),).'
            )
        if unknown := [name for name in columns if name not in by_column]:
            raise UserError(
                f"{asked_by}.intersections: {unknown[0]!r} is not among the subgroups"
                f" ({', '.join(by_column) or 'none'}). Add it to `subgroups`."
            )
        own = [by_column[name] for name in columns]
        known = np.logical_and.reduce([grouping.names != "" for grouping in own])
        joined = [", ".join(names) for names in zip(*(g.names.tolist() for g in own))]
        order = tuple(map(", ".join, product(*(grouping.order for grouping in own))))
        names = np.where(known, np.array(joined, str), "")
        there = set(names.tolist())
        crossed.append(
            Grouping(" and ".join(columns), names, tuple(n for n in order if n in there))
        )
    return (*groupings, *crossed)


def _check_bands(edges: Any, quantiles: Any, asked_by: str) -> None:
    if edges and quantiles:
        raise UserError(f"{asked_by}: it has edges and quantiles. Leave one of them out.")
    if quantiles and (not isinstance(quantiles, int) or quantiles < 2):
        raise UserError(f"{asked_by}.quantiles is {quantiles!r}, but must be a number from 2 on.")
    rising = isinstance(edges, list | tuple) and all(
        isinstance(edge, int | float) and np.isfinite(edge) for edge in edges
    )
    if not rising or any(a >= b for a, b in pairwise(edges)):
        raise UserError(f"{asked_by}.edges is {edges!r}, but must be a list of rising numbers.")


def _quantiles(numbers: np.ndarray, count: int) -> np.ndarray:
    return (
        # With few values some quantiles coincide, and a band between equal borders is empty.
        np.unique(np.nanquantile(numbers, np.arange(1, count) / count))
        if not np.isnan(numbers).all()
        else np.zeros(0)
    )


def _bands(numbers: np.ndarray, cuts: np.ndarray, column: str, positives: bool) -> Grouping:
    # Only the names are rounded; the borders themselves are exact.
    between = [f"{a:g} to {b:g}" for a, b in pairwise(np.round(cuts, 2))]
    order = (
        (f"under {round(cuts[0], 2):g}", *between, f"{round(cuts[-1], 2):g} and over")
        if len(cuts)
        else ("all",)
    )
    # side="right" puts a value on a border into the band above. NaN
    # counts as 0 here; its name is emptied below.
    names = np.array(order)[np.searchsorted(cuts, np.nan_to_num(numbers), side="right")]
    return Grouping(column, np.where(np.isnan(numbers), "", names), order, positives)
