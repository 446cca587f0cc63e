"""Which columns of a manifest are carried into a store: by an allow-list of what they hold, because a name can be anywhere."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

CATEGORIES = 32  # distinct values of a text column
LONGEST = 32  # characters of such a value
LINES_A_CATEGORY = 2  # a column whose values hardly repeat names its lines
# Short codes that name nobody, however few lines a manifest has.
CODES = frozenset(
    ("f", "m", "o", "u", "female", "male", "other", "unknown", "yes", "no", "true", "false")
    + ("pa", "ap", "ll", "lat", "lateral", "rl", "lao", "rao", "cc", "mlo", "ml", "lm", "l", "r", "b", "left", "right", "both")
)
WORDS_OF_IDENTIFIERS = frozenset(
    ("id", "uid", "name", "names", "mrn", "ssn", "accession", "passport", "insurance", "path", "file", "filename", "folder", "url")
    + ("date", "time", "dob", "birth", "birthday", "birthdate", "address", "street", "city", "zip", "postcode")
    + ("phone", "tel", "fax", "email", "mail")
    + ("physician", "doctor", "radiologist", "operator", "institution", "hospital", "comment", "comments", "note", "notes", "report", "text")
)
IDENTIFIER_DIGITS = 7  # whole numbers this long that differ on every line are record or telephone numbers
DATE_FORMATS = ("%Y%m%d", "%d%m%Y", "%Y%m", "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y")

Cells = Mapping[str, str]


def choose_columns(lines: Sequence[Cells]) -> tuple[dict[str, type], list[str]]:
    """The columns to carry, each with its type (float or str), and the names of those that stay behind.

    A column is carried when its filled cells are all numbers, or are at most 32 different texts of at most 32 characters that
    repeat (or are codes such as PA or F). A column stays behind when its name says that it identifies (id, name, date, path, …), when it holds dates,
    or whole numbers of seven and more digits that differ on every line.
    """
    carried: dict[str, type] = {}
    left: list[str] = []
    for name in dict.fromkeys(column for cells in lines for column in cells):
        kind = _kind(name, [cells[name].strip() for cells in lines if cells.get(name, "").strip()])
        if kind is None:
            left.append(name)
        else:
            carried[name] = kind
    return carried, left


def agreed_kinds(choices: Iterable[Mapping[str, type]]) -> dict[str, type]:
    """One type for each column of several manifests: text where one has numbers and another words.

    >>> agreed_kinds([{"sex": str, "age": float}, {"sex": float}])
    {'sex': <class 'str'>, 'age': <class 'float'>}
    """
    kinds: dict[str, type] = {}
    for columns in choices:
        for name, kind in columns.items():
            kinds[name] = kind if kinds.get(name, kind) is kind else str
    return kinds


def carry(cells: Cells, columns: Mapping[str, type]) -> dict[str, float | str | None]:
    """The cells of one line as `label_<name>` columns of the index; an empty cell is NaN or None."""
    labels: dict[str, float | str | None] = {}
    for name, kind in columns.items():
        cell = cells.get(name, "").strip()
        labels[f"label_{name}"] = (float(cell) if cell else float("nan")) if kind is float else (cell or None)
    return labels


def _kind(name: str, values: list[str]) -> type | None:
    words = set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))
    if not values or words & WORDS_OF_IDENTIFIERS or all(map(_is_date, values)):
        return None
    distinct = set(values)
    if all(map(_is_number, values)):
        whole = all(re.fullmatch(rf"[+-]?\d{{{IDENTIFIER_DIGITS},}}", value) for value in values)
        return None if whole and len(distinct) == len(values) else float
    if all(value.lower() in CODES for value in distinct):
        return str
    repeats = len(values) >= LINES_A_CATEGORY * len(distinct)
    short = len(distinct) <= CATEGORIES and max(map(len, distinct)) <= LONGEST
    return str if repeats and short and not any(map(_looks_like_a_place, distinct)) else None


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_date(value: str) -> bool:
    for form in DATE_FORMATS:
        try:
            year = datetime.strptime(value, form).year
        except ValueError:
            continue
        if 1900 <= year <= 2100:
            return True
    return False


def _looks_like_a_place(value: str) -> bool:
    """A path, an address of the web, or an e-mail address."""
    return bool(re.search(r"[/\\@]|\.\w{2,4}$", value))
