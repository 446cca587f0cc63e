"""Lines of a cohort file: a header and cells, and columns as numbers. Axis: N women."""

import csv
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mmv_jax.errors import UserError
from mmv_jax.manifests.csv_dialect import as_shown, encoding_of, separator_of, visible
from mmv_jax.missing import is_missing

REQUIRED = ("patient_id", "time_years", "event", "area_mm2", "age")
ENTRY, INDEX = "entry_years", "index_date"
COLUMNS = (*REQUIRED, ENTRY, INDEX)
# "045Y" is an age in DICOM, "45 years" one in a table.
AGE = re.compile(r"(\d{1,3}) ?(?:y|yrs?|years?|j|jahre)", re.IGNORECASE)


def read_table(
    path: Path, known: Collection[str] = COLUMNS
) -> tuple[list[str], Int[np.ndarray, "N"], list[list[str]]]:
    """Header, line numbers and cells of a cohort file, in any encoding of Unicode.

    Args:
      known: our column names, by which the separator is found. Capitals do not matter for them.
    Raises:
      UserError: no such file, not UTF-8, not CSV, or no lines.
    """
    if not path.is_file():
        raise UserError(
            f"{path.name}: there is no such cohort file. Give a CSV with {', '.join(REQUIRED)}."
        )
    try:
        with open(path, newline="", encoding=encoding_of(path)) as file:
            begin, separator = separator_of(file, known)
            reader = csv.reader(file, delimiter=separator, strict=True)
            header = [visible(name) for name in next(reader, [])]
            numbered = [
                # line_num rather than a count: a quoted cell may hold line breaks.
                (begin + reader.line_num, [as_shown(cell.strip()) for cell in row])
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
    lines = np.array([line for line, _ in numbered], int)
    return _in_our_case(header, known), lines, [row for _, row in numbered]


def _in_our_case(header: list[str], known: Collection[str]) -> list[str]:
    """Column names; one that is ours but for capitals and spaces is spelled as ours."""
    ours = {name.casefold(): name for name in known}
    spelled = [ours.get("_".join(name.casefold().split()), name) for name in header]
    # A table may have both `Age` and `age`; only the second is ours.
    return [old if new in header else new for old, new in zip(header, spelled)]


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


def ages_of(cells: Sequence[str]) -> Float[np.ndarray, "N"]:
    """Ages in years, also of `045Y`; NaN if a cell is missing or is no age."""
    return numbers_of([AGE.sub(r"\1", cell) if AGE.fullmatch(cell) else cell for cell in cells])


def at_lines(lines: Sequence[int] | np.ndarray) -> str:
    """Lines as the start of a sentence: 'line 4 has' or 'lines 4, 9, 12 and 3 more have'."""
    shown = ", ".join(str(line) for line in lines[:5])
    more = f" and {len(lines) - 5:,} more" if len(lines) > 5 else ""
    return f"line {shown} has" if len(lines) == 1 else f"lines {shown}{more} have"
