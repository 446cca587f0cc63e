"""Choice of the manifest columns that go into a store, as labels.

Columns are accepted by what they hold, because a name can be anywhere.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from mmv_jax.manifests.published import age_in_years
from mmv_jax.missing import is_missing
from mmv_jax.store.person_names import may_name_people, name_people, names_a_person
from mmv_jax.store.personal import OLDEST_TOLD, are_codes, are_days, is_date, names_someone

CATEGORIES = 32  # largest number of distinct values of a text column
LONGEST = 32  # largest number of characters of such a value
# On average. A column whose values hardly repeat between patients identifies its patients.
PATIENTS_A_VALUE = 2
# Short codes that identify nobody, however few lines a manifest has.
CODES = frozenset(
    ("f", "m", "o", "u", "female", "male", "other", "unknown", "yes", "no", "true", "false")
    + (
        "pa",
        "ap",
        "ll",
        "lat",
        "lateral",
        "rl",
        "lao",
        "rao",
        "cc",
        "mlo",
        "ml",
        "lm",
        "l",
        "r",
        "b",
        "left",
        "right",
        "both",
    )
)
IDENTIFIERS = """
    id uid name names mrn ssn accession passport insurance path file filename folder url ip
    date time dob birth birthday birthdate birthyear yob address street city zip zipcode postcode
    postal county town village latitude longitude
    phone mobile cell tel fax email mail nhs initials surname forename acquired admission admitted
    discharge discharged reporter physician doctor radiologist operator institution hospital
    comment comments note notes report text
    account certificate vehicle plate serial iban beneficiary
    kis plz postleitzahl aufnahme entlassung befunder mobil handy telefon datum geburtsdatum gebdat
    geburtsjahr jahrgang vorname nachname arzt fallnummer patientennummer versichertennummer kvnr
    strasse wohnort gemeinde landkreis
    nom prenom naissance medecin adresse commune nombre apellido nacimiento fecha
