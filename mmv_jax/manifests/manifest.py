"""Manifest: a CSV with one line a study.

Mistakes are reported line by line; the header is line 1.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from mmv_jax.buckets import Unreachable, is_address, place
from mmv_jax.errors import UserError
from mmv_jax.files import matching
from mmv_jax.manifests.csv_dialect import (
    as_shown,
    encoding_of,
    first_undecoded,
    separator_of,
    visible,
)
from mmv_jax.manifests.spelling import ROUNDED, one_spelling
from mmv_jax.missing import is_missing
from mmv_jax.readers.refused import Refused

REQUIRED = ("study_id", "path", "patient_id", "split", "modality")
OPTIONAL = ("spacing_mm", "unit")
SPLITS = ("train", "val", "test")
MASK = "_mask"
# `Organ_Mask`, `organ-mask` and `organ mask` are `organ_mask`.
MASK_COLUMN = re.compile(r"(.+)[-_ ]mask", re.IGNORECASE | re.DOTALL)
FLAG = " (flag)"  # marks, while a manifest is read, a column `has_mask` with the values yes and no
FLAGS = {"0", "1", "0.0", "1.0", "yes", "no", "true", "false", "y", "n"}
SHAPE = "shape"
EMPTY = "\0"  # begins the name of a column without a name and without cells


@dataclass(frozen=True)
class Line:
    """One study of a manifest.

    Ids and paths belong to the user: they stay with the reader and are hashed before anything is
    written.

    Attributes:
      number: line of the file; the header is line 1.
      path: absolute, or relative to the working directory as the manifest's own path is.
      spacing_mm: mm per pixel, in plane, or None.
      unit: "HU", "shape", another word, or None. A modality that ends in "-shape" implies "shape".
      masks: name (the column without "_mask") -> path.
      labels: every other column that is not empty, as text.
    """

    number: int
    study_id: str
    path: Path
    patient_id: str
    split: str
    modality: str
    spacing_mm: float | None
    unit: str | None
    masks: Mapping[str, Path]
    labels: Mapping[str, str]


class LineRefused(NamedTuple):
    """A refused line: its number, a code of `refused.CODES`, and a reason."""

    number: int
    code: str
    reason: str


class Manifest(NamedTuple):
    """Readable and refused lines of a manifest: `lines, refused = read_manifest(path)`."""

    lines: list[Line]
    refused: list[LineRefused]


def manifests_of(paths: Sequence[Path | str]) -> list[Path]:
    """Paths of manifests, with those in place of each pattern such as `lists/*.csv`.

    Raises:
      UserError: nothing matches a pattern.
    """
    found: list[Path] = []
    for path in map(place, paths):
        if not has_magic(str(path)) or path.exists():
            found.append(path)
        elif more := matching(path):
            found += [each for each in more if each not in found]
        else:
            raise UserError(f"No manifest matches {path.name}. Give the CSV files to read.")
    return found


def read_manifest(path: Path | str) -> Manifest:
    """Read a manifest. A bad line is refused; the other lines go on.

    Raises:
      UserError: the file is not a manifest at all: it is missing or not text, lacks a required
        column, or has a column twice.
    """
    path = place(path)
    columns, cells = _table(path)
    flags = flag_columns(columns, [values for _, values in cells])
    # Marked before lines are read, so that `_line` takes such a column for a label, not a mask.
    columns = [name + FLAG if name in flags else name for name in columns]
    lines, refused = [], []
    for number, values in cells:
        try:
            lines.append(_line(path.parent, number, columns, values))
        except Refused as why:
            refused.append(LineRefused(number, why.code, why.reason))
    # Repeats first: a repeated line in another split would refuse all lines of its patient.
    lines, repeated = _without_repeats(lines)
    lines, leaking = _without_leaks(lines)
    return Manifest(lines, sorted(refused + repeated + leaking))


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Column names, and the cells of each record with the number of its first line.

    Raises:
      UserError: see `read_manifest`.
    """
    try:
        with path.open(encoding=encoding_of(path), newline="") as file:
            begin, separator = separator_of(file, (*REQUIRED, *OPTIONAL))
            # strict: an open quotation mark is an error, not a cell with the rest of the file.
            reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
            columns = [visible(name) for name in next(reader, [])]
            cells = [
                # line_num is the last line of a record; its cells may contain line breaks.
                (begin + reader.line_num - "".join(values).count("\n"), values)
                for values in reader
                if values
            ]
    except Unreachable:
        raise
    except OSError:
        raise UserError(
            "The manifest cannot be read: no such file, or no right to read it."
        ) from None
    except UnicodeDecodeError:
        raise UserError(
            f"The manifest is not a CSV file in UTF-8 (line {first_undecoded(path)}): its encoding"
            " seems to be Latin-1 or Windows-1252, as Excel writes it. Save it as CSV UTF-8."
        ) from None
    except csv.Error as error:
        raise UserError(
            f"The manifest is not a CSV file in UTF-8 (line {reader.line_num}: {error}). Save it as"
            " one, with a header line."
        ) from None
    columns = _named(columns, cells)
    # Only our own column names ignore case: `Split` is `split`. Labels stay as written.
    spelled = {name.casefold(): name for name in (*REQUIRED, *OPTIONAL)}
    columns = [
        spelled[name.casefold()]
        if name.casefold() in spelled and spelled[name.casefold()] not in columns
        else _mask_column(name)
        for name in columns
    ]
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise UserError(
            f"The manifest has no column {', '.join(missing)}. Required are {', '.join(REQUIRED)};"
            " other columns are kept as labels."
        )
    # The index joins mask names by commas.
    if any(name.endswith(MASK) and "," in name for name in columns):
        raise UserError("A mask column of the manifest has a comma in its name. Rename it.")
    if len(set(columns)) < len(columns):
        raise UserError("Two columns of the manifest have one name. Rename one of them.")
    return columns, cells


