"""Columns of a store's index, and the studies that have a value in them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mmv_jax.errors import UserError
from mmv_jax.store.spelled_twice import WHOLE_WORDS
from mmv_jax.store.third_values import codes_of_two

SHOWN = 6  # values of a column that a message lists
# Words that say yes: of two of them one must not count as no.
YES = frozenset(("1", "true", "yes", "y", "t", "positive", "pos", "present", "+", "ja", "oui"))
FEW = 0.05  # share of filled cells that may be wrong: their studies are left out, and told


def column(index: pd.DataFrame, name: str, asked_by: str) -> pd.Series:
    """A label column of the store by its name in the manifest, or a column of the index itself.

    Raises:
      UserError: there is no such column.
    """
    # A manifest's label has precedence over a column of the index with the same name.
    for known in (f"label_{name}", name):
        if known in index:
            return index[known]
    labels = sorted(c.removeprefix("label_") for c in map(str, index) if c.startswith("label_"))
    raise UserError(
        f"{asked_by}: the store has no column {name!r}. Its manifests gave:"
        f" {', '.join(labels) or 'no labels'}."
    )


def fits_where(index: pd.DataFrame, where: Mapping[str, Any] | None, asked_by: str) -> np.ndarray:
    """A mask of the studies that have the wanted values in all these columns."""
    fits = np.ones(len(index), bool)
    for key, wanted in (where or {}).items():
        fits &= equals(column(index, key, asked_by), wanted, f"{asked_by}.{key}")
    return fits


def have_mask(index: pd.DataFrame, mask: str) -> np.ndarray:
    """A mask of the studies that have this mask."""
    # Whole names are compared: "lung" must not be found in "lung_left".
    return np.array([mask in names.split(",") for names in index["masks"]], bool)


def is_empty(values: pd.Series) -> Bool[np.ndarray, " N"]:
    """A mask of the cells without a value."""
    return (values.isna() | (values.astype(str) == "")).to_numpy()


def unknown_of_two(values: pd.Series) -> Bool[np.ndarray, " N"]:
    """A mask of the cells that are empty, or a code such as -1 beside two classes: the ingest says
    that these count as not known.
    """
    empty = is_empty(values)
    cells = values[~empty].map(plain)
    codes = codes_of_two(cells.unique().tolist())
    empty[~empty] = cells.isin(codes).to_numpy()
    return empty


def plain(value: Any) -> str:
    """A value as the manifest had it."""
    # A column of whole numbers with empty cells is read as float: 1.0 must match "1".
    return f"{value:g}" if isinstance(value, float) else str(value)


def values_there(values: pd.Series) -> str:
    """The values of a column with their counts, the most frequent first, for a message."""
    counts = values[~is_empty(values)].value_counts()
    shown = [f"{plain(value)} ({count})" for value, count in counts.head(SHOWN).items()]
    return ", ".join(shown) + (", ..." if len(counts) > SHOWN else "")


def numbers_of(
    values: pd.Series, label: str, asked_by: str, *, otherwise: str = ""
) -> Float[np.ndarray, " N"]:
    """The numbers of a column; NaN where a cell is empty or, of few cells, no finite number.

    Args:
      otherwise: what else the user can do than correct a cell that is no number.
    Raises:
      UserError: more than a few filled cells are no finite numbers.
    """
    numbers = pd.to_numeric(values.replace("", np.nan), errors="coerce").to_numpy(np.float64)
    # An infinite value would make every mean and every fit infinite.
    filled = ~is_empty(values)
    if (bad := int((~np.isfinite(numbers) & filled).sum())) > FEW * filled.sum():
        raise UserError(
            f"{asked_by}: {bad} values of {label!r} are no finite numbers. Correct them in the"
            f" manifest{otherwise}."
        )
    return np.where(np.isfinite(numbers), numbers, np.nan)


def equals(values: pd.Series, wanted: Any, asked_by: str) -> np.ndarray:
    """A mask of the values that equal `wanted`, or one of a list.

    Numbers are compared as numbers and text as text, whatever the column's dtype.

    Raises:
      UserError: the store holds numbers there, and `wanted` is none.
    """
    options = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    try:
        like = [
            float(option) if pd.api.types.is_numeric_dtype(values) else str(option)
            for option in options
        ]
    except (TypeError, ValueError):
        raise UserError(
            f"{asked_by} is {wanted!r}, but the store holds numbers there. Give one of them."
        ) from None
    # na_value: in some dtypes a comparison with a missing value gives NA, which fits nothing.
    return np.logical_or.reduce(
        [(values == option).to_numpy(bool, na_value=False) for option in like]
    )


def refuse_spellings(negative: pd.Series, positive: Any, asked_by: str) -> None:
    """Refuse values that count as negative and say the same as a positive one in another way.

    Raises:
      UserError: there are some, such as "Yes" or 1 where "yes" is positive.
    """
    asked = positive if isinstance(positive, list | tuple) else [positive]
    folded = {_folded(plain(value)) for value in asked}
    if folded & YES:
        folded |= YES
    for word in WHOLE_WORDS:
        if folded & {word, word[0]}:
            folded |= {word, word[0]}
    cells = negative.map(plain)
    same = cells[cells.map(_folded).isin(folded)]
    if len(same):
        raise UserError(
            f"{asked_by}.positive is {positive!r}, and {len(same)} studies have"
            f" {same.iloc[0]!r}, which would count as negative. List all values that are positive."
        )


def _folded(cell: str) -> str:
    """A cell without capitals and further blanks; 1.0 is 1."""
    text = " ".join(cell.split()).casefold()
    return text.removesuffix(".0")
