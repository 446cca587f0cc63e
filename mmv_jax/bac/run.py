"""Measurement of mammograms: writes tables, overlays and segmentations."""

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

# folders of OUT and the pattern of their files
PICTURES = {"overlays": "*.png", "segmentations": "*.dcm"}


@dataclass(frozen=True)
class Found:
    """Result on one mammogram.

    Attributes:
      probability: of calcified artery, on the working grid.
      mask, sure_mm2: pixels of the file that look calcified, and how much of their area is sure
        (`Finder.seen`). All views of a breast decide together whether they count
        (`measure.confirmed`).
      remark: why the mammogram does not count; "" if it does.
    """

    mammogram: Mammogram
    probability: Float[np.ndarray, "y x"]
    frame: ViewFrame
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
        )


def find(finder: Finder, mammogram: Mammogram) -> Found:
    """Segment a mammogram."""
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
    """Results of the readable mammograms in order, with a line of progress.

    Args:
      refuse: called with number and reason of each other mammogram.
    """
    for n, entry in enumerate(entries, start=1):
        try:
            mammogram = read_mammogram(entry)
        except Refused as why:
            refuse(entry.number, str(why))
            continue
        yield find(finder, mammogram)
        # A terminal's line is overwritten; a log gets a line every twenty mammograms.
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
    """Measure mammograms (`mmv bac`) and write the results into `out`.

    It writes `views.csv`, `breasts.csv`, `women.csv`, `overlays/NUMBER_SIDE_VIEW.png`, and
    `segmentations/NUMBER.dcm` for DICOM files with calcification. NUMBER is that of the mammogram
    in the given order; women are named by a keyed hash. Results of an earlier run in `out` are
    removed first.

    Args:
      overrides: words such as `--config.measure.of_views=max`.
      key_path: the key of the hashes; created beside `out` (`OUT.key`) if missing.
    Returns:
      A table of the women, and the refused mammograms, as text.
    Raises:
      UserError: wrong FILES or checkpoint.
      WorkFailed: no mammogram could be read, or no area could be given in mm².
    """
    entries, bad_lines = list_entries(files)
    finder = Finder.restore(checkpoint, overrides)
    for folder, kind in (*PICTURES.items(), (".", "*.csv")):
        (out / folder).mkdir(parents=True, exist_ok=True)
        # from other files, perhaps of other women, with the same numbers
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
        # One bit per pixel, an eighth of the memory. Packing fills up whole bytes, so keep the
        # shape.
        masks.append((found.mammogram.entry, found.mask.shape, np.packbits(found.mask)))
    if not views:
        raise WorkFailed("No mammogram could be read. " + "; ".join(words for _, words in refused))
    views = confirmed(views, finder.measure)
    breasts, women = of_breasts(views, finder.measure), of_women(views, finder.measure)
    write_views(out / "views.csv", views)
    write_table(out / "breasts.csv", breasts, BreastResult)
    write_table(out / "women.csv", women, WomanResult)
    # Each file is read once more: the pixels of all files together would fill the memory.
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
    """Write the overlay of a mammogram, and its segmentation if it is a calcified DICOM file.

    Raises:
      Refused: the file has changed since it was measured, or lacks what a segmentation needs.
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