def _named(columns: list[str], cells: list[tuple[int, list[str]]]) -> list[str]:
    """Columns with a name for each that has none and is not empty: what it holds is not lost."""
    filled = {n for _, values in cells for n, value in enumerate(values) if value.strip()}
    names = [name or f"column_{n + 1}" if n in filled else name for n, name in enumerate(columns)]
    # Empty columns at the end, as spreadsheets leave them, count as one.
    return [name or f"{EMPTY}{n}" for n, name in enumerate(names)]


def _mask_column(name: str) -> str:
    found = MASK_COLUMN.fullmatch(name)
    return f"{found[1]}{MASK}" if found else name


def flag_columns(columns: list[str], rows: list[list[str]]) -> set[str]:
    """Columns named like a mask whose cells are all yes or no: these are labels."""
    flags = set()
    for n, name in enumerate(columns):
        cells = {row[n].strip().lower() for row in rows if n < len(row)} - {""}
        if name.endswith(MASK) and cells and cells <= FLAGS:
            flags.add(name)
    return flags


def _line(folder: Path, number: int, columns: list[str], values: list[str]) -> Line:
    """Line of a manifest from its cells.

    Raises:
      Refused: bad_line, missing_value, bad_split, bad_spacing, not_found.
    """
    if len(values) != len(columns):
        raise Refused(
            "bad_line", f"the header has {len(columns)} columns, this line {len(values)} cells"
        )
    cells = {name: value.strip() for name, value in zip(columns, values)}
    for name in REQUIRED:
        if not cells[name]:
            raise Refused("missing_value", f"{name} is empty")
    for name in ("study_id", "path", "patient_id", "modality"):
        # All studies of the patient `NA` would be of one person. `unknown` is a modality of ours.
        if is_missing(cells[name]) and (name, cells[name]) != ("modality", "unknown"):
            raise Refused("missing_value", f"{name} has a word that means empty")
        if ROUNDED.fullmatch(cells[name]):
            raise Refused(
                "rounded_id",
                f"{name} is a number that a spreadsheet has rounded, so that several share it:"
                " export the column as text",
            )
    if cells["split"] not in SPLITS:
        raise Refused("bad_split", f"split must be one of {', '.join(SPLITS)}")
    # A filled unit column takes precedence (below).
    shape = SHAPE if cells["modality"].casefold().endswith(f"-{SHAPE}") else None
    masks = {
        name.removesuffix(MASK): _place(folder, value)
        for name, value in cells.items()
        if name.endswith(MASK) and not is_missing(value)
    }
    path = _place(folder, cells["path"])
    for name, mask in masks.items():
        if mask == path:
            raise Refused("mask_values", f"the mask {name} is the study's own file")
    reserved = {*REQUIRED, *OPTIONAL}
    labels = {
        name: value
        for name, value in cells.items()
        if value and name not in reserved and not name.endswith(MASK)
    }
    # Ids stay as they are: a store knows its studies by them.
    labels = {name.removesuffix(FLAG): as_shown(value) for name, value in labels.items()}
    # A system call would raise ValueError, which does not name the line.
    if any("\0" in cells[name] for name in cells):
        raise Refused("not_found", "a cell has a NUL character, which no path can have")
    return Line(
        number=number,
        study_id=cells["study_id"],
        path=path,
        patient_id=cells["patient_id"],
        split=cells["split"],
        modality=cells["modality"],
        spacing_mm=_spacing(cells.get("spacing_mm", "")),
        unit=_unit(cells.get("unit", "")) or shape,
        masks=masks,
        labels=labels,
    )


