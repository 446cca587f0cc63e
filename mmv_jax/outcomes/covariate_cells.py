"""Cells of a covariate as numbers: words for yes and no, codes for "not known", impossible values.

Axis: N women.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mmv_jax.missing import missing_codes
from mmv_jax.outcomes.cohort_table import at_lines, missing_of, numbers_of
from mmv_jax.outcomes.risk import OTHER_UNITS, RANGES, YES_OR_NO

YES = frozenset(("yes", "y", "true", "t", "ja", "j", "oui", "si", "sí"))
NO = frozenset(("no", "n", "false", "f", "nein", "non"))
# Share of the known cells of a number that may be text, such as ">90": they count as missing.
STRAY = 0.1
# What a living woman can have, in the units of `RANGES`, whose ranges are those of the scores.
POSSIBLE = {
    "total_cholesterol": (50.0, 1000.0),
    "hdl": (5.0, 250.0),
    "sbp": (50.0, 300.0),
    "bmi": (8.0, 100.0),
    "egfr": (1.0, 300.0),
}
# A level of a text covariate appears in tables; fewer women than this could be identified by it.
FEWEST_OF_A_LEVEL = 5
MOST_LEVELS = 10


def covariate_columns(
    name: str, cells: Sequence[str], lines: np.ndarray
) -> tuple[dict[str, Float[np.ndarray, "N"]], list[str], list[str]]:
    """Column as numbers, or as one 0/1 column for each level of a text; notes; complaints."""
    numbers, read, notes = _numbers(name, cells, lines)
    missing = missing_of(cells)
    if missing.all():
        return {}, [], [f"the covariate {name} is empty. Take it out of adjust."]
    stray = ~missing & ~read
    if stray.sum() <= STRAY * (~missing).sum():
        if stray.any():
            notes = [
                *notes,
                f"{at_lines(lines[stray])} a {name} that is not a number. They count as missing.",
            ]
        return {name: numbers}, notes, []
    if read.any():
        wrong = f"{at_lines(lines[stray])} a {name} that is not a number, while other lines have"
        return {}, [], [f"{wrong} numbers. Correct them, or leave the cells empty."]
    return _levels(name, cells, missing)


def known_where_given(
    name: str, cells: Sequence[str], lines: np.ndarray
) -> tuple[Float[np.ndarray, "N"], list[str]]:
    """Column outside the adjustment, NaN where a cell is not a number; notes about such cells."""
    numbers, read, notes = _numbers(name, cells, lines)
    if unread := int(np.sum(~read & ~missing_of(cells))):
        how = "0 and 1 for no and yes" if name in YES_OR_NO else "numbers with a decimal point"
        notes = [
            *notes,
            f"{name}: {unread:,} cells are not numbers and count as missing for the published"
            f" risks. Write {how}.",
        ]
    return numbers, notes


def _numbers(
    name: str, cells: Sequence[str], lines: np.ndarray
) -> tuple[Float[np.ndarray, "N"], Bool[np.ndarray, "N"], list[str]]:
    """Numbers, NaN where there is none or it cannot be; whether a cell is a number; notes."""
    numbers, notes = numbers_of(cells), list[str]()
    numbers[~np.isfinite(numbers)] = np.nan
    if name in YES_OR_NO:
        words = np.array([cell.casefold() for cell in cells], object)
        for meant, value in ((YES, 1.0), (NO, 0.0)):
            found = np.array([word in meant for word in words], bool)
            numbers[found] = value
            if found.any() and not notes:
                notes = [f"{name}: words for yes and no are read as 1 and 0."]
    read = np.isfinite(numbers)
    if codes := missing_codes(numbers.tolist()):
        unknown = np.isin(numbers, sorted(codes))
        numbers = np.where(unknown, np.nan, numbers)
        said = ", ".join(f"{code:g}" for code in sorted(codes))
        notes.append(
            f"{name}: {unknown.sum():,} cells are {said}, which means not known beside the other"
            " values; they count as missing."
        )
    if name in POSSIBLE and np.isfinite(numbers).any():
        numbers, more = _possible(name, numbers, lines)
        notes += more
    return numbers, read, notes


def _possible(
    name: str, numbers: Float[np.ndarray, "N"], lines: np.ndarray
) -> tuple[Float[np.ndarray, "N"], list[str]]:
    """Column with NaN for values that no living woman has in the column's unit; notes."""
    low, high, unit = RANGES[name]
    typical = float(np.nanmedian(numbers))
    # The unit of most cells: ours, or the other one that is in use.
    units = [(unit, 1.0), *([OTHER_UNITS[name]] if name in OTHER_UNITS else [])]
    fitting = [(said, factor) for said, factor in units if low <= typical * factor <= high]
    if not fitting:
        return numbers, [
            f"{name}: the middle of its cells is outside {low:g} to {high:g} {unit}. Check that the"
            " column and its unit are what the name says."
        ]
    said, factor = fitting[0]
    least, most = POSSIBLE[name]
    wrong = (numbers * factor < least) | (numbers * factor > most)
    if not wrong.any():
        return numbers, []
    note = f"{at_lines(lines[wrong])} a {name} that cannot be in {said}. They count as missing."
    for other, change in units:
        if other != said and low <= float(np.median(numbers[wrong])) * change <= high:
            note += f" They look like {other}."
    return np.where(wrong, np.nan, numbers), [note]


def _levels(
    name: str, cells: Sequence[str], missing: Bool[np.ndarray, "N"]
) -> tuple[dict[str, Float[np.ndarray, "N"]], list[str], list[str]]:
    """Text as one 0/1 column for each level; notes; complaints."""
    # Levels of equal frequency are sorted by name, so that the reference does not depend on the
    # order of lines.
    levels = (
        pd.Series(cells)[~missing]
        .value_counts()
        .sort_index()
        .sort_values(ascending=False, kind="stable")
    )
    if len(levels) > MOST_LEVELS or levels.min() < FEWEST_OF_A_LEVEL:
        rule = f"at most {MOST_LEVELS} levels with {FEWEST_OF_A_LEVEL} women each"
        rare = f"the rarest in {levels.min()} line(s)"
        said = f"the covariate {name} is text with {len(levels)} levels, {rare}. Group it into"
        return {}, [], [f"{said} {rule}, or write numbers with a decimal point."]
    texts = np.array(cells, object)
    found = {
        f"{name}={level}": np.where(missing, np.nan, texts == level).astype(float)
        # The first, the most common, is the reference and has no column.
        for level in sorted(levels.index[1:])
    }
    if not found:
        return {}, [], [f"the covariate {name} is the same on every line. Take it out of adjust."]
    compared = f"its {len(levels)} levels are compared with the most common, {levels.index[0]}."
    return found, [f"{name} is text: {compared}"], []
