"""Measurement of mammograms: writes tables, overlays and segmentations."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from mmv_jax.bac.anatomy import MUSCLE, Anatomy, anatomy_map
from mmv_jax.bac.doubts import doubts, wall_of
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.kept import Kept
from mmv_jax.bac.measure import (
    BreastResult,
    ViewResult,
    WomanResult,
    area_mm2,
    confirmed,
    of_breasts,
    of_women,
)
from mmv_jax.bac.sources import Entry, Mammogram, list_entries, read_mammogram
from mmv_jax.bac.structured import Measured, write_report
from mmv_jax.bac.view import ViewFrame
from mmv_jax.bac.write import overlay, write_segmentation, write_table, write_views
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.files import write_whole
from mmv_jax.provenance import FILE as PROVENANCE
from mmv_jax.provenance import provenance
from mmv_jax.readers.deidentify import Key
from mmv_jax.readers.read import format_of, refusing
from mmv_jax.readers.refused import Refused

ViewT = TypeVar("ViewT", bound="SeenView")
# folders of OUT and the pattern of their files
PICTURES = {
    "overlays": "*.png",
    "anatomy": "*.png",
    "segmentations": "*.dcm",
    "reports": "*.dcm",
    "women": "*.html",
}
MASKS = "masks"


@dataclass(frozen=True)
class SeenView:
    """What looks calcified on one mammogram.

    Attributes:
      mask, sure_mm2: the file's pixels that look calcified, and how much of them is sure
        (`Finder.seen`). All views of a breast decide together whether they count
        (`measure.confirmed`).
      remark: why the mammogram does not count; "" if it does.
    """

    mammogram: Mammogram
    mask: Bool[np.ndarray, "Y X"]
    sure_mm2: float
    remark: str

    def result(self, woman: str) -> ViewResult:
        """Result of the view, for the woman with this hash."""
        m = self.mammogram
        area = area_mm2(self.mask, m.spacing_mm)
        return ViewResult(
            number=m.entry.number,
            woman=woman,
            side=m.side,
            view=m.view,
            remark=self.remark,
            spacing_mm=m.spacing_mm,
            pixels=int(self.mask.sum()),
            area_mm2=area,
            sure_mm2=self.sure_mm2,
            date=m.date,
            examination=m.examination,
            conditions=m.conditions,
        )


@dataclass(frozen=True)
class Found(SeenView):
    """With the probability of calcified artery of which the mask was made, and its frame."""

    probability: Float[np.ndarray, "y x"]
    frame: ViewFrame


def find(finder: Finder, mammogram: Mammogram) -> Found:
    """Segment a mammogram."""
    voxels = mammogram.study.voxels[0]
    probabilities, frame = finder.probabilities(voxels, mammogram.spacing_mm, mirrored=True)
    mask, sure_mm2 = finder.seen(probabilities, frame, voxels.shape, mammogram.spacing_mm)
    return Found(
        mammogram=mammogram,
        mask=mask,
        sure_mm2=sure_mm2,
        remark=_remark(mammogram, bool(frame.breast.any())),
        probability=probabilities,
        frame=frame,
    )


def _remark(mammogram: Mammogram, breast: bool) -> str:
    return mammogram.remark if breast else "no breast is seen"


def find_all(
    look: Callable[[Mammogram], ViewT],
    entries: Sequence[Entry],
    refuse: Callable[[int, Refused], None],
) -> Iterator[ViewT]:
    """What `look` sees on the readable mammograms, in order, with a line of progress.

    Args:
      refuse: called with the number of each other mammogram, and why.
    """
    known: dict[tuple[str, ...], int] = {}
    for n, entry in enumerate(entries, start=1):
        try:
            mammogram = read_mammogram(entry)
            _refuse_twice(mammogram, known)
        except Refused as why:
            refuse(entry.number, why)
            continue
        yield look(mammogram)
        # A terminal's line is overwritten; a log gets a line every twenty mammograms.
        live = sys.stderr.isatty()
        if live or n % 20 == 0 or n == len(entries):
            print(
                f"mammograms: {n} of {len(entries)}",
                end="\r" if live and n < len(entries) else "\n",
                file=sys.stderr,
                flush=True,
            )


def _refuse_twice(mammogram: Mammogram, known: dict[tuple[str, ...], int]) -> None:
    """Refuse an image of a woman that came before; another of the same view is a second picture.

    Args:
      known: number of the file by woman, view and image; gets this one.
    Raises:
      Refused: duplicate_study.
    """
    m = mammogram
    if m.image and not m.remark:
        first = known.setdefault((m.patient_id, m.side, m.view, m.image), m.entry.number)
        if first != m.entry.number:
            raise Refused("duplicate_study", f"the same image as file {first} (SOP Instance UID)")


@dataclass
class _Resumed:
    """Looks at a mammogram, or takes what an earlier run saw on it."""

    finder: Finder
    kept: Kept
    keys: list[str] = field(default_factory=list)
    before: int = 0

    def __call__(self, mammogram: Mammogram) -> SeenView:
        key = self.kept.key(mammogram)
        self.keys.append(key)
        if (known := self.kept.load(key)) is not None:
            self.before += 1
            mask, sure_mm2, breast = known
            return SeenView(mammogram, mask, sure_mm2=sure_mm2, remark=_remark(mammogram, breast))
        found = find(self.finder, mammogram)
        breast = bool(found.frame.breast.any())
        self.kept.save(key, found.mask, sure_mm2=found.sure_mm2, breast=breast)
        return found


def _clear(out: Path) -> None:
    """Make the folders, and take away what an earlier run left in them."""
    for folder, kind in (*PICTURES.items(), (".", "*.csv")):
        (out / folder).mkdir(parents=True, exist_ok=True)
        # from other files, perhaps of other women, with the same numbers
        for stale in (out / folder).glob(kind):
            stale.unlink()


def measure_files(
    files: Sequence[Path],
    checkpoint: Path,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    key_path: Path | None = None,
) -> str:
    """Measure mammograms (`mmv bac`) and write the results into `out`.

    `views.csv`, `breasts.csv`, `women.csv`; `women/WOMAN.html`, a page each; of each mammogram
    `overlays/NUMBER_SIDE_VIEW.png` and `anatomy/NUMBER.png` (air 0, breast 1, pectoral muscle 2,
    whose areas are in `anatomy.csv`); of DICOM files `segmentations/NUMBER.dcm` where there is
    calcification, and `reports/WOMAN.dcm`. NUMBER is that of the mammogram in the order given;
    women are named by a keyed hash. What an earlier run left in `out` is taken away first, but for
    the masks: what was seen on a file is not looked for again (`kept.py`). `provenance.json`
    names the weights, the rules of measuring and the versions.

    Args:
      overrides: words such as `--config.measure.of_views=max`.
      key_path: the key of the hashes; created beside `out` (`OUT.key`) if missing.
    Returns:
      A table of the women, and the refused mammograms, as text.
    Raises:
      UserError: wrong FILES or checkpoint.
      WorkFailed: no mammogram could be read, or no area could be given in mm².
    """
    if any(path.is_dir() and out.resolve().is_relative_to(path.resolve()) for path in files):
        raise UserError(
            "--out lies in a folder of FILES: its pictures would be measured next time."
        )
    entries, bad_lines = list_entries(files)
    finder = Finder.restore(checkpoint, overrides)
    _clear(out)
    key = _key(key_path or out.with_name(out.name + ".key"))
    refused = [(number, f"manifest line {number}: {reason}") for number, reason in bad_lines]

    def refuse(number: int, reason: Refused | str) -> None:
        refused.append((number, f"file {number}: {reason}"))

    look = _Resumed(finder, Kept.of(out / MASKS, finder))
    views, sources, patients = list[ViewResult](), list[Entry](), list[str]()
    for seen in find_all(look, entries, refuse):
        patients.append(seen.mammogram.patient_id)
        views.append(seen.result(key.hash("patient", seen.mammogram.patient_id)))
        sources.append(seen.mammogram.entry)
    if not views:
        raise WorkFailed("No mammogram could be read. " + "; ".join(words for _, words in refused))
    look.kept.prune(look.keys)
    views = confirmed(views, finder.measure)
    breasts, women = of_breasts(views, finder.measure), of_women(views, finder.measure)
    _write_tables(out, finder, views, breasts=breasts, women=women)
    # Each file is read once more: the pixels of all files together would fill the memory.
    shown, walls = list[Anatomy](), dict[int, str]()
    for view, entry, kept_as in zip(views, sources, look.keys):
        try:
            m = read_mammogram(entry)
            anatomy = _write_pictures(out, m, view, kept=look.kept, key=kept_as, shown=shown)
            walls[view.number] = wall_of(anatomy)
        except Refused as why:
            refuse(entry.number, f"not all of its pictures are written: {why}")
    write_table(out / "anatomy.csv", shown, Anatomy)
    _write_women(out, women, breasts, list(zip(views, sources)))
    words = [
        *(reason for _, reason in refused),
        *(f"file {v.number} does not count: {v.remark}" for v in views if v.remark),
    ]
    words += doubts(views, patients, walls)
    if look.before:
        words.append(f"{look.before} of {len(views)} mammograms were measured by an earlier run.")
    if all(np.isnan(woman.area_mm2) for woman in women):
        raise WorkFailed(
            "\n".join(
                ["No area in mm² could be given; views.csv has what was found, in pixels.", *words]
            )
        )
    return "\n".join([_table(women), *words, "", f"tables, pages, overlays and DICOM: {out}"])


def _write_tables(
    out: Path,
    finder: Finder,
    views: Sequence[ViewResult],
    *,
    breasts: Sequence[BreastResult],
    women: Sequence[WomanResult],
) -> None:
    write_views(out / "views.csv", views)
    write_table(out / "breasts.csv", breasts, BreastResult)
    write_table(out / "women.csv", women, WomanResult)
    rules, data = {"measure": vars(finder.measure)}, {"studies": len(views)}
    record = provenance("mmv bac", config=rules, weights=finder.origin, data=data)
    write_whole(out / PROVENANCE, json.dumps(record, indent=2) + "\n")


def _write_pictures(
    out: Path, m: Mammogram, view: ViewResult, *, kept: Kept, key: str, shown: list[Anatomy]
) -> np.ndarray:
    """Write the overlay and the map of a mammogram, and its segmentation if it is a calcified DICOM
    file; `shown` gets the areas of its map, which is returned.

    Raises:
      Refused: the file has changed since it was measured, or lacks what a segmentation needs.
    """
    # The file is read a second time, and may have been replaced in between.
    known = kept.load(key) if kept.key(m) == key else None
    if known is None:
        raise Refused("mask_grid", "the file has changed since it was measured")
    mask = known[0] & (view.pixels > 0)
    anatomy = anatomy_map(m.study.voxels[0], m.spacing_mm, m.view)
    shown.append(Anatomy.of(view.number, anatomy, mask, m.spacing_mm))
    Image.fromarray(anatomy).save(out / "anatomy" / f"{view.number:04d}.png")
    overlay(m.study.voxels[0], mask, anatomy == MUSCLE).save(_overlay(out, view))
    # A segmentation refers to a DICOM image by its UID; a PNG has none.
    if mask.any() and format_of(m.entry.path) == "dicom":
        with refusing():
            written = write_segmentation(_segmentation(out, view), m.entry.path, mask)
        if not written:
            raise Refused(
                "unreadable",
                "a DICOM segmentation cannot refer to this file, which lacks a study, a frame or an"
                " orientation",
            )
    return anatomy


def _overlay(out: Path, view: ViewResult) -> Path:
    name = "_".join(part for part in (f"{view.number:04d}", view.side, view.view) if part)
    return out / "overlays" / f"{name}.png"


def _segmentation(out: Path, view: ViewResult) -> Path:
    return out / "segmentations" / f"{view.number:04d}.dcm"


def _write_women(
    out: Path,
    women: Sequence[WomanResult],
    breasts: Sequence[BreastResult],
    views: Sequence[tuple[ViewResult, Entry]],
) -> None:
    """A page a woman, and a structured report where all of her views that count are DICOM."""
    # A page needs the plots' libraries, which take seconds to import.
    from mmv_jax.bac.woman_page import write_woman

    for woman in women:
        theirs = [(view, entry) for view, entry in views if view.woman == woman.woman]
        own = [breast for breast in breasts if breast.woman == woman.woman]
        shown = [
            (view, path if (path := _overlay(out, view)).exists() else None) for view, _ in theirs
        ]
        write_woman(out / "women" / f"{woman.woman}.html", woman, own, shown)
        files = [
            Measured(
                view, entry.path, path if (path := _segmentation(out, view)).exists() else None
            )
            for view, entry in theirs
            if not view.remark
        ]
        with refusing():
            # A file that is gone by now has been told of with its pictures.
            if all(f.source.exists() and format_of(f.source) == "dicom" for f in files):
                write_report(out / "reports" / f"{woman.woman}.dcm", woman, own, files)


def _key(path: Path) -> Key:
    return Key.load(path) if path.exists() else Key.create(path)


def _table(women: Sequence[WomanResult]) -> str:
    lines = [f"{'woman':<18}{'views':>6}{'area mm²':>10}  severity"]
    lines += [
        f"{w.woman:<18}{w.views:>6}{w.area_mm2:>10.2f}  {w.severity or 'unknown'}" for w in women
    ]
    return "\n".join(lines)