"""
WORDS_OF_IDENTIFIERS = frozenset(IDENTIFIERS.split())
# Whole names, in lower case and without separators. "patient age" is a measurement; "patient" and
# "PATIENT-ID" are not.
NAMES_OF_IDENTIFIERS = re.compile(
    r"(patient|subject|case|person|participant)s?|(patient|subject|case|person|participant|study|series|exam|accession|record|chart)"
    r"(id|ids|uid|no|nr|num|number|key|code|name)"
)
WORDS_OF_MEASURES = frozenset(
    (
        "age",
        "year",
        "years",
        "month",
        "months",
        "day",
        "days",
        "height",
        "weight",
        "size",
        "width",
        "diameter",
        "area",
        "volume",
        "count",
        "score",
    )
    + ("mm", "cm", "ml", "hu", "kg", "mg", "bpm", "percent")
    + ("px", "pixel", "pixels", "voxel", "voxels", "rows", "columns", "slices", "frames")
    + ("length", "depth", "thickness", "distance", "dose", "dap", "dlp", "exposure", "cells")
    + ("platelets", "leukocytes", "ferritin", "bnp", "ntprobnp", "troponin", "dimer", "level")
)
# Names of columns that say where images come from, or how they were made.
WORDS_OF_SOURCES = frozenset(
    ("source", "dataset", "collection", "cohort", "database", "origin", "licence", "license")
    + ("manufacturer", "vendor", "scanner", "kernel", "protocol", "sequence", "contrast", "phase")
)
# Names that are of a place as well as of a measurement: `area` of a lung, or of a town.
WORDS_OF_EITHER = frozenset(("area", "level", "size", "count"))
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
YEARS_OLD = re.compile(r"\s*(\d{1,3})\s*(?:y|yo|yrs?|years?|j|jahre|a|ans)\.?\s*", re.IGNORECASE)
# Months, weeks and days, also in German.
YOUNG = re.compile(
    r"\s*(\d{1,3})\s*(?:(m)(?:os?|onths?|onaten?|onat)?|(w)(?:ks?|eeks?|ochen?)?|(d)(?:ays?)?)\.?\s*",
    re.IGNORECASE,
)
AGES = frozenset(("age", "ages", "alter", "patientage", "ageyears"))
OLDEST_POSSIBLE = 120  # years, as in the lists of NIH
# Whole numbers with so many digits that patients do not share are record or telephone numbers.
IDENTIFIER_DIGITS, ZERO_DIGITS = 7, 5
# patients with several studies needed to see that a number identifies the patient
ENOUGH_PATIENTS = 10
LEAST_COUNTED = 10  # lines from which on numbers that rise by one are the index of a table
Cells = Mapping[str, str]


def choose_columns(
    lines: Sequence[Cells],
    patients: Sequence[str],
    carried: Mapping[str, Collection[str]] | None = None,
) -> tuple[dict[str, type], list[str]]:
    """Columns to keep with their types (float or str), and the names of the rejected columns.

    A column is kept if all filled cells are numbers. It is also kept if it has at most 32 distinct
    texts of at most 32 characters, and patients share them or they are codes such as PA or F, or
    the store has them already, or the column says by its name where images come from.

    A column is rejected if its name identifies (id, name, patient, date, path, …) or if it holds
    dates, people's names or places. It is also rejected if it holds whole numbers of seven or more
    digits that patients do not share, or of five or six digits under a name that is not a
    measurement (age, mm, …): postcodes, records. The same holds for whole numbers that identify the
    patient: always equal for one patient and never for two. That test needs enough patients with
    several studies, and a name that is not a measurement.

    Args:
      lines: the cells of each line of a manifest.
      patients: the patient of each line.
      carried: the texts that the store holds of each column.
    """
    found: dict[str, type] = {}
    left: list[str] = []
    for name in dict.fromkeys(column for cells in lines for column in cells):
        filled = [
            (cells[name].strip(), patient)
            for cells, patient in zip(lines, patients, strict=True)
            # otherwise one `N/A` would make a column of numbers one of text
            if not is_missing(cells.get(name))
        ]
        kind = _kind(name, filled)
        if (
            kind is None
            and filled
            and {cell for cell, _ in filled} <= set((carried or {}).get(name, ()))
        ):
            kind = str
        if kind is None:
            left.append(name)
        else:
            found[name] = kind
    return found, left


def agreed_kinds(choices: Iterable[Mapping[str, type]]) -> dict[str, type]:
    """One type for each column of several manifests: str if any of them has text.

    >>> agreed_kinds([{"sex": str, "age": float}, {"sex": float}])
    {'sex': <class 'str'>, 'age': <class 'float'>}
    """
    kinds: dict[str, type] = {}
    for columns in choices:
        for name, kind in columns.items():
            kinds[name] = kind if kinds.get(name, kind) is kind else str
    return kinds


def carry(cells: Cells, columns: Mapping[str, type]) -> dict[str, float | str | None]:
    """Cells of one line as `label_<name>` columns of the index.

    A cell that means "not known" (`missing.WORDS`) becomes NaN or None.
    """
    labels: dict[str, float | str | None] = {}
    for name, kind in columns.items():
        cell = "" if is_missing(cells.get(name)) else cells[name].strip()
        labels[f"label_{name}"] = (
            (_number(name, cell) if cell else float("nan")) if kind is float else (cell or None)
        )
    return labels


def _number(name: str, cell: str) -> float:
    """Number of a cell; an age above 89 becomes 90, and one that nobody has NaN."""
    years = _years(cell) if is_age(name) else None
    if years is None:
        return float(cell)
    if not 0 <= years <= OLDEST_POSSIBLE:
        return float("nan")  # 999, or -1: a code, and no age
    return OLDEST_TOLD + 1.0 if years > OLDEST_TOLD else years


def is_age(name: str) -> bool:
    """Whether a column's name is one of ages."""
    return bool(_words_of(name) & AGES)


def _years(cell: str) -> float | None:
    """Years of an age: a number, DICOM's `045Y` or `018M`, `45 years` or `6 weeks`; None if it is
    none.
    """
    if _is_number(cell):
        return float(cell)
    if young := YOUNG.fullmatch(cell):
        cell = young[1] + (young[2] or young[3] or young[4])
    found = YEARS_OLD.fullmatch(cell)
    text = age_in_years(found[1] if found else cell)
    return float(text) if text else None


