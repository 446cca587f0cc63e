"""What of a manifest's columns is plausible and probably meant otherwise: masks, spacings and units
under other names, words that count as "not known", numbers that are text.

A warning names the column and the first line, and quotes no cell.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from mmv_jax.manifests.manifest import Line
from mmv_jax.missing import is_missing
from mmv_jax.store.labels import NUMBER, PATIENTS_A_VALUE, measures
from mmv_jax.store.odd_lines import odd_lines
from mmv_jax.store.odd_values import odd_values
from mmv_jax.store.person_names import may_name_people
from mmv_jax.store.personal import may_be_births, may_be_postcodes, names_places
from mmv_jax.store.spelled_twice import spelled_twice

MASK_WORD = re.compile(r"mask|seg(mentation)?s?(?![a-z])|label_?map|contour|roi(?![a-z])", re.I)
FILE = re.compile(r"\.(nii|nii\.gz|nrrd|mha|png|dcm|tiff?|jpe?g|npy)$", re.IGNORECASE)
SPACINGS = {"spacing", "pixelspacing", "voxelsize", "pixelsize", "resolution", "mmperpixel", "pxmm"}
UNITS = {"units", "intensityunit", "pixelunit", "voxelunit"}
# Words of the list for "not known" that are a class beside others: no finding, a minus.
NONE_WORDS = {"none", "nil"}
MINUS = {"-", "--", "–", "—"}
NEARLY_A_NUMBER = re.compile(
    r"[<>≤≥~]?=?\s*[+\u2212-]?\d+([.,]\d+)?\s*(%|mm|cm|ml|kg|g|hu)?|[+-]?inf(inity)?|\d+_\d+", re.I
)

Odd = tuple[int, str, str]  # line, code, sentence


def odd_columns(lines: Sequence[Line], kinds: Mapping[str, type]) -> Iterator[Odd]:
    """(line, code, sentence) of each warning about a manifest.

    Args:
      lines: of one manifest.
      kinds: the type of each column that is carried as a label.
    """
    yield from odd_lines(lines)
    named = {name for line in lines for name in line.labels}
    for name in sorted(named):
        cells = {line.number: line.labels[name] for line in lines if name in line.labels}
        for code, first, sentence in _of_column(name, cells, kinds.get(name)):
            yield first, code, sentence
        if why := _of_people(name, list(cells.values()), kinds.get(name)):
            yield min(cells), "may_name_someone", f"{name} is in the store, and {why}"


def _of_column(
    name: str, cells: Mapping[int, str], kind: type | None
) -> Iterator[tuple[str, int, str]]:
    known = {n: cell.strip() for n, cell in cells.items() if not is_missing(cell)}
    if not known:
        return
    first, plain = min(known), re.sub(r"[^a-z]", "", name.lower())
    if MASK_WORD.search(name) and all(FILE.search(cell) for cell in known.values()):
        yield "odd_column", first, f"{name} seems to name masks: call it NAME_mask, and they are"
    elif plain in SPACINGS | UNITS:
        column = "spacing_mm" if plain in SPACINGS else "unit"
        yield "odd_column", first, f"{name} is taken as a label: what counts is called {column}"
    if formulas := [n for n, cell in known.items() if cell.startswith("=")]:
        yield "odd_column", formulas[0], f"{name} has formulas for values: export what they show"
    yield from odd_values(name, known, kind)
    if kind is not str:
        return
    if word := _word_for_missing(cells, known):
        number = next(n for n, cell in cells.items() if cell.strip().casefold() == word)
        yield (
            "word_for_missing",
            number,
            f"{name}: {word!r} counts as not known; if it is a class, write another word",
        )
    if spelled := spelled_twice(Counter(known.values())):
        yield "odd_column", first, f"{name} has classes that differ in spelling alone: {spelled}"
    odd = [n for n, cell in known.items() if not NUMBER.fullmatch(cell)]
    if odd and all(NEARLY_A_NUMBER.fullmatch(cell) for cell in known.values()):
        yield (
            "odd_numbers",
            odd[0],
            f"{name} has numbers with signs, commas or units, and is text for them: write 1.5",
        )


def _of_people(name: str, cells: Sequence[str], kind: type | None) -> str:
    """Why a column that is carried may name people or places; "" where it does not seem so."""
    known = [cell.strip() for cell in cells if not is_missing(cell)]
    distinct = set(known)
    if kind is str and may_name_people(distinct):
        return "half of its texts have the form of people's names: leave the column out if they are"
    if kind is str and names_places(distinct):
        return "it seems to name hospitals: leave the column out, or write codes for them"
    if kind is float and may_be_births(distinct) and not measures(name):
        return "its years reach back as those of births do: leave the column out, or write ages"
    # Settings and measurements of four digits stand under names that say so.
    shared = len(known) >= PATIENTS_A_VALUE * len(distinct)
    if kind is float and shared and may_be_postcodes(distinct) and not measures(name):
        return "its numbers of four digits may be postcodes: leave the column out if they are"
    return ""


def _word_for_missing(cells: Mapping[int, str], known: Mapping[int, str]) -> str:
    """A word that means "not known" and may be a class of this column; "" if there is none."""
    missing = {cell.strip().casefold() for cell in cells.values() if is_missing(cell)}
    values = {cell.casefold() for cell in known.values()}
    if values <= {"true", "false"}:  # Python's own None beside them
        return ""
    if all(set(value) == {"+"} for value in values):
        return next(iter(missing & MINUS), "")
    return next(iter(missing & NONE_WORDS), "")
