"""Measurement: from calcified pixels to areas in mm² and severity, of views, breasts and women.

A `Measure` has the rules that combine the views of a breast and the breasts of a woman. Views that
do not count or show too little are first set aside (`counted`, `confirmed`). An unknown pixel
spacing gives an unknown area (NaN), never zero.

Axes: Y X pixels of a file, y x of any grid.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy import ndimage

from mmv_jax.bac.examination import of_one_examination
from mmv_jax.bac.sources import COUNTED_VIEWS, NO_SPACING
from mmv_jax.errors import UserError
from mmv_jax.outcomes.cohort import SEVERITIES, severity

NEAR_MM = 2.0  # pixels form a group if neighbourhoods of this size, along each axis, meet
# The views of a breast show the same calcification: their sum would count it twice.
OF_VIEWS = ("mean", "max")
OF_BREASTS = ("sum", "mean", "max")
RULES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda x: float(np.mean(x)),
    "max": max,
    "sum": sum,
}


@dataclass(frozen=True)
class ViewArea:
    """Area of one mammogram; NaN if the pixel spacing is unknown.

    Attributes:
      side: "L" or "R".
      view: "CC" or "MLO".
    """

    side: str
    view: str
    area_mm2: float


@dataclass(frozen=True)
class ViewResult:
    """Result of one mammogram.

    Attributes:
      number: of the file or manifest line, in the given order.
      woman: keyed hash of the patient.
      remark: why it does not count; "" if it does.
      spacing_mm: (y, x) of the file's pixels in the plane of the breast, NaN if unknown.
      pixels: number of calcified pixels on the file's grid.
      area_mm2: NaN if the spacing is unknown.
      sure_mm2: area in groups of at least `least_group_mm2` (`Finder.seen`).
      date, examination: of the examination, if the file states them. Never written.
      conditions: see `sources.Mammogram`.
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
    conditions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BreastResult:
    """Result of one breast: the number of views that count, and the area by the rule `of_views`."""

    woman: str
    side: str
    views: int
    area_mm2: float


@dataclass(frozen=True)
class WomanResult:
    """Result of one woman: the number of views that count, area and severity.

    Without views, or with an unknown spacing, the area is NaN and the severity "".
    """

    woman: str
    views: int
    area_mm2: float
    severity: str


@dataclass(frozen=True)
class Measure:
    """Rules that turn probabilities into areas.

    Attributes:
      threshold: a pixel is calcified from this probability on.
      least_group_mm2: a smaller isolated calcified area (`groups`) is not evidence of an artery: it
        may be a hair on a film or a speck of noise.
      least_mm2: a breast is reported without calcification if any of its views shows less than this
        in larger groups. In other breasts all pixels count that `least_artery` leaves.
      of_views: how the views of a breast are combined: "mean" or "max".
      of_breasts: how the breasts of a woman are combined: "sum", "mean" or "max".
      border_mm: breast this near to the border of the image or of a film does not count.
      severity_mm2: upper limits of a woman's area for zero, mild and moderate; above them it is
        severe.
      artery: weights of the probability that a group is calcium of an artery, a constant and one of
        each of `evidence.FEATURES`. In `least_mm2` a group counts by its area times this. Empty: it
        is 1.
      least_artery: a group counts from this probability on.
    """

    threshold: float
    least_mm2: float
    of_views: str
    of_breasts: str
    severity_mm2: tuple[float, float, float]
    # defaults for checkpoints older than these rules
    least_group_mm2: float = 0.0
    border_mm: float = 0.0
    artery: tuple[float, ...] = ()
    least_artery: float = 0.0

    def __post_init__(self):
        if not 0 < self.threshold < 1 or not self.least_mm2 >= 0 or not self.least_group_mm2 >= 0:
            said = (
                f"threshold is {self.threshold}, least_mm2 {self.least_mm2} and least_group_mm2"
                f" {self.least_group_mm2}"
            )
            raise UserError(f"config.measure: {said}, but must be between 0 and 1, and 0 or more.")
        if not 0 <= self.border_mm < 20:
            raise UserError(
                f"config.measure.border_mm is {self.border_mm}, but must be 0 to 20 mm."
            )
        if len(self.artery) not in (0, 5) or not np.isfinite(self.artery).all():
            raise UserError(
                f"config.measure.artery is {self.artery}, but must be 5 weights, or () for none."
            )
        if not 0 <= self.least_artery < 1:
            raise UserError(
                f"config.measure.least_artery is {self.least_artery}, but must be 0 or more and"
                " below 1."
            )
        check_rule(self.of_views, OF_VIEWS, "config.measure.of_views")
        check_rule(self.of_breasts, OF_BREASTS, "config.measure.of_breasts")
        severity(np.zeros(0), self.severity_mm2)  # refuses anything but three rising thresholds

    def confirms(self, sure_mm2: float) -> bool:
        """Whether a breast is calcified if each of its views has `sure_mm2` in large groups."""
        # With `least_mm2` 0 a view without calcification would confirm its breast.
        return sure_mm2 > 0 and sure_mm2 >= self.least_mm2