def _place(folder: Path, cell: str) -> Path:
    """Path of a cell, relative to the manifest's folder; `~` is the user's home.

    Raises:
      Refused: not_found, for an address that is not one of a bucket.
    """
    if is_address(cell):
        try:
            return place(cell)
        except UserError:
            raise Refused("not_found", "a path is an address, but not one of a bucket") from None
    path = Path(cell)
    with suppress(RuntimeError):  # no such user
        path = path.expanduser()
    # A bucket's path would take an absolute one of this machine for one of its own.
    return path if path.is_absolute() else folder / path


def _unit(cell: str) -> str | None:
    """Unit of a cell: HU, HU+N or shape in any spelling, or another word."""
    plain = re.sub(r"[^a-z0-9+-]", "", cell.casefold())
    if is_missing(cell) or not plain:
        return None
    if re.fullmatch(r"(in)?(hu|hounsfield)(units?)?", plain):
        return "HU"
    if re.fullmatch(r"hu\+\d+", plain):
        return plain.upper()
    return SHAPE if plain == SHAPE else cell


def _spacing(cell: str) -> float | None:
    if not cell:
        return None
    try:
        mm = float(cell)
    except ValueError:
        mm = float("nan")
    # NaN fails both comparisons, so words and NaN are refused here too.
    if not 0 < mm < float("inf"):
        raise Refused(
            "bad_spacing", "spacing_mm must be one positive number (mm a pixel), or empty"
        )
    return mm


def _without_repeats(lines: list[Line]) -> tuple[list[Line], list[LineRefused]]:
    """Lines with the first line of each study_id, and the refusals of the others."""
    first: dict[str, int] = {}
    kept, refused = [], []
    for line in lines:
        # The first line of a study stays; for a later line setdefault returns the earlier number.
        earlier = first.setdefault(line.study_id, line.number)
        if earlier == line.number:
            kept.append(line)
        else:
            refused.append(
                LineRefused(
                    line.number, "duplicate_study", f"the study_id stands in line {earlier} already"
                )
            )
    return kept, refused


def _without_leaks(lines: list[Line]) -> tuple[list[Line], list[LineRefused]]:
    """Lines of patients in one split, and refusals of all lines of the other patients.

    Nobody can know which of a patient's splits is the mistake.
    """
    # patient -> split -> the first line that has it.
    splits: dict[str, dict[str, int]] = defaultdict(dict)
    for line in lines:
        splits[one_spelling(line.patient_id)].setdefault(line.split, line.number)
    kept, refused = [], []
    for line in lines:
        places = splits[one_spelling(line.patient_id)]
        if len(places) == 1:
            kept.append(line)
        else:
            words = ", ".join(f"{split} (line {number})" for split, number in places.items())
            refused.append(
                LineRefused(
                    line.number,
                    "patient_across_splits",
                    f"the patient is in {words}; a patient may be in one split only",
                )
            )
    return kept, refused
