"""Two-class labels with further values.

Without a warning such values would silently count as a class or as "not known".
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mmv_jax.manifests.manifest import Line
from mmv_jax.missing import CODES, is_missing

PAIRS = ({"0", "1"}, {"no", "yes"}, {"n", "y"}, {"false", "true"}, {"negative", "positive"})
ONE_AND_CODE = ({"1", "-1"}, {"0", "-1"})
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
            if set(counts) in ONE_AND_CODE:
                first = next(n for n, cell in known.items() if cell == "-1")
                yield first, f"{name} has one class and -1, which counts as a number"
            continue
        others = {cell: count for cell, count in counts.items() if cell not in pair}
        # More values mean a grade, unless each is a known code such as 9 or -1.
        if 0 < len(others) <= MOST or (others and all(map(_is_code, others))):
            first = next(n for n, cell in known.items() if cell in others)
            yield first, _sentence(name, others)


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
        return float(cell) in CODES
    except ValueError:
        return False
