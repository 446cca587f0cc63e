"""The cohort table: read, checked line by line, and nothing dropped in silence. Axis: N women.

A cohort is a CSV with `patient_id, time_years, event, area_mm2, age` and any covariates. `event` is
0 (censored), 1 (the outcome) or 2 (death from another cause, which competes with the outcome).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mmv_jax.errors import UserError

SEVERITIES = ("zero", "mild", "moderate", "severe")
THRESHOLDS_MM2 = (0.0, 10.0, 25.0)  # zero: 0, mild: up to 10, moderate: up to 25, severe: more
REQUIRED = ("patient_id", "time_years", "event", "area_mm2", "age")
MISSING = {"", "na", "n/a", "nan", "null", "none", ".", "missing"}
# a level of a text covariate appears in tables; fewer women than this could be recognised by it
FEWEST_OF_A_LEVEL = 5
MOST_LEVELS = 10
LONGEST_YEARS = 80.0
AGES = (18.0, 110.0)


@dataclass(frozen=True)
class Cohort:
    """Checked columns of a cohort.

    Attributes:
      name: of the file, for messages.
      line: the line of the file (the header is line 1).
      time_years: from the mammogram to the event or to the end of follow-up.
      event: 0 censored, 1 outcome, 2 competing death.
      area_mm2: calcified area of the woman.
      age: years at the mammogram.
      covariates: further columns as numbers, by name; NaN where the file has none. A text column
        has become one 0/1 column a level but the commonest, named `column=level`.
      notes: what a reader must be told: women left out, levels chosen as reference.
    """

    name: str
    line: Int[np.ndarray, "N"]
    time_years: Float[np.ndarray, "N"]
    event: Int[np.ndarray, "N"]
    area_mm2: Float[np.ndarray, "N"]
    age: Float[np.ndarray, "N"]
    covariates: Mapping[str, Float[np.ndarray, "N"]]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.time_years)

    def where(self, keep: np.ndarray) -> "Cohort":
        """The women for whom the boolean array `keep` is true."""
        columns = {
            name: getattr(self, name)[keep]
            for name in ("line", "time_years", "event", "area_mm2", "age")
        }
        return replace(
            self,
            covariates={name: values[keep] for name, values in self.covariates.items()},
            **columns,
        )

    def column(self, name: str) -> Float[np.ndarray, "N"]:
        return self.age if name == "age" else self.covariates[name]

    def names_of(self, adjust: Sequence[str]) -> tuple[str, ...]:
        """The numeric columns that the names in `adjust` stand for: a text column has become one a
        level.
        """
        known = ("age", *self.covariates)
        return tuple(
            name
            for asked in adjust
            for name in known
            if name == asked or name.startswith(f"{asked}=")
        )

    def told(self, *notes: str) -> "Cohort":
        return replace(self, notes=self.notes + notes)


def severity(
    area_mm2: Float[np.ndarray, "N"], thresholds: Sequence[float | int] = THRESHOLDS_MM2
) -> Int[np.ndarray, "N"]:
    """0 zero, 1 mild, 2 moderate, 3 severe: a threshold belongs to the milder side.

    Example:
      >>> severity(np.array([0.0, 0.1, 10.0, 10.1, 25.0, 25.1])).tolist()
      [0, 1, 1, 2, 2, 3]
    """
    edges = np.asarray(thresholds, float)
    if edges.shape != (3,) or edges[0] < 0 or np.any(np.diff(edges) <= 0):
        raise UserError(
            f"thresholds are {edges.tolist()} mm², but must be three rising areas from 0 up, such"
            " as 0, 10, 25."
        )
    return np.searchsorted(edges, area_mm2, side="left")


def split_names(text: str) -> tuple[str, ...]:
    """The names of a list such as `age,sbp`.

    Example:
      >>> split_names("age, sbp,")
      ('age', 'sbp')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def read_cohort(
    path: str | Path,
    *,
    covariates: Sequence[str] = (),
    also: Sequence[str] = (),
    areas: Mapping[str, float] | None = None,
) -> Cohort:
    """Reads a cohort CSV and refuses what cannot be true.

    Args:
      covariates: the further columns to read; one that the file lacks is an error.
      also: columns to read where the file has them, such as the inputs of a published score.
      areas: calcified area in mm² by patient id, as measured on the images; it then stands for the
        column `area_mm2`.
    Raises:
      UserError: every kind of mistake that was found, each with the lines where it is and what to
        do, and no cell's content.
    """
    path = Path(path)
    header, lines, rows = _read_table(path)
    _check_header(path.name, header, covariates, areas is not None)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    complaints: list[str] = []
    values = {name: _numbers(columns[name]) for name in ("time_years", "event", "age")}
    ids = columns["patient_id"]
    complaints += _check_ids(ids, lines, areas)
    if areas is None:
        values["area_mm2"] = _numbers(columns["area_mm2"])
    else:
        # an unknown id has been complained of
        values["area_mm2"] = np.array([areas.get(name, 0.0) for name in ids])
    complaints += _check_follow_up(columns, values, lines)
    complaints += _check_age_and_area(values, lines)
    extra, notes = {}, []
    for name in covariates:
        if name not in REQUIRED:
            found, remarks, wrong = _covariate(name, columns[name], lines)
            extra.update(found)
            notes += remarks
            complaints += wrong
    for name in [name for name in also if name in header and name not in (*covariates, *REQUIRED)]:
        numbers = _numbers(columns[name])
        extra[name] = np.where(np.isfinite(numbers), numbers, np.nan)
        if unread := int(np.sum(np.isnan(extra[name]) & ~_is_missing(columns[name]))):
            notes.append(
                f"{name}: {unread:,} cells are not numbers and count as missing for the published"
                " risks. Write 0 and 1 for no and yes."
            )
    if complaints:
        raise UserError("\n".join(f"{path.name}: {complaint}" for complaint in complaints))
    cohort = Cohort(
        path.name,
        lines,
        values["time_years"],
        values["event"].astype(int),
        values["area_mm2"],
        values["age"],
        extra,
        tuple(notes),
    )
    return cohort.told(*_remarks(cohort, ids, areas))


