"""Labels of two classes that have further values, which are taken for a class or for "not known"
without a word.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mmv_jax.manifests.manifest import Line
from mmv_jax.missing import CODES, is_missing

PAIRS = ({"0", "1"}, {"no", "yes"}, {"n", "y"}, {"false", "true"}, {"negative", "positive"})
MOST = 2  # further values; with more of them the column is a grade or a count


def third_values(lines: Sequence[Line], columns: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(line, sentence) for each column that has two classes and one or two values more; the line is
    the first that has one.
    """
    for name in columns:
        cells = {line.number: _plain(line.labels[name]) for line in lines if name in line.labels}
        known = {n: cell for n, cell in cells.items() if not is_missing(cell)}
        counts = Counter(known.values())
        pair = next((pair for pair in PAIRS if pair <= set(counts)), None)
        if pair is None:
            continue
        others = {cell: count for cell, count in counts.items() if cell not in pair}
        # More values are a grade, unless each of them is a known code such as 9 or -1.
        if 0 < len(others) <= MOST or (others and all(map(_is_code, others))):
            first = next(n for n, cell in known.items() if cell in others)
            yield first, _sentence(name, others)


def _sentence(name: str, others: Mapping[str, int]) -> str:
    values = sorted(others)
    if all(map(_is_code, values)):
        said = ", ".join(f"{value} ({others[value]} lines)" for value in values)
        return f"{name} has beside its two classes {said}: they count as not known"
    count = sum(others.values())
    return f"{name} has beside its two classes {len(values)} other values ({count} lines): a grade?"


def _plain(cell: str) -> str:
    """A cell as it is compared: `1.0` is `1`, and case does not count."""
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
