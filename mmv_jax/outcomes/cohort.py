"""Cohort table, checked line by line; whatever is left out is reported. Axis: N women.

A cohort is a CSV with `patient_id, time_years, event, area_mm2, age` and any covariates. `event` is
0 (censored), 1 (the outcome) or 2 (death from another cause, which competes with the outcome). The
optional column `entry_years` says when a woman came under observation (left truncation), in years
from the mammogram like `time_years`. Who has no area, no age or no follow-up is left out and
counted, and so are men (`sex`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.errors import UserError
from mmv_jax.missing import is_missing, missing_codes
from mmv_jax.outcomes.cohort_checks import (
    check_age_and_area,
    check_dates,
    check_entry,
    check_follow_up,
    check_ids,
)
from mmv_jax.outcomes.cohort_remarks import remarks
from mmv_jax.outcomes.cohort_table import (
    COLUMNS,
    ENTRY,
    INDEX,
    REQUIRED,
    ages_of,
    check_header,
    missing_of,
    numbers_of,
    read_table,
)
from mmv_jax.outcomes.covariate_cells import covariate_columns, known_where_given
from mmv_jax.readers.odd_labels import COLUMNS as ABOUT
from mmv_jax.readers.odd_labels import FEMALE, MALE

SEVERITIES = ("zero", "mild", "moderate", "severe")
NO_VIEW = "no mammogram that counts"
# An area of -9 or 999 means "not known"; one of 99 mm² may be measured.
CODED_AREA = 900.0
THRESHOLDS_MM2 = (0.0, 10.0, 25.0)  # zero: 0, mild: up to 10, moderate: up to 25, severe: more


@dataclass(frozen=True)
class Left:
    """Women of a cohort file who are not analysed, for one reason.

    Attributes:
      outcomes: how many of them had the outcome.
      by_column: how many lack each covariate; one woman may lack several.
    """

    why: str
    women: int
    outcomes: int
    by_column: Mapping[str, int] = field(default_factory=dict)


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
      covariates: further columns as numbers, by name; NaN where a cell is empty. A text column has
        become one 0/1 column for each level but the most common, named `column=level`.
      notes: for the reader of a report: women left out, reference levels.
      entry_years: when a woman came under observation; None if all did at the mammogram.
      left: women of the file who were left out, by reason.
    """

    name: str
    line: Int[np.ndarray, "N"]
    time_years: Float[np.ndarray, "N"]
    event: Int[np.ndarray, "N"]
    area_mm2: Float[np.ndarray, "N"]
    age: Float[np.ndarray, "N"]
    covariates: Mapping[str, Float[np.ndarray, "N"]]
    notes: tuple[str, ...] = ()
    entry_years: Float[np.ndarray, "N"] | None = None
    left: tuple[Left, ...] = ()

    def __len__(self) -> int:
        return len(self.time_years)

    def where(self, keep: np.ndarray) -> "Cohort":
        """Women for whom the boolean array `keep` is true."""
        columns = {
            name: getattr(self, name)[keep]
            for name in ("line", "time_years", "event", "area_mm2", "age")
        }
        return replace(
            self,
            covariates={name: values[keep] for name, values in self.covariates.items()},
            entry_years=None if self.entry_years is None else self.entry_years[keep],
            **columns,
        )

    def column(self, name: str) -> Float[np.ndarray, "N"]:
        """Column of age or of a covariate."""
        return self.age if name == "age" else self.covariates[name]

    def names_of(self, adjust: Sequence[str]) -> tuple[str, ...]:
        """Numeric columns for the names in `adjust`.

        A text column has become one column for each level.
        """
        known = ("age", *self.covariates)
        return tuple(
            name
            for asked in adjust
            for name in known
            if name == asked or name.startswith(f"{asked}=")
        )

    def told(self, *notes: str) -> "Cohort":
        """The cohort with further notes."""
        return replace(self, notes=self.notes + notes)

    def without(self, *left: Left) -> "Cohort":
        """The cohort with a record of further women who were left out of it."""
        return replace(self, left=self.left + left)