def measures(name: str) -> bool:
    """Whether a column's name is one of a measurement."""
    return bool(_words_of(name) & WORDS_OF_MEASURES)


def _words_of(name: str) -> set[str]:
    """Words of a column name, in lower case: `PatientAge_years` has three."""
    # A capital after a small letter begins a word: PatientAge, but not HU.
    return set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))


def _kind(name: str, filled: list[tuple[str, str]]) -> type | None:
    """Type of a column, from its filled cells and the patient of each; None if it is rejected."""
    words = _words_of(name)
    values = [value for value, _ in filled]
    identifies = words & WORDS_OF_IDENTIFIERS or NAMES_OF_IDENTIFIERS.fullmatch(
        re.sub(r"[^a-z]", "", name.lower())
    )
    # More than half are dates: a few typing errors must not turn dates into text.
    if (
        not values
        or identifies
        or names_a_person(name)
        or 2 * sum(n for value, n in Counter(values).items() if is_date(value)) > len(values)
    ):
        return None
    distinct = set(values)
    # Pairs of value and patient: many studies of one patient count once.
    shared = len(set(filled)) >= PATIENTS_A_VALUE * len(distinct)
    ages = words & AGES and all(_years(value) is not None for value in distinct)
    if all(map(_is_number, values)) or ages:
        if not words & WORDS_OF_MEASURES and (are_days(distinct) or are_codes(distinct)):
            return None
        # Patients share a postcode, and hardly ever the pixels of a lung.
        if words - {""} <= WORDS_OF_EITHER and shared and are_codes(distinct):
            return None
        if not words & WORDS_OF_MEASURES and counts_lines(values):
            return None
        whole = [re.fullmatch(r"[+-]?(\d+)(\.0*)?", value) for value in values]
        # Length in digits without sign and fraction; a spreadsheet writes 1234567 as 1234567.0.
        long = all(match and len(match[1]) >= IDENTIFIER_DIGITS for match in whole)
        # Measurements have no leading zeros; telephone and record numbers may.
        if any(map(_has_zeros, whole)):
            return None
        stands_for_patient = all(whole) and not words & WORDS_OF_MEASURES and _one_to_one(filled)
        long = long and not words & WORDS_OF_MEASURES
        return None if (long and not shared) or stands_for_patient else float
    # Before the sharing test: a small manifest may have one patient for each code.
    if all(value.lower() in CODES for value in distinct):
        return str
    short = len(distinct) <= CATEGORIES and max(map(len, distinct)) <= LONGEST
    # A manifest of one study has one source, which no other patient can share.
    shared = shared or bool(words & WORDS_OF_SOURCES and not may_name_people(distinct))
    if not (shared and short) or any(map(names_someone, distinct)) or name_people(distinct):
        return None
    return str


def counts_lines(values: Sequence[str]) -> bool:
    """Whether numbers rise by one from line to line: the index of a table, which pandas writes.

    >>> counts_lines([str(n) for n in range(10)]), counts_lines([str(2 * n) for n in range(10)])
    (True, False)
    """
    numbers = [float(value) for value in values if _is_number(value)]
    if len(numbers) < max(len(values), LEAST_COUNTED) or numbers[0] not in (0, 1):
        return False
    return all(after - before == 1 for before, after in pairwise(numbers))


def _has_zeros(match: re.Match | None) -> bool:
    return match is not None and len(match[1]) >= ZERO_DIGITS and match[1].startswith("0")


def _one_to_one(filled: list[tuple[str, str]]) -> bool:
    """Whether a value is always equal for one patient and never for two.

    Only patients with several studies can show this.
    """
    studies, pairs = Counter(patient for _, patient in filled), set(filled)
    # A patient with one study shows nothing: any value is constant within one study.
    several = sum(n > 1 for n in studies.values())
    return several >= ENOUGH_PATIENTS and len(pairs) == len(studies) == len(
        {value for value, _ in pairs}
    )


def _is_number(value: str) -> bool:
    """Whether a text is a finite number. Python's own `float` takes `1_2` for 12, and `inf`."""
    return bool(NUMBER.fullmatch(value)) and math.isfinite(float(value))
