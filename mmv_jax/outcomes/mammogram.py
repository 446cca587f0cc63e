"""From a calcification mask to mm²: of a view, a breast, a woman. Axes: [z, y, x] of a planar
study, or [y, x].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from mmv_jax.errors import UserError

RULES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda x: float(np.mean(x)),
    "max": max,
    "sum": sum,
}
# the views of a breast show the same calcification: their sum would count it twice
OF_VIEWS = ("mean", "max")
OF_BREASTS = ("sum", "mean", "max")


@dataclass(frozen=True)
class View:
    """One mammogram's result: `side` is "L" or "R", `view` "CC" or "MLO", the area NaN where the
    pixel spacing is unknown.
    """

    side: str
    view: str
    area_mm2: float


def tissue_spacing_mm(
    imager_spacing_mm: tuple[float, float], magnification: float = 1.0
) -> tuple[float, float]:
    """The pixel's (y, x) size in the plane of the breast.

    ImagerPixelSpacing is measured at the detector. Tissue is nearer to the source and is cast
    larger by `magnification` (EstimatedRadiographicMagnificationFactor, or the distance of source
    to detector over that of source to patient), so lengths are divided by it.

    Example:
      >>> tissue_spacing_mm((0.1, 0.1), 1.25)
      (0.08, 0.08)
    """
    if not 1.0 <= magnification < 4.0:
        raise UserError(
            f"The magnification is {magnification:g}, but a breast in front of the detector is cast"
            " 1 to 4 times as large. Correct it."
        )
    return imager_spacing_mm[0] / magnification, imager_spacing_mm[1] / magnification


def area_mm2(mask: Shaped[np.ndarray, "*zyx"], spacing_mm: tuple[float, float]) -> float:
    """The area of the pixels of `mask` that are not 0; NaN where the spacing is unknown.

    Args:
      spacing_mm: (y, x) in the plane of the breast.
    """
    return float(np.count_nonzero(mask) * spacing_mm[0] * spacing_mm[1])


def view_areas(views: Sequence[View]) -> list[float]:
    """mm² of each view of one breast, in the order of their names; repeats of one view are
    averaged.
    """
    return [
        float(np.mean([view.area_mm2 for view in views if view.view == name]))
        for name in sorted({view.view for view in views})
    ]


def breast_areas(views: Sequence[View], *, of_views: str = "mean") -> dict[str, float]:
    """mm² by side: repeats of one view are averaged, then the views are put together by the rule
    `of_views`.

    An area that is NaN makes its breast NaN: an unknown spacing is no zero.
    """
    check_rule(of_views, OF_VIEWS, "of_views")
    areas = {}
    for side in sorted({view.side for view in views}):
        each = view_areas([view for view in views if view.side == side])
        areas[side] = float("nan") if np.isnan(each).any() else float(RULES[of_views](each))
    return areas


def woman_area(views: Sequence[View], *, of_views: str = "mean", of_breasts: str = "sum") -> float:
    """mm² of a woman; after the removal of a breast, or with one side imaged, it is that of the
    other.

    Example:
      >>> woman_area([View("L", "CC", 4.0), View("L", "MLO", 6.0), View("R", "CC", 1.0)])
      6.0
    """
    check_rule(of_breasts, OF_BREASTS, "of_breasts")
    areas = list(breast_areas(views, of_views=of_views).values())
    if not areas:
        raise ValueError("a woman without views has no area")
    return float("nan") if np.isnan(areas).any() else float(RULES[of_breasts](areas))


def check_rule(rule: str, known: Sequence[str], name: str) -> None:
    """Refuses a rule of aggregation that is none."""
    if rule not in known:
        raise UserError(
            f"{name} is {rule!r}, which is no rule of aggregation. There are: {', '.join(known)}."
        )