def severity(
    area_mm2: Float[np.ndarray, "N"], thresholds: Sequence[float | int] = THRESHOLDS_MM2
) -> Int[np.ndarray, "N"]:
    """Severity: 0 zero, 1 mild, 2 moderate, 3 severe; an area at a threshold has the milder one.

    Args:
      thresholds: mm², three rising areas.
    Raises:
      UserError: invalid thresholds.

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
    """Names of a list such as `age,sbp`.

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
    """Read a cohort CSV and refuse impossible values.

    Args:
      covariates: further columns to read; a missing one is an error.
      also: columns to read if the file has them, such as the inputs of a published score.
      areas: calcified area in mm² by patient id, as measured on the images; it replaces the column
        `area_mm2`. NaN if none of her mammograms counts: she is left out and counted.
    Raises:
      UserError: lists every kind of mistake with its lines and what to do, but no cell content.
    """
    path = Path(path)
    table = read_table(path, (*COLUMNS, *also, *covariates))
    return cohort_of(path.name, table, covariates=covariates, also=also, areas=areas)


def cohort_of(
    name: str,
    table: tuple[list[str], Int[np.ndarray, "N"], list[list[str]]],
    *,
    covariates: Sequence[str] = (),
    also: Sequence[str] = (),
    areas: Mapping[str, float] | None = None,
) -> Cohort:
    """As `read_cohort`, of a table that was read: its header, the line of each row, and cells.

    Args:
      name: of the file, for messages.
    """
    check_header(name, table[0], covariates, areas is not None)
    (header, lines, rows), left, sexes = _known(name, table, areas)
    columns = {column: [row[i] for row in rows] for i, column in enumerate(header)}
    ids = columns["patient_id"]
    values = {each: numbers_of(columns[each]) for each in ("time_years", "event")}
    values["age"] = ages_of(columns["age"])
    values["area_mm2"] = (
        numbers_of(columns["area_mm2"])
        if areas is None
        # an unknown id is reported below
        else np.array([areas.get(each, 0.0) for each in ids])
    )
    late = ENTRY in header
    values[ENTRY] = numbers_of(columns[ENTRY]) if late else np.zeros(len(lines))
    complaints = [
        *check_ids(ids, lines, areas),
        *check_follow_up(columns, values, lines),
        *check_age_and_area(values, lines),
        *check_dates(columns, values["time_years"], lines),
        *(check_entry(columns[ENTRY], values, lines) if late else ()),
    ]
    extra, notes, wrong = _covariates(columns, covariates, also, lines)
    read = {*REQUIRED, ENTRY, INDEX, *covariates, *also, *sexes}
    unread = [each for each in header if each not in read]
    # All complaints together, so that the user corrects the file once.
    if complaints := [*complaints, *wrong]:
        raise UserError("\n".join(f"{name}: {complaint}" for complaint in complaints))
    cohort = Cohort(
        name=name,
        line=lines,
        time_years=values["time_years"],
        event=values["event"].astype(int),
        area_mm2=values["area_mm2"],
        age=values["age"],
        covariates=extra,
        notes=tuple(notes),
        # Zeros only do not mean delayed entry, which would exclude Gray's test and all predictions.
        entry_years=values[ENTRY] if values[ENTRY].any() else None,
    )
    left_out = [_told(each, len(table[2])) for each in left]
    found = remarks(values, ids, lines, areas=areas, unread=unread)
    return cohort.without(*left).told(*left_out, *found)


def _told(left: Left, lines: int) -> str:
    if left.why == NO_VIEW:
        return (
            f"{left.women:,} of {lines:,} women have mammograms of which none counts (not on"
            " the index date, without order, special views, or no pixel spacing): their area is not"
            " known and they are left out."
        )
    return f"{left.women:,} of {lines:,} lines have {left.why} and are left out."


def _known(
    name: str,
    table: tuple[list[str], np.ndarray, list[list[str]]],
    areas: Mapping[str, float] | None,
) -> tuple[tuple[list[str], np.ndarray, list[list[str]]], list[Left], list[str]]:
    """The table without those who cannot be analysed; these, by reason; columns of sex."""
    header, lines, rows = table
    columns = {column: [row[i] for row in rows] for i, column in enumerate(header)}
    event, no_event = numbers_of(columns["event"]), missing_of(columns["event"])
    if areas is None:
        area = numbers_of(columns["area_mm2"])
        codes = [code for code in missing_codes(area.tolist()) if code < 0 or code > CODED_AREA]
        no_area = ("no area_mm2", missing_of(columns["area_mm2"]) | np.isin(area, codes))
    else:
        no_area = (NO_VIEW, np.isnan([areas.get(each, 0.0) for each in columns["patient_id"]]))
    # An event without a time is a contradiction, and is refused.
    no_time = missing_of(columns["time_years"]) & (no_event | (event == 0))
    sexes, men = _men(columns)
    left, lost = [], np.zeros(len(rows), bool)
    reasons = [no_area, ("no age", missing_of(columns["age"])), ("no follow-up", no_time), men]
    for why, theirs in reasons:
        # Each is counted once, for the first of her reasons.
        if new := int((theirs & ~lost).sum()):
            left.append(Left(why, new, int((event[theirs & ~lost] == 1).sum())))
        lost |= theirs
    if lost.all() and len(rows):
        whys = "; ".join(f"{each.women:,} with {each.why}" for each in left)
        raise UserError(f"{name}: nobody can be analysed: {whys}.")
    known = [row for row, gone in zip(rows, lost.tolist()) if not gone]
    return (header, lines[~lost], known), left, sexes


