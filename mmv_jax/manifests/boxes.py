"""Boxes of lesions in a CSV become masks of a manifest. Axes: Z Y X voxels of a study.

A line of the CSV is a box: an id (`study_id`, or the name of the study's file), `x, y, w, h` or
`xmin, ymin, xmax, ymax` in pixels, for a volume the slice, counted from 0, and perhaps a `label`.
Pixels are counted as a study is shown: columns from the left edge of the picture, rows from the
top. In a volume columns run to the patient's left, rows to the back and slices to the head, as on
axial slices of DICOM.
"""

import csv
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mmv_jax.errors import UserError
from mmv_jax.files import replacing, write_csv
from mmv_jax.manifests.box_checks import FEW, advice, odd_boxes
from mmv_jax.manifests.csv_dialect import encoding_of, separator_of, visible
from mmv_jax.manifests.listing import keep_added_columns
from mmv_jax.manifests.manifest import MASK, OPTIONAL, REQUIRED, Line, read_manifest
from mmv_jax.missing import is_missing
from mmv_jax.phantom.files import write_nifti, write_png
from mmv_jax.phantom.grid import Grid
from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.readers.refused import Refused
from mmv_jax.study import Study

IDS = ("study_id", "file", "filename", "file_name", "image", "image_id", "image index")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIDES = ("x", "y", "w", "h")
# Further names of these columns.
WORDS = {"width": "w", "height": "h", "x_min": "xmin", "y_min": "ymin", "x_max": "xmax"}
WORDS |= {"y_max": "ymax", "x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"}
SLICES = ("slice", "slice_index", "slice_index_from_0", "z")
KNOWN = (*IDS, *CORNERS, *SIDES, *WORDS, *SLICES, "label")
EDGE = 1.0  # pixels that a box may stick out, by rounding
SHOWN = 5  # lines that a complaint names
LEAVES = "that leaves its image"  # begins the reason of a box that sticks out
NONE = "that is none"  # why a box is not drawn: a width or a height that is not above 0


@dataclass(frozen=True)
class Box:
    """A box of a line of the CSV: from `low` to `high` (x, y) in pixels, in slice `z` or none.

    Attributes:
      sides: whether the line says x, y, w, h, and not corners.
    """

    line: int
    study: str
    low: tuple[float, float]
    high: tuple[float, float]
    z: float | None
    label: str
    sides: bool = False

    @property
    def wrong(self) -> str:
        """Why its numbers are those of no box, in words; "" where they are."""
        numbers = (*self.low, *self.high, 0.0 if self.z is None else self.z)
        # NaN compares as False, so words are refused here too.
        above = self.high[0] > self.low[0] and self.high[1] > self.low[1]
        return "" if above and np.isfinite(numbers).all() else NONE


