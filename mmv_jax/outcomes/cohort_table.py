"""Lines of a cohort file: a header and cells, and columns as numbers. Axis: N women."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mmv_jax.errors import UserError
from mmv_jax.missing import is_missing, missing_codes

REQUIRED = ("patient_id", "time_years", "event", "area_mm2", "age")
# A level of a text covariate appears in tables; fewer women than this could be identified by it.
FEWEST_OF_A_LEVEL = 5
MOST_LEVELS = 10


def read_table(path: Path) -> tuple[list[str], Int[np.ndarray, "N"], list[list[str]]]:
    """Header, line numbers and cells of a cohort file.

    Raises:
      UserError: no such file, not UTF-8, not CSV, or no lines.
    """
    if not path.is_file():
        raise UserError(
            f"{path.name}: there is no such cohort file. Give a CSV with {', '.join(REQUIRED)}."
        )
    try:
        # utf-8-sig drops the byte order mark of Excel, which would become part of the first name.
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            numbered = [
                # line_num rather than a count: a quoted cell may hold line breaks.
                (reader.line_num, [cell.strip() for cell in row])
                for row in reader
                if any(cell.strip() for cell in row)
            ]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path.name}: the file is not UTF-8 text. Save it as CSV UTF-8."
        ) from error
    except csv.Error as error:
        raise UserError(
            f"{path.name}, line {reader.line_num}: this is not a CSV line ({error}). Quote cells"
            " that hold commas or quotes."
        ) from error
    ragged = [line for line, row in numbered if len(row) != len(header)]
    if ragged:
        raise UserError(
            f"{path.name}: {at_lines(ragged)} not as many cells as the header has names"
            f" ({len(header)}). Quote cells that hold a comma, and write decimals with a point."
        )
    if header and not numbered:
        raise UserError(f"{path.name}: the file has a header and no lines below it.")
    return header, np.array([line for line, _ in numbered], int), [row for _, row in numbered]


def check_header(name: str, header: list[str], covariates: Sequence[str], measured: bool) -> None:
    """Check the column names of a cohort file, and the names in `adjust`.

    Args:
      measured: whether areas come from images, so that `area_mm2` is not needed.
    Raises:
      UserError: a missing, repeated or reserved name.
    """
    required = [column for column in REQUIRED if not (measured and column == "area_mm2")]
    lacking = [column for column in required if column not in header]
    if lacking:
        hint = (
            " The cells seem to be separated by semicolons; use commas."
            if len(header) == 1 and ";" in header[0]
            else ""
        )
        raise UserError(
            f"{name}, line 1: the header has no {', '.join(lacking)}. A cohort has the columns"
            f" {', '.join(required)}.{hint}"
        )
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise UserError(
            f"{name}, line 1: {len(twice)} column name(s) appear in the header more than once. Keep"
            " one column of each name."
        )
    reserved = [column for column in covariates if column in REQUIRED and column != "age"]
    if reserved:
        raise UserError(
            f"adjust names {', '.join(reserved)}, which is no covariate: the area, the time and the"
            " event are what is analysed."
        )
    repeated = sorted({column for column in covariates if list(covariates).count(column) > 1})
    if repeated:
        raise UserError(f"adjust names {', '.join(repeated)} twice. Name each covariate once.")
    unknown = [column for column in covariates if column not in header]
    if unknown:
        others = [column for column in header if column not in REQUIRED]
        raise UserError(
            f"{name}, line 1: there is no column {', '.join(unknown)}, which adjust names. The"
            f" covariates are: age, {', '.join(others)}."
        )


def numbers_of(cells: Sequence[str]) -> Float[np.ndarray, "N"]:
    """Cells as numbers; NaN if a cell is missing or is not a number.

    `missing_of` distinguishes the two.
    """
    return pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(float)


def missing_of(cells: Sequence[str]) -> np.ndarray:
    """Mask of the missing cells."""
    return np.array([is_missing(cell) for cell in cells], bool)


def without_codes(
    name: str, numbers: Float[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N"], list[str]]:
    """Column with NaN for codes such as 9, which mean "not known" beside 0 and 1; notes."""
    codes = missing_codes(numbers.tolist())
    if not codes:
        return numbers, []
    unknown = np.isin(numbers, sorted(codes))
    said = ", ".join(f"{code:g}" for code in sorted(codes))
    note = (
        f"{name}: {unknown.sum():,} cells are {said}, which means not known in a column of 0 and 1;"
        " they count as missing."
    )
    return np.where(unknown, np.nan, numbers), [note]


def covariate_columns(
    name: str, cells: Sequence[str], lines: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Column as numbers, or as one 0/1 column for each level; notes; complaints."""
    missing, numbers = missing_of(cells), numbers_of(cells)
    wrong = ~missing & ~np.isfinite(numbers)
    if missing.all():
        return {}, [], [f"the covariate {name} is empty. Take it out of adjust."]
    if not wrong.any():
        numbers, notes = without_codes(name, numbers)
        return {name: numbers}, notes, []
    if np.any(~missing & ~wrong):
        return (
            {},
            [],
            [
                f"{at_lines(lines[wrong])} a {name} that is not a number, while other lines have"
                " numbers. Correct them, or leave the cells empty."
            ],
        )
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
        return (
            {},
            [],
            [
                f"the covariate {name} is text with {len(levels)} levels, the rarest in"
                f" {levels.min()} line(s). Group it into {rule}."
            ],
        )
    texts = np.array(cells, object)
    found = {
        f"{name}={level}": np.where(missing, np.nan, texts == level).astype(float)
        # The first, the most common, is the reference and has no column.
        for level in sorted(levels.index[1:])
    }
    if not found:
        return {}, [], [f"the covariate {name} is the same on every line. Take it out of adjust."]
    return (
        found,
        [
            f"{name} is text: its {len(levels)} levels are compared with the most common,"
            f" {levels.index[0]}."
        ],
        [],
    )


def at_lines(lines: Sequence[int] | np.ndarray) -> str:
    """Lines as the start of a sentence: 'line 4 has' or 'lines 4, 9, 12 and 3 more have'."""
    shown = ", ".join(str(line) for line in lines[:5])
    more = f" and {len(lines) - 5:,} more" if len(lines) > 5 else ""
    return f"line {shown} has" if len(lines) == 1 else f"lines {shown}{more} have"
