"""Several endpoints of one cohort file, each with its own competing risk. Axis: N women.

Such a file has `follow_up_years`, the end of a woman's observation, and for each component
`<component>_years`, empty where it did not happen while she was observed. From these every
endpoint's `time_years` and `event` are made: the first of its components is the outcome, and death
competes where it is no component.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.missing import is_missing
from mmv_jax.outcomes.cohort import Cohort, Left, cohort_of
from mmv_jax.outcomes.cohort_checks import LONGEST_YEARS
from mmv_jax.outcomes.cohort_table import COLUMNS as OURS
from mmv_jax.outcomes.cohort_table import ENTRY, at_lines, missing_of, numbers_of, read_table

FOLLOW_UP = "follow_up_years"
COMPONENTS = ("infarction", "stroke", "heart_failure", "coronary_death", "death")
# What each endpoint is made of. A component that a file may lack stands in OPTIONAL.
ENDPOINTS: Mapping[str, tuple[str, ...]] = {
    "mace": ("infarction", "stroke", "heart_failure", "death"),
    "mace_without_death": ("infarction", "stroke", "heart_failure"),
    "infarction": ("infarction",),
    "stroke": ("stroke",),
    "heart_failure": ("heart_failure",),
    "death": ("death",),
    "ascvd": ("infarction", "stroke", "coronary_death"),
    "cvd": ("infarction", "stroke", "coronary_death", "heart_failure"),
}
OPTIONAL = ("coronary_death",)
ALL = "all"


def column(component: str) -> str:
    return f"{component}_years"


COLUMNS = (FOLLOW_UP, *(column(name) for name in COMPONENTS))


def read_endpoints(
    path: str | Path,
    names: Sequence[str],
    *,
    covariates: Sequence[str] = (),
    also: Sequence[str] = (),
    areas: Mapping[str, float] | None = None,
) -> dict[str, Cohort]:
    """A cohort for each endpoint, all of the same women.

    Args:
      names: keys of `ENDPOINTS`, or "all": those that the file's columns allow.
      covariates, also, areas: as of `read_cohort`.
    Raises:
      UserError: an endpoint that is none or whose columns are missing, and all that `read_cohort`
        refuses; times that cannot be, by their lines.
    """
    path = Path(path)
    header, lines, rows = read_table(path, (*OURS, *COLUMNS, *also, *covariates))
    wanted = _wanted(path.name, names, header)
    lines, rows, unfollowed = _followed(header, lines, rows)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    years = {c: columns[column(c)] for c in COMPONENTS if column(c) in columns}
    end = numbers_of(columns[FOLLOW_UP])
    times = {
        c: np.where(missing_of(cells), np.inf, numbers_of(cells)) for c, cells in years.items()
    }
    complaints = _complaints(columns[FOLLOW_UP], end, times, lines)
    if complaints:
        raise UserError("\n".join(f"{path.name}: {complaint}" for complaint in complaints))
    entry = numbers_of(columns[ENTRY]) if ENTRY in columns else np.full(len(end), -np.inf)
    # The endpoint's own columns stand in the place of those that the file may have.
    kept = [i for i, name in enumerate(header) if name not in ("time_years", "event", *COLUMNS)]
    found, notes = {}, list[str]()
    for name in wanted:
        time, event = first_of(end, times, ENDPOINTS[name])
        # Only this endpoint is over for her: she may still come to be at risk of another.
        over = ((entry >= time) & (time > 0)) | (time < 0)
        if not np.any(event[~over] == 1):
            notes.append(f"{name}: no woman had it, so there is nothing to analyse.")
            continue
        left = list(unfollowed)
        if over.any():
            left.append(Left("it had happened before observation", int(over.sum()), 0))
        own = [
            [*(rows[n][i] for i in kept), repr(float(time[n])), str(event[n])]
            for n in np.flatnonzero(~over).tolist()
        ]
        found[name] = cohort_of(
            path.name,
            ([*(header[i] for i in kept), "time_years", "event"], lines[~over], own),
            covariates=covariates,
            also=also,
            areas=areas,
        )
        told = [f"{each.women:,} lines have {each.why} and are left out." for each in unfollowed]
        found[name] = (
            found[name].without(*left).told(*told, *_own_notes(name, times, int(over.sum())))
        )
    if not found:
        raise UserError(f"{path.name}: {' '.join(notes)}")
    first = next(iter(found))
    return found | {first: found[first].told(*notes)}


def _followed(
    header: Sequence[str], lines: np.ndarray, rows: list[list[str]]
) -> tuple[np.ndarray, list[list[str]], list[Left]]:
    """Lines and cells of those with a follow-up or an event, and the others."""
    given = [i for i, name in enumerate(header) if name in COLUMNS]
    lost = np.array([all(is_missing(row[i]) for i in given) for row in rows], bool)
    if not lost.any():
        return lines, rows, []
    known = [row for row, gone in zip(rows, lost.tolist()) if not gone]
    return lines[~lost], known, [Left("no follow-up", int(lost.sum()), 0)]


def first_of(
    end: np.ndarray, times: Mapping[str, np.ndarray], components: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(years, event) of an endpoint: 1 the first of its components, 2 a death that is none of them,
    0 the end of follow-up.

    Args:
      times: of each component; infinite where it did not happen.
    """
    outcome = np.minimum.reduce([times[c] for c in components if c in times])
    other = times["death"] if "death" not in components else np.full(len(end), np.inf)
    # An outcome on the day of death is the outcome: she died of it, or with it.
    event = np.where(outcome <= np.minimum(other, end), 1, np.where(other <= end, 2, 0))
    return np.minimum(np.minimum(outcome, other), end), event


