"""Classes of one column that are one class in several spellings."""

import os.path
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from itertools import combinations

# Classes that tables also write as one letter.
WHOLE_WORDS = (
    "male",
    "female",
    "left",
    "right",
    "yes",
    "no",
    "positive",
    "negative",
    "true",
    "false",
)
LEAST_LETTERS = 4  # of a class that is compared without its dashes and blanks
# Letters of words that differ in one slip: of a rare one beside a common one, and of any two.
RARE_WORD, ANY_WORD = 5, 8
RARE = 0.2  # times the count of the common one


def spelled_twice(counts: Mapping[str, int]) -> str:
    """How a class is written in several ways, in words that quote nothing; "" if none is.

    Args:
      counts: of each value.

    >>> spelled_twice({"yes": 3, "Yes": 1}), spelled_twice({"effusion": 9, "effusoin": 1})
    ('capitals or blanks', 'a slip of the pen')
    >>> spelled_twice({"ground glass": 2, "ground-glass": 2}), spelled_twice({"T1w": 2, "T2w": 2})
    ('accents, dashes or the order of words', '')
    """
    folded = Counter[str]()
    for value, count in counts.items():
        folded[" ".join(value.split()).casefold()] += count
    if len(folded) < len(counts):
        return "capitals or blanks"
    if any({word, word[0]} <= set(folded) for word in WHOLE_WORDS):
        return "a word and its first letter"
    words = [_words(value) for value in folded]
    joined = ["".join(each) for each in words]
    pairs = [frozenset(each) for each in words if len(each) == 2]
    if len(set(joined)) < len(joined) or len(set(pairs)) < len(pairs):
        return "accents, dashes or the order of words"
    for (one, own), (other, others) in combinations(zip(words, folded.values()), 2):
        if _is_slip(one, other, rare=min(own, others) <= RARE * max(own, others)):
            return "a slip of the pen"
    return ""


def _words(value: str) -> tuple[str, ...]:
    """Words of a class without accents and dashes; the value where it is short or has digits."""
    text = unicodedata.normalize("NFKD", value)
    letters = "".join(letter for letter in text if not unicodedata.combining(letter))
    words = tuple(filter(None, re.split(r"[\s_.,;/-]+", letters)))
    joined = "".join(words)
    return words if len(joined) >= LEAST_LETTERS and joined.isalpha() else (value,)


def _is_slip(one: tuple[str, ...], other: tuple[str, ...], *, rare: bool) -> bool:
    """Whether two classes differ in one word, and there in one letter, or in the order of two."""
    differing = [pair for pair in zip(one, other) if pair[0] != pair[1]]
    if len(one) != len(other) or len(differing) != 1:
        return False
    first, second = sorted(differing[0], key=len)
    if not (first + second).isalpha() or len(first) < (RARE_WORD if rare else ANY_WORD):
        return False
    before = len(os.path.commonprefix([first, second]))
    first, second = first[before:], second[before:]
    behind = len(os.path.commonprefix([first[::-1], second[::-1]]))
    first, second = first[: len(first) - behind], second[: len(second) - behind]
    return len(second) <= 1 or (len(second) == 2 and first == second[::-1])