def _men(
    columns: Mapping[str, Sequence[str]],
) -> tuple[list[str], tuple[str, np.ndarray]]:
    """Columns of sex whose words are known, and the reason and mask of men."""
    men, found = np.zeros(len(columns["event"]), bool), []
    for name, cells in columns.items():
        words = [cell.casefold() for cell in cells]
        known = [word in MALE | FEMALE or is_missing(word) for word in words]
        if name.casefold() in ABOUT["sex"] and all(known):
            found.append(name)
            men |= np.array([word in MALE for word in words], bool)
    return found, ("the sex of a man", men)


def _covariates(
    columns: Mapping[str, Sequence[str]],
    names: Sequence[str],
    also: Sequence[str],
    lines: np.ndarray,
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Covariates and inputs of scores as numbers; notes; complaints."""
    extra: dict[str, np.ndarray] = {}
    notes: list[str] = []
    complaints: list[str] = []
    for name in names:
        if name not in REQUIRED:
            found, said, wrong = covariate_columns(name, columns[name], lines)
            extra.update(found)
            notes += said
            complaints += wrong
    for name in also:
        if name in columns and name not in (*names, *REQUIRED):
            extra[name], said = known_where_given(name, columns[name], lines)
            notes += said
    return extra, notes, complaints


def complete_cases(cohort: Cohort, names: Sequence[str]) -> Cohort:
    """Women with every covariate of `names`; a note says how many were left out, and why.

    Raises:
      UserError: no woman has all covariates.
    """
    absent = {name: np.isnan(cohort.column(name)) for name in names}
    keep = ~np.any(list(absent.values()), axis=0) if absent else np.ones(len(cohort), bool)
    if keep.all():
        return cohort
    if not keep.any():
        raise UserError(
            f"{cohort.name}: no woman has all of {', '.join(names)}. Adjust for fewer covariates."
        )
    events = int(np.sum(cohort.event[~keep] == 1))
    lacking = {name: int(missing.sum()) for name, missing in absent.items() if missing.any()}
    each = ", ".join(f"{name} {count:,}" for name, count in lacking.items())
    left = Left("a covariate is missing", int((~keep).sum()), events, lacking)
    return (
        cohort.where(keep)
        .without(left)
        .told(
            f"{(~keep).sum():,} of {len(cohort):,} women ({100 * (~keep).mean():.1f} %), with"
            f" {events:,} of the outcomes, lack a covariate ({each}) and are left out of every"
            " model: complete cases only."
        )
    )


def check_covariates(cohort: Cohort, names: Sequence[str]) -> None:
    """Refuse covariates that are constant, collinear, or without an outcome on one side.

    Raises:
      UserError: such a covariate.
    """
    for name in names:
        values = cohort.column(name)
        levels = np.unique(values)
        if len(levels) == 1:
            raise UserError(
                f"{cohort.name}: the covariate {name} is the same for all {len(cohort):,} women."
                " Take it out of adjust."
            )
        if np.ptp(cohort.area_mm2) and abs(np.corrcoef(values, cohort.area_mm2)[0, 1]) > 1 - 1e-9:
            raise UserError(
                f"{cohort.name}: the covariate {name} is the calcified area in another unit. Take"
                " it out of adjust."
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
    # No standard deviation is 0 here: constants are refused above.
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    for i, name in enumerate(names):
        # Standardised columns have length √N, so the tolerance is 1e-6 of a column.
        if i and np.linalg.matrix_rank(x[:, : i + 1], tol=1e-6 * np.sqrt(len(x))) <= i:
            raise UserError(
                f"{cohort.name}: the covariate {name} follows from the ones before it"
                f" ({', '.join(names[:i])}). Take it out of adjust."
            )