def complete_cases(cohort: Cohort, names: Sequence[str]) -> Cohort:
    """The women with every covariate of `names`; says how many were left out, and for want of
    which.
    """
    absent = {name: np.isnan(cohort.column(name)) for name in names}
    keep = ~np.any(list(absent.values()), axis=0) if absent else np.ones(len(cohort), bool)
    if keep.all():
        return cohort
    if not keep.any():
        raise UserError(
            f"{cohort.name}: no woman has all of {', '.join(names)}. Adjust for fewer covariates."
        )
    each = ", ".join(
        f"{name} {missing.sum():,}" for name, missing in absent.items() if missing.any()
    )
    events = int(np.sum(cohort.event[~keep] == 1))
    return cohort.where(keep).told(
        f"{(~keep).sum():,} of {len(cohort):,} women ({100 * (~keep).mean():.1f} %), with"
        f" {events:,} of the outcomes, lack a covariate ({each}) and are left out of every model:"
        " complete cases only."
    )


def check_covariates(cohort: Cohort, names: Sequence[str]) -> None:
    """Refuses covariates from which no model can be made: constant, copies of each other, or with
    no outcome on one side.
    """
    for name in names:
        values = cohort.column(name)
        levels = np.unique(values)
        if len(levels) == 1:
            raise UserError(
                f"{cohort.name}: the covariate {name} is the same for all {len(cohort):,} women."
                " Take it out of adjust."
            )
        if len(levels) == 2 and any(
            not np.any(cohort.event[values == level] == 1) for level in levels
        ):
            raise UserError(
                f"{cohort.name}: no outcome happened on one side of the covariate {name}, so its"
                " hazard ratio is not finite. Take it out of adjust."
            )
    x = (
        np.stack([cohort.column(name) for name in names], axis=1)
        if names
        else np.zeros((len(cohort), 0))
    )
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    for i, name in enumerate(names):
        if i and np.linalg.matrix_rank(x[:, : i + 1], tol=1e-6 * np.sqrt(len(x))) <= i:
            raise UserError(
                f"{cohort.name}: the covariate {name} follows from the ones before it"
                f" ({', '.join(names[:i])}). Take it out of adjust."
            )


def _read_table(path: Path) -> tuple[list[str], Int[np.ndarray, "N"], list[list[str]]]:
    if not path.is_file():
        raise UserError(
            f"{path.name}: there is no such cohort file. Give a CSV with {', '.join(REQUIRED)}."
        )
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            numbered = [
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
            f"{path.name}: {_at(ragged)} not as many cells as the header has names ({len(header)})."
            " Quote cells that hold a comma, and write decimals with a point."
        )
    if header and not numbered:
        raise UserError(f"{path.name}: the file has a header and no lines below it.")
    return header, np.array([line for line, _ in numbered], int), [row for _, row in numbered]


def _check_header(name: str, header: list[str], covariates: Sequence[str], measured: bool) -> None:
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
            f"{name}, line 1: {len(twice)} column name(s) stand in the header more than once. Keep"
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


def _numbers(cells: Sequence[str]) -> Float[np.ndarray, "N"]:
    """NaN both where a cell is missing and where it is no number; `_is_missing` tells them
    apart.
    """
    return pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(float)


def _is_missing(cells: Sequence[str]) -> np.ndarray:
    return np.array([cell.lower() in MISSING for cell in cells], bool)


