"""Cells of a table that mean "not known": one list for manifests, labels and cohorts.

If `NA` is taken as a word, it becomes a class. If a code such as 9 is taken as a number, it becomes
a measurement. Neither raises an error, so the list is kept in one place.
"""

import math
from collections.abc import Iterable

WORDS = frozenset(
    ("", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "-nan", "null", "none", "nil")
    + ("missing", "unknown", "unk", "not available", "not applicable", "not known", "not recorded")
    + ("#value!", "#ref!", "#div/0!", "#null!", "#name?", "#num!", ".", "-", "--", "?", "??")
    + ("(null)", "(none)", "(na)", "(missing)", "(unknown)", "[null]", "[none]", "[]", "{}", "n/k")
    + ("n/d", "s/d", "n.a", "n.k.", "n.r.", "k.a", "not reported", "not specified", "unspecified")
    + (
        "undefined",
        "no data",
        "not recorded",
        "not documented",
        "blank",
        "empty",
        "void",
        "*",
        "**",
    )
    + ("#", "...", "…", "–", "—", "''", '""', "未知", "不明", "缺失", "неизвестно", "нет данных")
    + ("nicht bekannt", "keine angabe", "fehlt", "fehlend", "unbek.", "sin dato", "sin datos")
    + ("nsp", "non connu", "sconosciuto", "onbekend", "okänd", "ukjent", "nieznany", "bilinmiyor")
    # Words of R and Stata, then of German, French and Spanish tables.
    + ("na_real_", "na_character_", ".a", "unbekannt", "k.a.", "k. a.", "inconnu", "desconocido")
)
# codes of questionnaires and registries, in a column of yes (1) and no (0)
CODES = frozenset((-1.0, -9.0, 9.0, -99.0, 99.0, -999.0, 999.0, 9999.0, -9999.0))
# Further ones of registries and surveys, for "refused", "not asked" and "not applicable".
TENS = (7.0, 8.0, 66.0, 77.0, 88.0, 96.0, 97.0, 98.0, 666.0, 777.0, 888.0, 996.0, 997.0, 998.0)
MOST_GRADES = 4.0  # of a column in which 9 means "not known": the grades 0 to 4
SURVEY_CODES = CODES | {*TENS, *(-code for code in TENS), -2.0, 8888.0, 9996.0, 9997.0, 9998.0}


def is_missing(cell: object) -> bool:
    """Whether a cell means "not known": empty, None, NaN, or one of WORDS in any case.

    >>> [is_missing(cell) for cell in ("N/A", " na ", None, float("nan"), "0", "no", 9)]
    [True, True, True, True, False, False, False]
    """
    if cell is None:
        return True
    if isinstance(cell, float):
        return math.isnan(cell)
    # Blanks are normalised first: " Not  known" is in the list too.
    return isinstance(cell, str) and " ".join(cell.split()).casefold() in WORDS


def missing_codes(values: Iterable[float | int]) -> set[float]:
    """Codes for "not known" among numbers: beside two classes, a few grades, or measurements.

    In a column of grades from 0 to 9 a 9 is a grade: beside more than two classes a code must lie
    apart from all other numbers.

    >>> sorted(missing_codes([0, 1, 1, 9, -1])), missing_codes([1, 5, 9])
    ([-1.0, 9.0], set())
    >>> missing_codes([1, 2, 3, 9]), sorted(missing_codes([92.5, 130, 195, 999, -9]))
    ({9.0}, [-9.0, 999.0])
    """
    known = {float(value) for value in values if not math.isnan(value)}
    codes = known & SURVEY_CODES
    rest = sorted(known - codes)
    if rest in ([0.0, 1.0], [1.0, 2.0]):
        return codes
    if len(rest) < 2:  # one class alone says nothing of the others
        return set()
    low, high = rest[0], rest[-1]
    grades = rest == [low + n for n in range(len(rest))] and low in (0, 1) and high <= MOST_GRADES
    return {
        code
        for code in codes
        if (grades and (code >= 9 or code < 0))
        # No measurement jumps by more than its whole range, or to -9 where all others are positive.
        or (code >= 96 and code - high > high - low)
        or (code <= -9 and low >= 0)
    }
