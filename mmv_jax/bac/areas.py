"""Results of views, breasts and women: the numbers that are written down. Names are keyed hashes
and numbers of files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmv_jax.bac.infer import Measure
from mmv_jax.bac.sources import NO_SPACING
from mmv_jax.outcomes.cohort import SEVERITIES, severity
from mmv_jax.outcomes.mammogram import View, breast_areas, view_areas, woman_area

EARLIER = "an earlier examination: of a woman's the latest counts"


@dataclass(frozen=True)
class ViewResult:
    """One mammogram.

    Attributes:
      number: of the file or manifest line, in the order given.
      woman: the keyed hash of the patient.
      remark: why it does not count; "" where it does.
      spacing_mm: (y, x) of the file's pixels in the plane of the breast, NaN where unknown.
      pixels: calcified pixels of the file's grid. area_mm2: NaN where the spacing is unknown.
      sure_mm2: the area of them that lies in groups that are no small ones (`Finder.seen`).
      date: of the examination, where the file says it. Never written.
    """

    number: int
    woman: str
    side: str
    view: str
    remark: str
    spacing_mm: tuple[float, float]
    pixels: int
    area_mm2: float
    sure_mm2: float
    date: str = ""


@dataclass(frozen=True)
class BreastResult:
    """One breast: the views that count, and their area by the rule `of_views`."""

    woman: str
    side: str
    views: int
    area_mm2: float


@dataclass(frozen=True)
class WomanResult:
    """One woman: the views that count and their area; without any, or with an unknown spacing, the
    area is NaN and the severity "".
    """

    woman: str
    views: int
    area_mm2: float
    severity: str


def counted(views: Sequence[ViewResult]) -> list[ViewResult]:
    """The views that count, with those that would if their spacing were known: an unknown area is
    no zero and makes its woman's unknown.
    """
    return [view for view in views if view.remark in ("", NO_SPACING)]


def confirmed(views: Sequence[ViewResult], measure: Measure) -> list[ViewResult]:
    """The views as they are reported: those of a breast in which too little is sure have no
    calcification.

    An artery's calcium is in every view of its breast, a hair or a speck of dust in one: the view
    that shows least decides, where a view that was taken again shows the mean of its images. One
    that does not count, or whose spacing is not known, answers for itself. Of a woman's
    examinations the latest counts: a mean with earlier ones would hide what is new.
    """
    latest: dict[str, str] = {}
    for view in views:
        latest[view.woman] = max(latest.get(view.woman, ""), view.date)
    reported = [
        (
            replace(view, remark=view.remark or EARLIER)
            if view.date and view.date < latest[view.woman]
            else view
        )
        for view in views
    ]
    breasts: dict[object, list[int]] = {}
    for n, view in enumerate(reported):
        breasts.setdefault(n if view.remark else (view.woman, view.side), []).append(n)
    for lines in breasts.values():
        if not measure.confirms(
            min(view_areas([View("", views[n].view, views[n].sure_mm2) for n in lines]))
        ):
            for n in lines:
                reported[n] = replace(reported[n], pixels=0, area_mm2=0 * views[n].area_mm2)
    return reported


def of_breasts(views: Sequence[ViewResult], measure: Measure) -> list[BreastResult]:
    """The breasts of every woman, in the order of their first view."""
    results = []
    for woman, theirs in _by_woman(views).items():
        areas = breast_areas([_plain(view) for view in theirs], of_views=measure.of_views)
        results += [
            BreastResult(woman, side, sum(view.side == side for view in theirs), area)
            for side, area in areas.items()
        ]
    return results


def of_women(views: Sequence[ViewResult], measure: Measure) -> list[WomanResult]:
    """Every woman of whom there is a view, in the order of their first one."""
    results = []
    for woman, theirs in _by_woman(views).items():
        area = float("nan")
        if theirs:
            area = woman_area(
                [_plain(view) for view in theirs],
                of_views=measure.of_views,
                of_breasts=measure.of_breasts,
            )
        results.append(WomanResult(woman, len(theirs), area, severity_of(area, measure)))
    return results


def severity_of(area_mm2: float, measure: Measure) -> str:
    """ "zero", "mild", "moderate" or "severe"; "" where the area is unknown."""
    return (
        ""
        if np.isnan(area_mm2)
        else SEVERITIES[int(severity(np.array([area_mm2]), measure.severity_mm2)[0])]
    )


def _by_woman(views: Sequence[ViewResult]) -> dict[str, list[ViewResult]]:
    women: dict[str, list[ViewResult]] = {view.woman: [] for view in views}
    for view in counted(views):
        women[view.woman].append(view)
    return women


def _plain(view: ViewResult) -> View:
    return View(view.side, view.view, view.area_mm2)
