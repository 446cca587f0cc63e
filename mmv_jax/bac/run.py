"""Mammograms in; tables, overlays and segmentations out."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped

from mmv_jax.bac.infer import Finder
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
from mmv_jax.bac.view import ViewFrame
from mmv_jax.bac.write import overlay, write_segmentation, write_table, write_views
from mmv_jax.errors import WorkFailed
from mmv_jax.readers.deidentify import Key
from mmv_jax.readers.read import format_of, refusing
from mmv_jax.readers.refused import Refused

PICTURES = {"overlays": "*.png", "segmentations": "*.dcm"}  # folders of OUT, and what they hold


@dataclass(frozen=True)
class Found:
    """What was found on one mammogram.

    Attributes:
      probability: of calcified artery.
      mask, sure_mm2: the file's pixels that look calcified, and how much of them is sure
        (`Finder.seen`); whether they count, all views of a breast say together (`areas.confirmed`).
    """

    mammogram: Mammogram
    probability: Float[np.ndarray, "y x"]
    frame: ViewFrame
    mask: Bool[np.ndarray, "Y X"]
    sure_mm2: float
    remark: str

    def result(self, woman: str) -> ViewResult:
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
        )


def find(finder: Finder, mammogram: Mammogram) -> Found:
    """Segments a mammogram."""
    voxels = mammogram.study.voxels[0]
    probabilities, frame = finder.probabilities(voxels, mammogram.spacing_mm, mirrored=True)
    mask, sure_mm2 = finder.seen(probabilities, frame, voxels.shape, mammogram.spacing_mm)
    remark = mammogram.remark if frame.breast.any() else "no breast is seen"
    return Found(
        mammogram=mammogram,
        probability=probabilities,
        frame=frame,
        mask=mask,
        sure_mm2=sure_mm2,
        remark=remark,
    )


def find_all(
    finder: Finder, entries: Sequence[Entry], refuse: Callable[[int, str], None]
) -> Iterator[Found]:
    """Each mammogram that can be read, in order, with a line of progress; `refuse` is told the
    number and the reason of each other one.
    """
    for n, entry in enumerate(entries, start=1):
        try:
            mammogram = read_mammogram(entry)
        except Refused as why:
            refuse(entry.number, str(why))
            continue
        yield find(finder, mammogram)
        # A terminal's line renews itself; a log gets a line every twenty mammograms.
        live = sys.stderr.isatty()
        if live or n % 20 == 0 or n == len(entries):
            print(
                f"mammograms: {n} of {len(entries)}",
                end="\r" if live and n < len(entries) else "\n",
                file=sys.stderr,
                flush=True,
            )


def measure_files(
    files: Sequence[Path],
    checkpoint: Path,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    key_path: Path | None = None,
) -> str:
    """`mmv bac`: measures mammograms and writes what was found into `out`.

    `views.csv`, `breasts.csv`, `women.csv`; `overlays/NUMBER_SIDE_VIEW.png`;
    `segmentations/NUMBER.dcm` of DICOM files with calcification. NUMBER is that of the mammogram in
    the order given; women are named by a keyed hash. What an earlier run left in `out` is taken
    away first.

    Args:
      key_path: the key of the hashes; made beside `out` (`OUT.key`) where it is missing.
      overrides: words such as `--config.measure.of_views=max`.
    Returns:
      A table of the women and what was refused, as text.
    Raises:
      UserError: wrong FILES or checkpoint.
      WorkFailed: no mammogram could be read, or no area could be given in mm².
    """
    entries, bad_lines = list_entries(files)
    finder = Finder.restore(checkpoint, overrides)
    for folder, kind in (*PICTURES.items(), (".", "*.csv")):
        (out / folder).mkdir(parents=True, exist_ok=True)
        # of other files, perhaps of other women, under the same numbers
        for stale in (out / folder).glob(kind):
            stale.unlink()
    key = _key(key_path or out.with_name(out.name + ".key"))
    refused = [(number, f"manifest line {number}: {reason}") for number, reason in bad_lines]

    def refuse(number: int, reason: str) -> None:
        refused.append((number, f"file {number}: {reason}"))

    views, masks = (
        list[ViewResult](),
        list[tuple[Entry, tuple[int, ...], Shaped[np.ndarray, " bytes"]]](),
    )
    for found in find_all(finder, entries, refuse):
        views.append(found.result(key.hash("patient", found.mammogram.patient_id)))
        # A bit a pixel, an eighth of the memory; packing fills up whole bytes, hence the shape.
        masks.append((found.mammogram.entry, found.mask.shape, np.packbits(found.mask)))
    if not views:
        raise WorkFailed("No mammogram could be read. " + "; ".join(words for _, words in refused))
    views = confirmed(views, finder.measure)
    breasts, women = of_breasts(views, finder.measure), of_women(views, finder.measure)
    write_views(out / "views.csv", views)
    write_table(out / "breasts.csv", breasts, BreastResult)
    write_table(out / "women.csv", women, WomanResult)
    # each file is read once more: the pixels of all at once would fill the memory
    for view, (entry, shape, bits) in zip(views, masks):
        mask = np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)
        try:
            _write_pictures(out, read_mammogram(entry), mask & (view.pixels > 0))
        except Refused as why:
            refuse(entry.number, f"not all of its pictures are written: {why}")
    words = [
        *(reason for _, reason in refused),
        *(f"file {v.number} does not count: {v.remark}" for v in views if v.remark),
    ]
    if all(np.isnan(woman.area_mm2) for woman in women):
        raise WorkFailed(
            "\n".join(
                ["No area in mm² could be given; views.csv has what was found, in pixels.", *words]
            )
        )
    return "\n".join([_table(women), *words, "", f"tables, overlays and segmentations: {out}"])


def _write_pictures(out: Path, m: Mammogram, mask: Bool[np.ndarray, "Y X"]) -> None:
    """The overlay of a mammogram and, where it is a DICOM file with calcification, its
    segmentation.

    Raises:
      Refused: the file is not the one that was measured, or lacks what a segmentation needs.
    """
    voxels = m.study.voxels[0]
    # The file is read a second time, and may have been replaced in between.
    if voxels.shape != mask.shape:
        raise Refused("mask_grid", "the file has changed since it was measured")
    name = "_".join(part for part in (f"{m.entry.number:04d}", m.side, m.view) if part)
    overlay(voxels, mask).save(out / "overlays" / f"{name}.png")
    # A segmentation refers to a DICOM image by its UID; a PNG has none.
    if mask.any() and format_of(m.entry.path) == "dicom":
        with refusing():
            written = write_segmentation(
                out / "segmentations" / f"{m.entry.number:04d}.dcm", m.entry.path, mask
            )
        if not written:
            raise Refused(
                "unreadable",
                "a DICOM segmentation cannot refer to this file, which lacks a study, a frame or an"
                " orientation",
            )


def _key(path: Path) -> Key:
    return Key.load(path) if path.exists() else Key.create(path)


def _table(women: Sequence[WomanResult]) -> str:
    lines = [f"{'woman':<18}{'views':>6}{'area mm²':>10}  severity"]
    lines += [
        f"{w.woman:<18}{w.views:>6}{w.area_mm2:>10.2f}  {w.severity or 'unknown'}" for w in women
    ]
    return "\n".join(lines)
