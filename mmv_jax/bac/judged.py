"""Views beside their truth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool

from mmv_jax.bac.agreement import overlap
from mmv_jax.bac.anatomy import MASK as ANATOMY
from mmv_jax.bac.anatomy import anatomy_map, overlaps, unknown_values
from mmv_jax.bac.measure import ViewResult, area_mm2
from mmv_jax.bac.report import outlined_part
from mmv_jax.bac.run import Found
from mmv_jax.bac.sources import Mammogram
from mmv_jax.readers.read import read_mask


@dataclass(frozen=True)
class Judged:
    """A view with its truth.

    Attributes:
      seen: numbers of pixels in both masks, in the truth, and in the found mask, whether they are
        reported or not.
      drawn: view, truth and found mask, if a picture is wanted.
      anatomy: as of `anatomy.overlaps`, if the manifest has that truth in known values.
    """

    found: ViewResult
    truth: ViewResult
    seen: tuple[int, int, int]
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    anatomy: Mapping[str, tuple[int, int, int]] | None = None

    @property
    def pixels(self) -> tuple[int, int, int]:
        """`seen`, for the pixels that are reported."""
        return self.seen if self.found.pixels else (0, self.truth.pixels, 0)


def judge(
    found: Found,
    result: ViewResult,
    truth: Bool[np.ndarray, "Y X"],
    *,
    draw: bool,
    warn: Callable[[str], None],
) -> Judged:
    """A view with its truth.

    Args:
      warn: called with a sentence if the manifest's anatomy has unknown values. That map is not
        compared then.
    Raises:
      Refused: the manifest's anatomy is not of this view.
    """
    area = area_mm2(truth, found.mammogram.spacing_mm)
    # The same view with the true area, so that both pass the same measuring rules.
    true_result = replace(result, pixels=int(truth.sum()), area_mm2=area, sure_mm2=area)
    drawn = (found.mammogram.study.voxels[0], truth, found.mask) if draw else None
    seen = overlap(truth, found.mask)
    return Judged(result, true_result, seen, drawn, anatomy=_anatomy(found.mammogram, warn))


def _anatomy(m: Mammogram, warn: Callable[[str], None]) -> dict[str, tuple[int, int, int]] | None:
    """The map of a view beside its truth, if there is one."""
    if ANATOMY not in m.entry.masks:
        return None
    truth = read_mask(m.entry.masks[ANATOMY], like=m.study)[0]
    if unknown := unknown_values(truth):
        warn(f"mammogram {m.entry.number}: {unknown}")
        return None
    return overlaps(truth, anatomy_map(m.study.voxels[0], m.spacing_mm, m.view))


def picture_of(judged: Judged) -> tuple[str, str] | None:
    """Both outlines over a part of the view, with a caption.

    None without calcification, or if no picture is wanted.
    """
    if judged.drawn is None:
        return None
    (voxels, truth, seen), found = judged.drawn, judged.found
    caption = (
        f"{found.side} {found.view}: {judged.truth.area_mm2:.1f} mm² true, {found.area_mm2:.1f} mm²"
        " found"
    )
    return outlined_part(voxels, truth, seen if found.pixels else np.zeros_like(seen), caption)


def as_reported(judged: Sequence[Judged], views: Sequence[ViewResult]) -> list[Judged]:
    """Each view as it is reported, with its remark on both sides."""
    reported = {view.number: view for view in views}
    # A view that does not count must not count in the truth either.
    pairs = [(j, reported[j.found.number]) for j in judged]
    return [
        replace(j, found=found, truth=replace(j.truth, remark=found.remark)) for j, found in pairs
    ]


def predictions(judged: Sequence[Judged]) -> pd.DataFrame:
    """Table with a row per view: numbers of view and woman, side and view, mm² true and found.

    The number of a woman is valid only in this table.
    """
    return pd.DataFrame(
        {
            "number": [j.found.number for j in judged],
            # here a woman has the manifest's own name, which must not be written
            "woman": pd.factorize(np.array([j.found.woman for j in judged]))[0] + 1,
            "side": [j.found.side for j in judged],
            "view": [j.found.view for j in judged],
            "truth": [j.truth.area_mm2 for j in judged],
            "predicted": [j.found.area_mm2 for j in judged],
        }
    )
