"""A page a woman, to look at: her views with what was found, the areas, what does not count."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmv_jax.bac.measure import BreastResult, ViewResult, WomanResult
from mmv_jax.files import write_whole
from mmv_jax.report.figures import picture
from mmv_jax.report.page import Cell, Page, Section, Strip, Table

SIDES = {"L": "left", "R": "right"}
SHOWN_PIXELS = 900  # of an overlay's longer side on the page


def write_woman(
    path: Path,
    woman: WomanResult,
    breasts: Sequence[BreastResult],
    views: Sequence[tuple[ViewResult, Path | None]],
) -> None:
    """Writes one HTML file, which asks no network and names nobody.

    Args:
      views: all of hers, with their overlays where one was written.
    """
    severity = woman.severity or "unknown severity"
    area = "area not known" if np.isnan(woman.area_mm2) else f"{woman.area_mm2:.1f} mm²"
    lines = [
        [Cell(f"{v.number}"), Cell(f"{v.side} {v.view}".strip() or "—"), _mm2(v.area_mm2)]
        + [Cell(v.remark or "counts", tone="" if v.remark else "good")]
        for v, _ in views
    ]
    strips = [
        Strip([_shown(overlay, view)], caption=f"{view.side} {view.view}".strip())
        for view, overlay in views
        if overlay is not None
    ]
    of_breasts = [[Cell(SIDES[b.side]), Cell(str(b.views)), _mm2(b.area_mm2)] for b in breasts]
    page = Page(
        title=f"Breast arterial calcification: {severity}",
        subtitle=f"woman {woman.woman}, {len(views)} mammograms, of which {woman.views} count",
        verdict=[f"Calcified area {_of_which(breasts)}: {area}."],
        sections=[
            Section(
                "What was found",
                ["Left half: the view. Right half: a line around what was taken for calcium."],
                strips=strips,
            ),
            Section("Breasts", tables=[Table(["breast", "views", "area, mm²"], of_breasts)]),
            Section(
                "Mammograms", tables=[Table(["number", "view", "area, mm²", "counts?"], lines)]
            ),
        ],
    )
    write_whole(path, page.html())


def _of_which(breasts: Sequence[BreastResult]) -> str:
    """The breasts of which the area is: her severity is that of one where only one was seen."""
    seen = [SIDES[breast.side] for breast in breasts if breast.views]
    if len(seen) == 1:
        (other,) = {"left", "right"} - set(seen)
        return f"of the {seen[0]} breast alone (no view of the {other} one counts)"
    return "of both breasts" if seen else "(no view counts)"


def _mm2(area: float) -> Cell:
    return Cell("not known" if np.isnan(area) else f"{area:.2f}")


def _shown(overlay: Path, view: ViewResult) -> tuple[str, str]:
    with Image.open(overlay) as image:
        image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
        values = np.asarray(image.convert("RGB")) / 255
    name = f"{view.side} {view.view}".strip()
    area = "area not known" if np.isnan(view.area_mm2) else f"{view.area_mm2:.2f} mm²"
    if view.remark:
        area = f"{area}; does not count: {view.remark}"
    return picture(values, f"{name} with what was found", max(values.shape[:2])), area
