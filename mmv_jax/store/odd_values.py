"""Cells of a column that are probably no values of it: codes for "not known" among measurements,
words among numbers, ages that nobody has.

A warning names the column and the first line. Of cells it quotes codes alone.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import takewhile

from mmv_jax.missing import SURVEY_CODES
from mmv_jax.store.labels import NUMBER, OLDEST_POSSIBLE, is_age

Odd = tuple[str, int, str]  # code, line, sentence
# Codes for "not known"; the ends of types; overflows.
CODES = SURVEY_CODES | {-32_768.0, -2_147_483_648.0, 99_999.0, 32_767.0, 65_535.0}
FAR, VERY_FAR = 1.5, 4.0  # times the next highest value: a code lies above what is measured
SCALE, STEPS = 5, 7  # distinct values of a scale, of which 9 may be no step; of one without gaps
# Of measurements that repeat rarely a code repeats: times the count of any other value.
SPIKE, LEAST_SPIKE, LEAST_SPREAD = 2, 3, 10
APART = 5.0  # times the usual step between measurements: how far a code lies from them
FEW = 0.2  # share of cells with 0; more of them are of what is not there
NEAR_ZERO = 0.15  # of the largest value: where all others lie above it, 0 is none of them
INFINITE = ("inf", "infinity")
ABSURD, USUAL = 1e9, 1e6  # a value above the one, beside values below the other
LEAST_VALUES = 3  # distinct values beside a code
# Words that count as a class, and may mean that nothing is known.
UNSURE = frozenset(
    ("nd", "n.d.", "nk", "nr", "tbd", "todo", "to do", "pending", "refused", "declined", "not done")
    + ("not-done", "notdone", "undetermined", "other/unknown", "no answer", "not assessed")
)


def odd_values(name: str, cells: Mapping[int, str], kind: type | None) -> Iterator[Odd]:
    """(code, line, sentence) of each warning about the known cells of a carried column.

    Args:
      cells: line -> cell, without those that mean "not known".
      kind: the type of the column.
    """
    numbers = {n: float(cell) for n, cell in cells.items() if NUMBER.fullmatch(cell)}
    if is_age(name):
        beyond = [n for n, number in numbers.items() if not 0 <= number <= OLDEST_POSSIBLE]
        if beyond:
            what = f"{name}: {len(beyond)} ages that nobody has are left out"
            yield "odd_numbers", beyond[0], what
    elif kind is float and (codes := codes_among(Counter(numbers.values()))):
        first = next(n for n, number in numbers.items() if number in codes)
        said = ", ".join(f"{code:g}" for code in sorted(codes))
        what = f"{name}: {said} counts as a number; if it means not known, leave the cell empty"
        yield "odd_numbers", first, what
    if kind is str:
        yield from _words(name, cells, numbers)


def _words(name: str, cells: Mapping[int, str], numbers: Mapping[int, float]) -> Iterator[Odd]:
    words = {n: cell.casefold() for n, cell in cells.items() if n not in numbers}
    if any(word.lstrip("+-") in INFINITE for word in words.values()):
        return  # told as a number in words
    distinct = set(numbers.values())
    unsure = [n for n, word in words.items() if word in UNSURE]
    codes = [n for n, number in numbers.items() if number in CODES]
    # `3a` beside 1 and 2 is a grade; a word beside them makes text of what was measured.
    if len(distinct) > 1 and words and 2 * len(numbers) >= len(cells):
        if not any(re.search(r"\d", word) for word in words.values()):
            what = f"{name} has words among its numbers, and is text for them"
            yield "odd_numbers", min(words), what
    elif unsure:
        what = f"{name}: {words[unsure[0]]!r} counts as a class; if not known, leave the cell empty"
        yield "word_for_missing", unsure[0], what
    elif words and codes and distinct <= CODES:
        what = (
            f"{name}: {numbers[codes[0]]:g} counts as a class; if not known, leave the cell empty"
        )
        yield "word_for_missing", codes[0], what


def codes_among(counts: Counter[float]) -> set[float]:
    """Codes for "not known" among numbers: below or above all others, or repeated as none is.

    >>> sorted(codes_among(Counter([1, 2, 3, 1, 2, 8, 8, 9])))
    [8, 9]
    """
    values = sorted(counts)
    lows = set(takewhile(lambda value: value < 0 and value in CODES, values))
    if lows and len(values) - len(lows) >= 2 and values[len(lows)] >= 0:
        return lows
    highs = list(takewhile(lambda value: value > 0 and value in CODES, reversed(values)))
    for count in range(len(highs), 0, -1):
        if _lie_above(values[:-count], values[-count:], counts):
            return set(values[-count:])
    if len(values) <= LEAST_VALUES:
        return set()
    beside = (max(abs(values[0]), abs(values[-2])), max(abs(values[1]), abs(values[-1])))
    for end, rest in zip((values[-1], values[0]), beside):
        if abs(end) > ABSURD and rest < USUAL:
            return {end}
    if len(values) < LEAST_SPREAD:
        return set()
    zeros = counts[0] > 1 and counts[0] <= FEW * counts.total()
    if values[0] == 0 and zeros and values[1] > NEAR_ZERO * values[-1] > 1:
        return {0.0}
    return _repeated(counts)


def _lie_above(rest: list[float], codes: list[float], counts: Counter[float]) -> bool:
    """Whether `codes` are none of the steps or measurements that `rest` are."""
    often = sum(counts[code] for code in codes)
    beside = max(abs(value) for value in rest) if len(rest) > 1 else math.inf
    if often < 2 and codes[0] < VERY_FAR * beside:
        return False
    whole = all(value.is_integer() for value in rest)
    # A scale without gaps, above which a step or more is left out.
    no_gaps = whole and rest[-1] - rest[0] == len(rest) - 1 and rest[0] in (0, 1)
    if no_gaps and len(rest) <= STEPS and codes[0] - rest[-1] >= 2 and codes[-1] > 6:
        return 2 * often >= counts[rest[-1]] or codes[0] >= FAR * beside
    if len(rest) < LEAST_VALUES or codes[0] < FAR * beside:
        return False
    # A scale of few steps may end below 9; a count that reaches 9 once is a count.
    return codes[0] > 9 or (whole and len(rest) <= SCALE and codes[0] == 9)


def _repeated(counts: Counter[float]) -> set[float]:
    """Codes that repeat among measurements with fractions, which do not."""
    measured = sorted(value for value in counts if value not in CODES or abs(value) < 6)
    fractions = sum(not value.is_integer() for value in measured)
    if len(measured) < LEAST_SPREAD or 2 * fractions < len(measured):
        return set()
    often = max(counts[value] for value in measured)
    usual = (measured[-1] - measured[0]) / len(measured)
    found = set()
    for code in set(counts) - set(measured):
        apart = min(abs(code - value) for value in measured)
        least = often + 1 if apart > APART * usual else SPIKE * often
        if counts[code] >= max(LEAST_SPIKE, least):
            found.add(code)
    return found
