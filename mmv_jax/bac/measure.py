"""From calcified pixels to areas in mm² and severity: of views, then of breasts, then of women.

A view's area is that of its pixels; those of a breast's views, and of a woman's breasts, are put
together by the rules of a `Measure`, after views that do not count or show too little are set
aside (`counted`, `confirmed`). An unknown pixel spacing makes an unknown area (NaN), never a zero.

Axes: Y X pixels of a file, y x of any grid.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy import ndimage

from mmv_jax.bac.examination import of_one_examination
from mmv_jax.bac.sources import NO_SPACING
from mmv_jax.errors import UserError
from mmv_jax.outcomes.cohort import SEVERITIES, severity

NEAR_MM = 2.0  # pixels whose neighbourhoods, so far along each axis, meet belong together
# the views of a breast show the same calcification: their sum would count it twice
OF_VIEWS = ("mean", "max")
OF_BREASTS = ("sum", "mean", "max")
RULES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda x: float(np.mean(x)),
    "max": max,
    "sum": sum,
}


@dataclass(frozen=True)
class ViewArea:
    """One mammogram's result: `side` is "L" or "R", `view` "CC" or "MLO", the area NaN where the
    pixel spacing is unknown.
    """

    side: str
    view: str
    area_mm2: float


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
      date, examination: of the examination, where the file says them. Never written.
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
    examination: str = ""


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


@dataclass(frozen=True)
class Measure:
    """How areas are made of probabilities.

    Attributes:
      threshold: a pixel is calcified from this probability on.
      least_group_mm2: less calcified area than this that lies by itself (`groups`) shows no artery:
        it may be a hair on a film, a speck of noise.
      least_mm2: a breast is reported to have none where any of its views shows less than this in
        larger groups. In any other all pixels count.
      of_views: the rule by which the views of a breast are put together: "mean" or "max".
      of_breasts: the rule by which the breasts of a woman are: "sum", "mean" or "max".
      severity_mm2: a woman's area up to which calcification is zero, mild, moderate; above it is
        severe.
    """

    threshold: float
    least_mm2: float
    of_views: str
    of_breasts: str
    severity_mm2: tuple[float, float, float]
    least_group_mm2: float = 0.0  # of checkpoints that were written before there was this rule

    def __post_init__(self):
        if not 0 < self.threshold < 1 or not self.least_mm2 >= 0 or not self.least_group_mm2 >= 0:
            said = (
                f"threshold is {self.threshold}, least_mm2 {self.least_mm2} and least_group_mm2"
                f" {self.least_group_mm2}"
            )
            raise UserError(f"config.measure: {said}, but must be between 0 and 1, and 0 or more.")
        check_rule(self.of_views, OF_VIEWS, "config.measure.of_views")
        check_rule(self.of_breasts, OF_BREASTS, "config.measure.of_breasts")
        severity(np.zeros(0), self.severity_mm2)  # refuses what are no three thresholds

    def confirms(self, sure_mm2: float) -> bool:
        """Whether a breast is calcified each of whose views shows this much or more in groups that
        are no small ones.
        """
        # With `least_mm2` 0 a view that shows nothing would confirm its breast.
        return sure_mm2 > 0 and sure_mm2 >= self.least_mm2


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


def groups(
    mask: Bool[np.ndarray, "y x"], pixel_mm: tuple[float, float]
) -> tuple[Int[np.ndarray, "y x"], int]:
    """The group of each pixel of the mask, from 1 on, 0 elsewhere; and how many groups there
    are.
    """
    # Grown by `NEAR_MM` to each side: specks of one artery are seldom joined pixel to pixel.
    near = ndimage.maximum_filter(
        mask, [2 * max(1, round(NEAR_MM / mm)) + 1 for mm in pixel_mm], mode="constant"
    )
    # Corners join too. Labels are of the grown mask, and kept on the mask itself.
    labels, count = ndimage.label(near, np.ones((3, 3)))
    return np.where(mask, labels, 0), int(count)


def without_small(
    mask: Bool[np.ndarray, "y x"], pixel_mm: tuple[float, float], least_mm2: float
) -> Bool[np.ndarray, "y x"]:
    """The mask without the groups that are smaller than `least_mm2`."""
    labels, count = groups(mask, pixel_mm)
    kept = (
        np.bincount(labels.ravel(), minlength=count + 1) * (pixel_mm[0] * pixel_mm[1]) >= least_mm2
    )
    # Label 0 is the background: what `kept` says of it, the mask takes away.
    return mask & kept[labels]


def view_areas(views: Sequence[ViewArea]) -> list[float]:
    """mm² of each view of one breast, in the order of their names; repeats of one view are
    averaged.
    """
    return [
        float(np.mean([view.area_mm2 for view in views if view.view == name]))
        for name in sorted({view.view for view in views})
    ]


def counted(views: Sequence[ViewResult]) -> list[ViewResult]:
    """The views that count, with those that would if their spacing were known: an unknown area is
    no zero and makes its woman's unknown.
    """
    return [view for view in views if view.remark in ("", NO_SPACING)]


def confirmed(
    views: Sequence[ViewResult],
    measure: Measure,
    *,
    index_dates: Mapping[str, str] | None = None,
) -> list[ViewResult]:
    """The views as they are reported: those of a breast in which too little is sure have no
    calcification.

    An artery's calcium is in every view of its breast, a hair or a speck of dust in one: the view
    that shows least decides, where a view that was taken again shows the mean of its images. One
    that does not count, or whose spacing is not known, answers for itself. Of a woman's
    examinations the latest counts: a mean with earlier ones would hide what is new.
    """
    reported = of_one_examination(views, index_dates)
    breasts: dict[object, list[int]] = {}
    for n, view in enumerate(reported):
        # Its own number is a key that no other view has: it answers for itself.
        breasts.setdefault(n if view.remark else (view.woman, view.side), []).append(n)
    for lines in breasts.values():
        if not measure.confirms(
            min(view_areas([ViewArea("", views[n].view, views[n].sure_mm2) for n in lines]))
        ):
            for n in lines:
                # 0 times NaN stays NaN: an unknown area is not made known.
                reported[n] = replace(reported[n], pixels=0, area_mm2=0 * views[n].area_mm2)
    return reported


def breast_areas(views: Sequence[ViewArea], *, of_views: str = "mean") -> dict[str, float]:
    """mm² by side: repeats of one view are averaged, then the views are put together by the rule
    `of_views`.

    An area that is NaN makes its breast NaN: an unknown spacing is no zero.
    """
    check_rule(of_views, OF_VIEWS, "of_views")
    areas = {}
    for side in sorted({view.side for view in views}):
        each = view_areas([view for view in views if view.side == side])
        # Python's max of a list with NaN depends on its order, so NaN is looked for first.
        areas[side] = float("nan") if np.isnan(each).any() else float(RULES[of_views](each))
    return areas


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


def woman_area(
    views: Sequence[ViewArea], *, of_views: str = "mean", of_breasts: str = "sum"
) -> float:
    """mm² of a woman; after the removal of a breast, or with one side imaged, it is that of the
    other.

    Example:
      >>> left = [ViewArea("L", "CC", 4.0), ViewArea("L", "MLO", 6.0)]
      >>> woman_area([*left, ViewArea("R", "CC", 1.0)])
      6.0
    """
    check_rule(of_breasts, OF_BREASTS, "of_breasts")
    areas = list(breast_areas(views, of_views=of_views).values())
    if not areas:
        raise ValueError("a woman without views has no area")
    return float("nan") if np.isnan(areas).any() else float(RULES[of_breasts](areas))


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
    # From all views: a woman none of whose views count must still be reported, as unknown.
    women: dict[str, list[ViewResult]] = {view.woman: [] for view in views}
    for view in counted(views):
        women[view.woman].append(view)
    return women


def _plain(view: ViewResult) -> ViewArea:
    return ViewArea(view.side, view.view, view.area_mm2)


def check_rule(rule: str, known: Sequence[str], name: str) -> None:
    """Refuses a rule of aggregation that is none."""
    if rule not in known:
        raise UserError(
            f"{name} is {rule!r}, which is no rule of aggregation. There are: {', '.join(known)}."
        )
