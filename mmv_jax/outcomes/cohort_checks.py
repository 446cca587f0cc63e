"""Checks of the lines of a cohort; each returns its complaints. Axis: N women."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mmv_jax.manifests.spelling import ROUNDED
from mmv_jax.outcomes.cohort_table import INDEX, at_lines, missing_of

LONGEST_YEARS = 80.0
AGES = (18.0, 110.0)
BIRTHS = (1900.0, 2100.0)  # an age between these is a year of birth
DAYS_A_YEAR = 365.25


def check_ids(
    ids: Sequence[str], lines: np.ndarray, areas: Mapping[str, float] | None
) -> list[str]:
    """Complaints about missing, repeated or unknown patient ids."""
    complaints = []
    absent = missing_of(ids)
    if absent.any():
        complaints.append(
            f"{at_lines(lines[absent])} no patient_id. Give every woman an id, or remove the line."
        )
    rounded = np.array([bool(ROUNDED.fullmatch(name)) for name in ids], bool)
    if rounded.any():
        complaints.append(
            f"{at_lines(lines[rounded])} a patient_id that a spreadsheet has rounded, so that"
            " several women may share it. Export the column as text."
        )
    # Missing and rounded ids look the same; they have complaints of their own.
    duplicated = pd.Series(ids).duplicated(keep=False).to_numpy() & ~absent & ~rounded
    if duplicated.any():
        complaints.append(
            f"{at_lines(lines[duplicated])} a patient_id that another line has too. A woman has one"
            " line: keep that of her index examination. Of two hospitals, put the hospital into the"
            " id."
        )
    unknown = (
        np.array([name not in areas for name in ids], bool) & ~absent
        if areas is not None
        else np.zeros(len(ids), bool)
    )
    if unknown.any():
        complaints.append(
            f"{at_lines(lines[unknown])} a patient_id that no mammogram has. Correct the id, add"
            " the mammograms, or remove the line."
        )
    return complaints


def check_follow_up(
    columns: Mapping[str, Sequence[str]], values: Mapping[str, np.ndarray], lines: np.ndarray
) -> list[str]:
    """Complaints about times and events."""
    time, event = values["time_years"], values["event"]
    no_time, no_event = missing_of(columns["time_years"]), missing_of(columns["event"])
    code = np.isin(event, (0, 1, 2))
    # NaN compares as False, so a missing cell breaks only the rule about missing cells.
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
    complaints = [f"{at_lines(lines[wrong])} {what}" for wrong, what in rules if wrong.any()]
    # Only if all codes are valid: a wrong one may have meant the outcome.
    if not complaints and not np.any(event == 1):
        complaints.append("no line has event 1, so there is no outcome to analyse.")
    return complaints


def check_age_and_area(values: Mapping[str, np.ndarray], lines: np.ndarray) -> list[str]:
    """Complaints about ages and areas."""
    age, area, time = values["age"], values["area_mm2"], values["time_years"]
    hint = "Give the age at the mammogram, a number of years."
    if np.mean((age > BIRTHS[0]) & (age < BIRTHS[1])) > 0.5:
        hint = "These look like years of birth: give the age at the mammogram."
    rules = (
        (
            # Negated, so that NaN is refused as well.
            ~((age >= AGES[0]) & (age <= AGES[1])),
            f"no age between {AGES[0]:.0f} and {AGES[1]:.0f} years. {hint}",
        ),
        (
            ~np.isfinite(area),
            (
                "no area_mm2, or one that is not a number. Give mm² with a decimal point, and 0"
                " where there is no calcification."
            ),
        ),
        (area < 0, "a negative area_mm2. An area is 0 or more."),
        (
            # Only if each is possible by itself: otherwise another rule has complained.
            (age <= AGES[1]) & (time <= LONGEST_YEARS) & (age + time > AGES[1]),
            (
                f"an age and a time_years that make her older than {AGES[1]:.0f}. If the times are"
                " months, divide them by 12."
            ),
        ),
    )
    return [f"{at_lines(lines[wrong])} {what}" for wrong, what in rules if wrong.any()]


def check_dates(
    columns: Mapping[str, Sequence[str]], time: np.ndarray, lines: np.ndarray
) -> list[str]:
    """Complaints about a follow-up that ends in the future, where there are dates of examination.

    A cell that is no date is not judged: the dates are needed only where images are measured.
    """
    if INDEX not in columns:
        return []
    dates = pd.to_datetime(pd.Series(columns[INDEX]), format="ISO8601", errors="coerce")
    followed = (pd.Timestamp.now() - dates).dt.days.to_numpy(float)
    # A month of tolerance for rounded times.
    late = time * DAYS_A_YEAR > followed + 31
    if not late.any():
        return []
    return [
        f"{at_lines(lines[late])} an {INDEX} and a follow-up that together end in the future."
        " Correct one of them; follow-up ends at the latest when the data were extracted."
    ]


def check_entry(
    cells: Sequence[str], values: Mapping[str, np.ndarray], lines: np.ndarray
) -> list[str]:
    """Complaints about the column entry_years: when a woman came under observation."""
    entry, absent = values["entry_years"], missing_of(cells)
    rules = (
        (
            absent,
            "no entry_years. Give 0 where she was under observation from the mammogram on.",
        ),
        (
            ~absent & ~np.isfinite(entry),
            "an entry_years that is not a number. Write years with a decimal point.",
        ),
        (entry < 0, "a negative entry_years. Time counts from the mammogram: give 0."),
        (
            # A follow-up of 0 years is allowed, so its entry at 0 is as well.
            np.isfinite(entry) & (entry >= values["time_years"]) & (values["time_years"] > 0),
            (
                "an entry_years that is not before time_years, so she was never at risk. Correct"
                " one of them, or remove the line."
            ),
        ),
    )
    return [f"{at_lines(lines[wrong])} {what}" for wrong, what in rules if wrong.any()]