def read_boxes(path: Path, tell: Callable[[str], None] = print) -> list[Box]:
    """The boxes of a CSV. A line whose four cells are empty is told and is none; among many others
    one may be `wrong`.

    Raises:
      UserError: no such file, no known columns, or lines that hold no box.
    """
    try:
        with path.open(encoding=encoding_of(path), newline="") as file:
            begin, separator = separator_of(file, KNOWN)
            reader = csv.DictReader(file, delimiter=separator, skipinitialspace=True)
            rows = [(begin + reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error):
        raise UserError(f"{path.name}: no CSV file in UTF-8 that can be read.") from None
    if not rows:
        raise UserError(f"{path.name}: there is no line below the header.")
    columns = {visible(str(name)).casefold(): name for name in rows[0][1]}
    study = _first_of(columns, IDS, path, "the study (study_id)")
    # A column of the usual name wins: beside w, `width` may be the picture's.
    named = {WORDS[name]: own for name, own in columns.items() if name in WORDS} | columns
    place = next((names for names in (SIDES, CORNERS) if set(names) <= set(named)), None)
    if place is None:
        raise UserError(
            f"{path.name}: the header has neither {', '.join(SIDES)} nor {', '.join(CORNERS)}."
        )
    z = next((columns[name] for name in SLICES if name in columns), None)
    label, found, empty = columns.get("label", ""), list[Box](), list[int]()
    for line, row in rows:
        cells = [row[named[name]] for name in place]
        if all(is_missing(cell) for cell in cells):
            empty.append(line)
            continue
        own, word = (row[study] or "").strip(), (row.get(label, "") or "").strip()
        layer = row[z] if z else None
        found.append(_box(cells, layer, sides=place == SIDES, line=line, study=own, label=word))
    if empty:
        tell(f"{path.name}: {_at(empty)} no numbers and no box. --free names studies without one.")
    _refuse(path, found, place)
    return found


def _box(cells: Sequence[str], z: str | None, *, sides: bool, **known: Any) -> Box:
    try:
        a, b, c, d = map(float, cells)
        layer = float(z) if z and z.strip() else None
    except (TypeError, ValueError):
        a = b = c = d = float("nan")
        layer = None
    high = (a + c, b + d) if sides else (c, d)
    return Box(low=(a, b), high=high, z=layer, sides=sides, **known)


def _refuse(path: Path, boxes: Sequence[Box], place: Sequence[str]) -> None:
    """Refuse a table without boxes, with many that are none, or of shares of a picture."""
    wrong = [box for box in boxes if box.wrong]
    if not boxes or len(wrong) > FEW * len(boxes):
        advice = "."
        if wrong and all(c > 0 for box in wrong for c in box.high) and place == CORNERS:
            advice = ". If they are x, y, width and height, call them x, y, w, h."
        raise UserError(
            f"{path.name}: {_at([box.line for box in wrong] or [1])} no box: {', '.join(place)}"
            " must be numbers with a width and a height above 0, and a slice is a number or empty"
            f"{advice}"
        )
    if all(0 <= x <= 1 for box in boxes if not box.wrong for x in (*box.low, *box.high)):
        raise UserError(
            f"{path.name}: all numbers are from 0 to 1, which are shares of a picture. Multiply"
            " those of x by its width in pixels and those of y by its height. If the first two are"
            " a centre, as of YOLO, take half of the width and the height off."
        )


def _first_of(columns: dict[str, str], names: Sequence[str], path: Path, what: str) -> str:
    for name in names:
        if name in columns:
            return columns[name]
    raise UserError(f"{path.name}: no column names {what}. Call it one of {', '.join(names)}.")


def draw(boxes: Sequence[Box], study: Study) -> Int[np.ndarray, "Z Y X"]:
    """A mask that is 1 where the centre of a pixel lies in a box.

    Raises:
      ValueError: `args[0]` is the first box that does not fit, `args[1]` why.
    """
    depth, *plane = study.voxels.shape
    mask = np.zeros(study.voxels.shape, np.uint8)
    for box in boxes:
        if box.wrong:
            raise ValueError(box, box.wrong)
        if max(box.high) <= 1:
            raise ValueError(box, "within the first pixel, as a line without a lesion has")
        if (study.ndim == 3) != (box.z is not None):
            why = (
                "without a slice, of a volume" if study.ndim == 3 else "with a slice, of a picture"
            )
            raise ValueError(box, why)
        z = 0.0 if box.z is None else box.z
        if z != int(z) or not 0 <= z < depth:
            raise ValueError(box, f"in a slice that is none of 0 to {depth - 1}")
        sides = []
        for low, high, n in zip(box.low, box.high, reversed(plane)):
            if low < -EDGE or high > n + EDGE:
                size = f"{plane[1]} × {plane[0]}"
                why = f"{LEAVES} of {size} pixels; scale boxes to the file's own size"
                raise ValueError(box, why)
            # A box that is thinner than a pixel still marks one.
            first = min(max(int(np.ceil(low - 0.5)), 0), n - 1)
            sides.append(slice(first, max(int(np.ceil(high - 0.5)), first + 1)))
        mask[int(z), sides[1], sides[0]] = 1
    return mask


def write_boxes(
    manifest: Path,
    boxes: Path,
    out: Path,
    *,
    mask: str,
    labels: Sequence[str] = (),
    free: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = print,
) -> int:
    """Write a manifest whose column `<mask>_mask` has the boxes, and the masks beside it.

    Args:
      out: the new manifest; masks go into a folder of its name, called by the manifest's lines.
      labels: boxes with one of these; none: all boxes.
      free: columns and the value of studies that are free of it: without a box, such a study gets
        an empty mask. Other studies without a box get none.
    Returns:
      The number of studies with a box.
    Raises:
      UserError: the CSV is none, no box fits the manifest, boxes do not fit their images or name
        several studies, the manifest has such a mask, or `out` would lose what it holds.
    """
    lines, refused = read_manifest(manifest)
    columns = _columns(lines, f"{mask}{MASK}", manifest)
    # Checked before anything is written.
    if Path(out).absolute() == Path(str(manifest)).absolute():
        raise UserError(f"{out.name} is the manifest itself: give another --out.")
    keep_added_columns(out, columns)
    every = read_boxes(boxes, tell)
    # "Nodule" and "nodule" are one label: half of the lesions would be missing.
    wanted = {label.casefold() for label in labels}
    kept = [box for box in every if not labels or box.label.casefold() in wanted]
    names = sorted({box.label for box in every if box.label})
    if not labels and len(names) > 1:
        tell(f"Boxes of all {len(names)} labels are one mask ({', '.join(names[:SHOWN])}).")
    if not kept:
        there = ", ".join(names) or "none"
        raise UserError(
            f"{boxes.name}: no box has the label {', '.join(labels)}. There are: {there}."
        )
    own = _by_line(kept, lines, boxes)
    if not own:
        raise UserError(
            f"{boxes.name}: no box is of a study of {manifest.name}. Ids are compared with study_id"
            " and with the name of the study's file."
        )
    if absent := len(kept) - sum(map(len, own.values())):
        tell(f"{absent:,} of {len(kept):,} boxes are of studies that the manifest does not have.")
    if refused:
        tell(f"{len(refused):,} lines of {manifest.name} are refused and left out: see its ingest.")
    own |= {line.number: [] for line in lines if line.number not in own and _is_free(line, free)}
    found = _masks_of(lines, own, out, mask=mask, boxes=boxes, tell=tell)
    _write(out, lines, found, columns)
    return sum(number in found for number, theirs in own.items() if theirs)


def _by_line(boxes: Sequence[Box], lines: Sequence[Line], path: Path) -> dict[int, list[Box]]:
    """Boxes by the number of the manifest's line.

    Raises:
      UserError: a box names a file, and several studies have a file of that name.
    """
    named: dict[str, set[int]] = defaultdict(set)
    for line in lines:
        name = Path(str(line.path)).name
        for key in (name.split(".")[0], name):
            named[key].add(line.number)
    # A study's own id wins over the name of another one's file.
    named |= {line.study_id: {line.number} for line in lines}
    own: dict[int, list[Box]] = defaultdict(list)
    unclear = [box.line for box in boxes if len(named.get(box.study, ())) > 1]
    if unclear:
        raise UserError(
            f"{path.name}: {_at(unclear)} a file's name that several studies of the manifest have."
            " Name the study by its study_id."
        )
    for box in boxes:
        for number in named.get(box.study, ()):
            own[number].append(box)
    return dict(own)


def _is_free(line: Line, free: Mapping[str, str] | None) -> bool:
    # Of no column nothing is known: `all` of nothing would be true.
    return free is not None and len(free) > 0 and free.items() <= line.labels.items()


def _masks_of(
    lines: Sequence[Line],
    own: dict[int, list[Box]],
    out: Path,
    *,
    mask: str,
    boxes: Path,
    tell: Callable[[str], None],
) -> dict[int, Path]:
    """The mask's file of each line of `own`, by its number."""
    folder, found, unread = out.parent / f"{out.stem}-{mask}", dict[int, Path](), 0
    folder.mkdir(parents=True, exist_ok=True)
    wrong: dict[str, list[int]] = defaultdict(list)
    seen, sizes = list[Box](), list[tuple[int, int]]()
    for line in lines:
        if line.number not in own:
            continue
        try:
            study = read_study(line.path, spacing_mm=line.spacing_mm, unit=line.unit)
        except Refused:
            unread += 1  # the ingest says why
            continue
        seen += own[line.number]
        sizes += [study.voxels.shape[:0:-1]] * len(own[line.number])  # width, height
        try:
            drawn = draw(own[line.number], study)
        except ValueError as error:
            wrong[error.args[1]].append(error.args[0].line)
            continue
        try:
            # Named by the line: a file's name may be a patient's.
            found[line.number] = _write_mask(folder / f"line-{line.number:06d}", drawn, study)
        except Refused as why:
            raise UserError(f"{boxes.name}: a mask for line {line.number} fails: {why}.") from None
    _tell_of(seen, np.array(sizes), wrong, boxes=boxes, tell=tell)
    if unread:
        tell(f"{unread:,} studies cannot be read; the ingest says why.")
    return found


def _tell_of(
    seen: Sequence[Box],
    sizes: np.ndarray,
    wrong: Mapping[str, list[int]],
    *,
    boxes: Path,
    tell: Callable[[str], None],
) -> None:
    """Tell boxes that do not fit, and those that were probably meant otherwise.

    Args:
      sizes: [B, 2] width and height of the picture of each box.
      wrong: by reason, the lines of boxes that were not drawn.
    Raises:
      UserError: many do not fit.
    """
    of_sides = any(box.sides for box in seen)
    kept = [n for n, box in enumerate(seen) if not box.wrong]
    whole, own = [seen[n] for n in kept], sizes[kept]
    said = "\n".join(f"{boxes.name}: {_at(at)} a box {why}." for why, at in wrong.items())
    if sum(map(len, wrong.values())) > FEW * len(seen):
        leaves = whole and all(why.startswith(LEAVES) for why in wrong)
        raise UserError(said + (advice(whole, own, EDGE, sides=of_sides) if leaves else ""))
    if wrong:
        tell(f"{said}\nTheir studies get no mask, as it would not have all of their lesions.")
    for sentence in odd_boxes(whole, own, sides=of_sides) if whole else ():
        tell(sentence)


def _write_mask(path: Path, drawn: np.ndarray, study: Study) -> Path:
    """Write a mask and read it again as the ingest will.

    Raises:
      Refused: it would not lie on its study, as where a volume lies obliquely.
    """
    # By its content too: other boxes get other files, so a manifest of an earlier call stays right.
    suffix = ".png" if study.ndim == 2 else ".nii.gz"
    path = path.with_name(f"{path.name}-{zlib.crc32(drawn.tobytes()):08x}{suffix}")
    with replacing(path) as part:
        if study.ndim == 2:
            write_png(part, drawn[0])
        else:
            origin = tuple(study.attributes[f"first_{axis}_mm"] for axis in "zyx")
            write_nifti(part, drawn, Grid(drawn.shape, study.spacing_mm, origin))  # type: ignore[arg-type]
    if not np.array_equal(read_mask(path, like=study), drawn):
        raise Refused("mask_grid", "the mask does not lie where its boxes are")
    return path


def _columns(lines: Sequence[Line], column: str, manifest: Path) -> list[str]:
    """Columns of the new manifest, of which the last is that of the boxes.

    Raises:
      UserError: the manifest has that column.
    """
    labels = list(dict.fromkeys(name for line in lines for name in line.labels))
    others = list(dict.fromkeys(f"{name}{MASK}" for line in lines for name in line.masks))
    if column in (*labels, *others):
        raise UserError(f"{manifest.name} has the column {column} already: give another --mask.")
    return [*REQUIRED, *OPTIONAL, *labels, *others, column]


def _write(out: Path, lines: Sequence[Line], masks: dict[int, Path], columns: list[str]) -> None:
    rows = []
    for line in lines:
        row = {name: getattr(line, name) for name in (*REQUIRED, *OPTIONAL)}
        # Absolute: the new manifest may lie elsewhere than the old one.
        row["path"] = _absolute(line.path)
        row |= dict(line.labels)
        row |= {f"{name}{MASK}": _absolute(path) for name, path in line.masks.items()}
        if line.number in masks:
            row[columns[-1]] = masks[line.number].relative_to(out.parent).as_posix()
        rows.append(row)
    write_csv(out, columns, rows)


def _absolute(path: Path) -> str:
    # A bucket's address is absolute already, and its path class is no local one.
    return str(path if "://" in str(path) else path.absolute())


def _at(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:SHOWN]))
    more = f" and {len(lines) - SHOWN:,} more" if len(lines) > SHOWN else ""
    return f"line {shown} has" if len(lines) == 1 else f"lines {shown}{more} have"