def tissue_spacing_mm(
    imager_spacing_mm: tuple[float, float], magnification: float = 1.0
) -> tuple[float, float]:
    """Size (y, x) of a pixel in the plane of the breast, in mm.

    ImagerPixelSpacing is measured at the detector. Tissue is nearer to the source and appears
    larger by `magnification`, so lengths are divided by it. The magnification is
    EstimatedRadiographicMagnificationFactor, or the ratio of the distances source to detector and
    source to patient.

    Raises:
      UserError: an impossible magnification.

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
    """Area in mm² of the non-zero pixels of `mask`; NaN if the spacing is unknown.

    Args:
      spacing_mm: (y, x) in the plane of the breast.
    """
    return float(np.count_nonzero(mask) * spacing_mm[0] * spacing_mm[1])


def groups(
    mask: Bool[np.ndarray, "y x"], pixel_mm: tuple[float, float]
) -> tuple[Int[np.ndarray, "y x"], int]:
    """Group number of each pixel of the mask, from 1, 0 elsewhere; and the number of groups."""
    # Grown by `NEAR_MM` to each side: specks of one artery seldom touch.
    near = ndimage.maximum_filter(
        mask, [2 * max(1, round(NEAR_MM / mm)) + 1 for mm in pixel_mm], mode="constant"
    )
    # Corners join too. Labels are of the grown mask, and kept on the mask itself.
    labels, count = ndimage.label(near, np.ones((3, 3)))
    return np.where(mask, labels, 0), int(count)


def view_areas(views: Sequence[ViewArea]) -> list[float]:
    """Area in mm² of each view of one breast, sorted by name; repeats of one view are averaged."""
    return [
        float(np.mean([view.area_mm2 for view in views if view.view == name]))
        for name in sorted({view.view for view in views})
    ]


def counted(views: Sequence[ViewResult]) -> list[ViewResult]:
    """Views that count, including those that lack only a spacing.

    An unknown area is not zero and makes its woman's area unknown.
    """
    return [view for view in views if view.remark in ("", NO_SPACING)]


def view_pairs(views: Sequence[ViewResult]) -> np.ndarray:
    """mm² [N, 2] of the CC and the MLO view of each breast that has both, and calcium in one."""
    of_breast: dict[tuple[str, str], dict[str, list[float]]] = {}
    for view in counted(views):
        areas = of_breast.setdefault((view.woman, view.side), {}).setdefault(view.view, [])
        areas.append(view.area_mm2)
    both = [[np.mean(b[v]) for v in COUNTED_VIEWS] for b in of_breast.values() if len(b) == 2]
    pairs = np.array(both, float).reshape(-1, 2)
    # Two views without calcium agree by having nothing to measure.
    return pairs[np.isfinite(pairs).all(axis=1) & (pairs.max(axis=1, initial=0.0) > 0)]


def confirmed(
    views: Sequence[ViewResult],
    measure: Measure,
    *,
    index_dates: Mapping[str, str] | None = None,
) -> list[ViewResult]:
    """Views as they are reported: a breast with too little sure area gets no calcification.

    An artery's calcium is in every view of its breast, a hair or a speck of dust in only one. So
    the view that shows least decides. A repeated view shows the mean of its images. A view that
    does not count, or lacks a spacing, is judged by itself.

    A woman's latest examination counts: a mean with earlier ones would hide what is new. With
    `index_dates` the index examination counts (see `of_one_examination`).
    """
    reported = of_one_examination(views, index_dates)
    breasts: dict[object, list[int]] = {}
    for n, view in enumerate(reported):
        # Its own number is a unique key: such a view is judged by itself.
        breasts.setdefault(n if view.remark else (view.woman, view.side), []).append(n)
    for lines in breasts.values():
        if not measure.confirms(
            min(view_areas([ViewArea("", views[n].view, views[n].sure_mm2) for n in lines]))
        ):
            for n in lines:
                # 0 times NaN stays NaN: an unknown area remains unknown.
                reported[n] = replace(reported[n], pixels=0, area_mm2=0 * views[n].area_mm2)
    return reported


def breast_areas(views: Sequence[ViewArea], *, of_views: str = "mean") -> dict[str, float]:
    """Area in mm² by side: repeats of one view are averaged, then the rule `of_views` is applied.

    A NaN area makes its breast NaN: an unknown spacing is not zero.
    """
    check_rule(of_views, OF_VIEWS, "of_views")
    areas = {}
    for side in sorted({view.side for view in views}):
        each = view_areas([view for view in views if view.side == side])
        # Python's max of a list with NaN depends on its order, so NaN is looked for first.
        areas[side] = float("nan") if np.isnan(each).any() else float(RULES[of_views](each))
    return areas


def of_breasts(views: Sequence[ViewResult], measure: Measure) -> list[BreastResult]:
    """Results of the breasts of every woman, in the order of their first view."""
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
    """Area of a woman in mm².

    If only one side was imaged, or one breast was removed, it is the area of the other.

    Raises:
      ValueError: no view.

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
    """Results of every woman with a view, in the order of their first view."""
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
    """Severity "zero", "mild", "moderate" or "severe"; "" if the area is unknown."""
    return (
        ""
        if np.isnan(area_mm2)
        else SEVERITIES[int(severity(np.array([area_mm2]), measure.severity_mm2)[0])]
    )


def _by_woman(views: Sequence[ViewResult]) -> dict[str, list[ViewResult]]:
    # From all views: a woman without views that count must still be reported, as unknown.
    women: dict[str, list[ViewResult]] = {view.woman: [] for view in views}
    for view in counted(views):
        women[view.woman].append(view)
    return women


def _plain(view: ViewResult) -> ViewArea:
    return ViewArea(view.side, view.view, view.area_mm2)


def check_rule(rule: str, known: Sequence[str], name: str) -> None:
    """Refuse an unknown rule of aggregation.

    Raises:
      UserError: the rule is not in `known`.
    """
    if rule not in known:
        raise UserError(
            f"{name} is {rule!r}, which is no rule of aggregation. Use one of: {', '.join(known)}."
        )