def _wanted(name: str, asked: Sequence[str], header: Sequence[str]) -> list[str]:
    unknown = [each for each in asked if each not in (*ENDPOINTS, ALL)]
    if unknown:
        raise UserError(
            f"endpoints names {', '.join(unknown)}, which is none. There are:"
            f" {', '.join(ENDPOINTS)}, and {ALL}."
        )

    def lacking(endpoint: str) -> list[str]:
        needed = [c for c in ENDPOINTS[endpoint] if c not in OPTIONAL]
        # Death competes with every endpoint that it is no part of.
        columns = [FOLLOW_UP, *(column(c) for c in (*needed, "death"))]
        return [each for each in columns if each not in header]

    if ALL in asked:
        wanted = [each for each in ENDPOINTS if not lacking(each)]
        missing = list(dict.fromkeys(lacking("death"))) if not wanted else []
    else:
        wanted = list(dict.fromkeys(asked))
        missing = list(dict.fromkeys(each for name in wanted for each in lacking(name)))
    if missing:
        raise UserError(
            f"{name}, line 1: the header has no {', '.join(missing)}, from which endpoints are"
            f" made. {FOLLOW_UP} is the end of a woman's observation; a component's column has the"
            " years to its first event, and is empty where there was none."
        )
    return wanted


def _complaints(
    cells: Sequence[str], end: np.ndarray, times: Mapping[str, np.ndarray], lines: np.ndarray
) -> list[str]:
    rules = [
        (missing_of(cells), f"no {FOLLOW_UP}. Give the years of observation, or remove the line."),
        (
            ~missing_of(cells) & ~(np.isfinite(end) & (end >= 0) & (end <= LONGEST_YEARS)),
            f"a {FOLLOW_UP} that is no number between 0 and {LONGEST_YEARS:.0f}. Write years.",
        ),
    ]
    for name, time in times.items():
        rules += [
            (np.isnan(time), f"a {column(name)} that is not a number. Leave it empty for none."),
            (
                # Any other event before the mammogram is history, and leaves her out.
                (time < 0) & (name == "death"),
                f"a negative {column(name)}. She lived at the mammogram: correct it.",
            ),
            (
                np.isfinite(time) & (time > end),
                f"a {column(name)} after the end of her {FOLLOW_UP}. Correct one of them.",
            ),
            (
                # Inf > inf is False, so only a dated event after a dated death is meant.
                np.isfinite(time) & (time > times["death"]),
                f"a {column(name)} after her death_years. Correct one of them.",
            ),
        ]
        dead = times["death"] <= end
        rules += [
            (
                _most((time == end) & ~dead),
                f"a {column(name)} that is her {FOLLOW_UP}, as half of the women have. Leave it"
                " empty where there was no event.",
            ),
            (
                _most(time <= 0),
                f"a {column(name)} of 0 or less, as half of the women have. Leave it empty for"
                " none.",
            ),
        ]
    rules.append(
        (
            np.isfinite(times["death"]) & (times["death"] < end),
            f"a {FOLLOW_UP} beyond her death_years. Observation ends with death.",
        )
    )
    return [f"{at_lines(lines[wrong])} {what}" for wrong, what in rules if wrong.any()]


def _most(mask: np.ndarray) -> np.ndarray:
    """The mask where it holds for most women; nobody else."""
    return mask & (mask.mean() > 0.5)


def _own_notes(name: str, times: Mapping[str, np.ndarray], over: int) -> list[str]:
    """What must be told of an endpoint's cohort: components that the file lacks, women left out."""
    notes = []
    absent = [column(c) for c in ENDPOINTS[name] if c not in times]
    if absent:
        made_of = ", ".join(c for c in ENDPOINTS[name] if c in times)
        notes.append(f"{name}: without {', '.join(absent)} it is made of {made_of} alone.")
    if over:
        notes.append(
            f"{name}: {over:,} women had it before the mammogram or before they came under"
            f" observation ({ENTRY}) and are left out of this endpoint."
        )
    return notes