def _check_ids(
    ids: Sequence[str], lines: np.ndarray, areas: Mapping[str, float] | None
) -> list[str]:
    complaints = []
    absent = _is_missing(ids)
    if absent.any():
        complaints.append(
            f"{_at(lines[absent])} no patient_id. Give every woman an id, or remove the line."
        )
    duplicated = pd.Series(ids).duplicated(keep=False).to_numpy() & ~absent
    if duplicated.any():
        complaints.append(
            f"{_at(lines[duplicated])} a patient_id that another line has too. A woman has one"
            " line; merge or remove the others."
        )
    unknown = (
        np.array([name not in areas for name in ids], bool) & ~absent
        if areas is not None
        else np.zeros(len(ids), bool)
    )
    if unknown.any():
        complaints.append(
            f"{_at(lines[unknown])} a patient_id that no mammogram has. Correct the id, add the"
            " mammograms, or remove the line."
        )
    return complaints


def _check_follow_up(
    columns: Mapping[str, Sequence[str]], values: Mapping[str, np.ndarray], lines: np.ndarray
) -> list[str]:
    time, event = values["time_years"], values["event"]
    no_time, no_event = _is_missing(columns["time_years"]), _is_missing(columns["event"])
    code = np.isin(event, (0, 1, 2))
    happened = code & (event > 0)
    rules = (
        (
            no_time & happened,
            "an event without a time. Give time_years, the years from the mammogram to the event.",
        ),
        (no_time & ~happened, "no time_years. Give the years of follow-up, or remove the line."),
        (
            ~no_time & ~np.isfinite(time),
            "a time_years that is not a number. Write years with a decimal point.",
        ),
        (
            time < 0,
            (
                "a negative time_years. Events before the mammogram are history, not outcomes:"
                " correct the time or remove the line."
            ),
        ),
        (
            np.isfinite(time) & (time > LONGEST_YEARS),
            (
                f"a time_years above {LONGEST_YEARS:.0f}. If these are days or months, divide them"
                " into years."
            ),
        ),
        (no_event, "no event. Write 0 (censored), 1 (outcome) or 2 (competing death)."),
        (
            ~no_event & ~code,
            (
                "an event code other than 0 (censored), 1 (outcome) and 2 (competing death)."
                " Recode it."
            ),
        ),
    )
    complaints = [f"{_at(lines[wrong])} {what}" for wrong, what in rules if wrong.any()]
    if not complaints and not np.any(event == 1):
        complaints.append("no line has event 1, so there is no outcome to analyse.")
    return complaints


def _check_age_and_area(values: Mapping[str, np.ndarray], lines: np.ndarray) -> list[str]:
    age, area = values["age"], values["area_mm2"]
    rules = (
        (
            ~((age >= AGES[0]) & (age <= AGES[1])),
            f"no age between {AGES[0]:.0f} and {AGES[1]:.0f} years. Give the age at the mammogram.",
        ),
        (
            ~np.isfinite(area),
            (
                "no area_mm2, or one that is not a number. Give mm² with a decimal point, and 0"
                " where there is no calcification."
            ),
        ),
        (area < 0, "a negative area_mm2. An area is 0 or more."),
    )
    return [f"{_at(lines[wrong])} {what}" for wrong, what in rules if wrong.any()]


def _covariate(
    name: str, cells: Sequence[str], lines: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """The column as numbers, or as one 0/1 column a level; notes; complaints."""
    missing, numbers = _is_missing(cells), _numbers(cells)
    wrong = ~missing & ~np.isfinite(numbers)
    if missing.all():
        return {}, [], [f"the covariate {name} is empty. Take it out of adjust."]
    if not wrong.any():
        return {name: numbers}, [], []
    if np.any(~missing & ~wrong):
        return (
            {},
            [],
            [
                f"{_at(lines[wrong])} a {name} that is not a number, while other lines have"
                " numbers. Correct them, or leave the cells empty."
            ],
        )
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
        for level in sorted(levels.index[1:])
    }
    if not found:
        return {}, [], [f"the covariate {name} is the same on every line. Take it out of adjust."]
    return (
        found,
        [
            f"{name} is text: its {len(levels)} levels are compared with the commonest,"
            f" {levels.index[0]}."
        ],
        [],
    )


def _remarks(cohort: Cohort, ids: Sequence[str], areas: Mapping[str, float] | None) -> list[str]:
    notes = []
    at_once = int(np.sum(cohort.time_years == 0))
    if at_once:
        notes.append(
            f"{at_once:,} women have a follow-up of 0 years: they are at risk at that instant only."
        )
    if areas is not None and (others := len(set(areas) - set(ids))):
        notes.append(
            f"{others:,} women with mammograms are not in the cohort file and are not analysed."
        )
    return notes


def _at(lines: Sequence[int] | np.ndarray) -> str:
    """Where: 'line 4 has' or 'lines 4, 9, 12 and 3 more have'."""
    shown = ", ".join(str(line) for line in lines[:5])
    more = f" and {len(lines) - 5:,} more" if len(lines) > 5 else ""
    return f"line {shown} has" if len(lines) == 1 else f"lines {shown}{more} have"
