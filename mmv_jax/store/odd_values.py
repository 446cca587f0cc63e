"""Cells of a column that are probably no values of it: codes for "not known" among measurements,
words among numbers, ages that nobody has.

A warning names the column and the first line. Of cells it quotes codes alone.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from mmv_jax.missing import CODES
from mmv_jax.store.labels import NUMBER, OLDEST_POSSIBLE, is_age

Odd = tuple[str, int, str]  # code, line, sentence
# Codes of registries for "not known", "refused" and "not asked"; the ends of types; overflows.
LOW_CODES = CODES | {-2.0, -7.0, -8.0, -77.0, -88.0, -888.0, -32_768.0, -2_147_483_648.0}
HIGH_CODES = CODES | {88.0, 77.0, 888.0, 777.0, 8888.0, 99_999.0, 32_767.0, 65_535.0}
FAR = 1.5  # times the next highest value: a code lies above what is measured
SCALE = 5  # distinct values of a scale, of which 9 may be no step
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
    elif kind is float and (code := _code_among(Counter(numbers.values()))) is not None:
        first = next(n for n, number in numbers.items() if number == code)
        what = f"{name}: {code:g} counts as a number; if it means not known, leave the cell empty"
        yield "odd_numbers", first, what
    if kind is str:
        yield from _words(name, cells, numbers)


def _words(name: str, cells: Mapping[int, str], numbers: Mapping[int, float]) -> Iterator[Odd]:
    words = {n: cell.casefold() for n, cell in cells.items() if n not in numbers}
    if any(word.lstrip("+-") in INFINITE for word in words.values()):
        return  # told as a number in words
    distinct = set(numbers.values())
    unsure = [n for n, word in words.items() if word in UNSURE]
    codes = [n for n, number in numbers.items() if number in LOW_CODES | HIGH_CODES]
    # `3a` beside 1 and 2 is a grade; a word beside them makes text of what was measured.
    if len(distinct) > 1 and words and 2 * len(numbers) >= len(cells):
        if not any(re.search(r"\d", word) for word in words.values()):
            what = f"{name} has words among its numbers, and is text for them"
            yield "odd_numbers", min(words), what
    elif unsure:
        what = f"{name}: {words[unsure[0]]!r} counts as a class; if not known, leave the cell empty"
        yield "word_for_missing", unsure[0], what
    elif words and codes and distinct <= LOW_CODES | HIGH_CODES:
        what = (
            f"{name}: {numbers[codes[0]]:g} counts as a class; if not known, leave the cell empty"
        )
        yield "word_for_missing", codes[0], what


def _code_among(counts: Counter[float]) -> float | None:
    """A code for "not known" among numbers that lie elsewhere; None if there is none."""
    values = sorted(counts)
    if len(values) <= LEAST_VALUES:
        return None
    low, high = values[0], values[-1]
    if low in LOW_CODES and values[1] >= 0:
        return low
    beside = max(abs(values[0]), abs(values[-2]))
    if high in HIGH_CODES and high >= FAR * beside and counts[high] > 1:
        # A scale of few steps may end below 9; a count that reaches 9 once is a count.
        whole = all(value.is_integer() for value in values[:-1])
        return high if high > 9 or (whole and len(values) - 1 <= SCALE) else None
    for end, rest in ((high, beside), (low, max(abs(values[1]), abs(high)))):
        if abs(end) > ABSURD and rest < USUAL:
            return end
    return None
