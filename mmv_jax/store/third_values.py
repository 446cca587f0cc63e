"""Two-class labels with further values.

Without a warning such values would silently count as a class or as "not known".
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mmv_jax.manifests.manifest import Line
from mmv_jax.missing import SURVEY_CODES, is_missing

PAIRS = (
    ({"0", "1"}, {"no", "yes"}, {"n", "y"}, {"false", "true"}, {"negative", "positive"})
    + ({"neg", "pos"}, {"absent", "present"}, {"normal", "abnormal"}, {"benign", "malignant"})
    + ({"nein", "ja"}, {"non", "oui"}, {"no", "si"}, {"no", "s\u00ed"}, {"f", "t"})
)
LEAST_CODES = 2  # lines with a code beside one class alone
MOST = 2  # further values; a column with more of them is a grade or a count


def third_values(lines: Sequence[Line], columns: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(line, sentence) for each two-class column with one or two further values.

    The line is the first one with such a value.
    """
    for name in columns:
        cells = {line.number: _plain(line.labels[name]) for line in lines if name in line.labels}
        known = {n: cell for n, cell in cells.items() if not is_missing(cell)}
        counts = Counter(known.values())
        pair = next((pair for pair in PAIRS if pair <= set(counts)), None)
        if pair is None:
            # One class alone beside -1, as in labels of CheXpert without a 0.
            codes = {cell for cell in counts if cell not in ("0", "1") and _is_code(cell)}
            alone = len(set(counts) - codes) == 1 and set(counts) - codes <= {"0", "1"}
            if alone and ("-1" in codes or sum(counts[code] for code in codes) >= LEAST_CODES):
                first = next(n for n, cell in known.items() if cell in codes)
                said = ", ".join(sorted(codes))
                yield first, f"{name} has one class and {said}, which counts as a number"
            continue
        others = {cell: count for cell, count in counts.items() if cell not in pair}
        # More values mean a grade, unless each is a code such as 9 or -1.
        if 0 < len(others) <= MOST or (others and all(map(_is_code, others))):
            first = next(n for n, cell in known.items() if cell in others)
            yield first, _sentence(name, others)


def codes_of_two(cells: Iterable[str]) -> set[str]:
    """Those of the different cells of a column that count as not known: codes such as 9 or -1
    beside two classes. Empty where there is another value besides.

    >>> sorted(codes_of_two(["0", "1.0", "-1", "9"])), codes_of_two(["0", "1", "2"])
    (['-1', '9'], set())
    """
    known = {cell: _plain(cell) for cell in cells if not is_missing(cell)}
    pair = next((pair for pair in PAIRS if pair <= set(known.values())), None)
    others = {cell for cell, plain in known.items() if pair is None or plain not in pair}
    return others if pair and all(_is_code(known[cell]) for cell in others) else set()


def _sentence(name: str, others: Mapping[str, int]) -> str:
    values = sorted(others)
    if all(map(_is_code, values)):
        said = ", ".join(f"{value} ({others[value]} lines)" for value in values)
        return f"{name} has two classes and also {said}: these count as not known"
    count = sum(others.values())
    return f"{name} has two classes and {len(values)} other values ({count} lines): is it a grade?"


def _plain(cell: str) -> str:
    """Cell in the form that is compared: `1.0` is `1`, and case does not count."""
    text = cell.strip().casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:g}"


def _is_code(cell: str) -> bool:
    try:
        return float(cell) in SURVEY_CODES
    except ValueError:
        return False
