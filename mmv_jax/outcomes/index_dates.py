"""Dates of the index examinations of a cohort file, from which time counts."""

from datetime import datetime
from pathlib import Path

from mmv_jax.errors import UserError
from mmv_jax.missing import is_missing
from mmv_jax.outcomes.cohort_table import INDEX, at_lines, read_table


def read_index_dates(path: str | Path) -> dict[str, str]:
    """Date (YYYYMMDD) of the index examination by patient id; time counts from it.

    The column is `index_date`, written 2019-05-31 or 20190531. Without it the result is empty.

    Raises:
      UserError: a cell is not a date.
    """
    path = Path(path)
    header, lines, rows = read_table(path)
    if INDEX not in header:
        return {}
    ids, cells = ([row[header.index(name)] for row in rows] for name in ("patient_id", INDEX))
    found, wrong = {}, []
    for name, cell, line in zip(ids, cells, lines.tolist()):
        if is_missing(cell):
            continue
        try:
            # fromisoformat reads both forms, with and without hyphens, and a time behind them.
            found[name] = datetime.fromisoformat(cell).strftime("%Y%m%d")
        except ValueError:
            wrong.append(line)
    if wrong:
        raise UserError(
            f"{path.name}: {at_lines(wrong)} an {INDEX} that is no date. Write 2019-05-31"
            " (a spreadsheet's number of days, and 5/31/2019, are not read)."
        )
    return found
