"""Encoding and separator of a table, as spreadsheets of any country write it."""

import csv
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import TextIO

from mmv_jax.manifests.spelling import INVISIBLE

SEPARATORS = (",", ";", "\t", "|")
TEXT_FORMULA = re.compile(r'="([^"]*)"')
EXCEL = re.compile(r"\ufeff?sep=.\r?\n?")


def separator_of(file: TextIO, ours: Collection[str]) -> tuple[int, str]:
    """Lines before the header, and the separator with which it has most of our columns.

    Excel's separator depends on the country; its files may begin with a line `sep=;`. The file is
    left at the header.
    """
    found = EXCEL.fullmatch(file.readline())
    begin = file.tell() if found else file.seek(0)
    header = file.readline()
    file.seek(begin)

    def known(separator: str) -> tuple[int, int]:
        names = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        # Without any of ours the one that separates most counts.
        return len({visible(name).casefold() for name in names} & set(ours)), len(names)

    return (1 if found else 0), max(SEPARATORS, key=known)


def visible(name: str) -> str:
    """Column name without marks that nobody sees, such as a second byte order mark."""
    letters = [letter for letter in name if unicodedata.category(letter) != INVISIBLE]
    return "".join(letters).strip()


def as_shown(cell: str) -> str:
    """Cell as a spreadsheet shows it: `="1"` keeps a text from becoming a number.

    >>> as_shown('="007"'), as_shown("=A1+1")
    ('007', '=A1+1')
    """
    found = TEXT_FORMULA.fullmatch(cell)
    return found[1].strip() if found else cell


def encoding_of(path: Path) -> str:
    """Encoding of a manifest: UTF-8, or UTF-16 by its mark or the zeros between its letters."""
    with path.open("rb") as file:
        head = file.read(4)
    if head in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    # The byte order mark of UTF-16, in either order.
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    # Latin letters in UTF-16 have a zero as one of two bytes. `-sig` drops the mark of UTF-8.
    if b"\0\0" in (head[::2], head[1::2]):
        return "utf-16-le" if head[1::2] == b"\0\0" else "utf-16-be"
    return "utf-8-sig"


def first_undecoded(path: Path) -> int:
    """Number of the first line that is not UTF-8."""
    lines = path.read_bytes().split(b"\n")
    return 1 + next(n for n, line in enumerate(lines) if not _is_utf8(line))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
