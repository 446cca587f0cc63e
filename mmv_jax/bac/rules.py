"""What other rules of measuring would have found: for the choice of `threshold` and `least_mm2` on women that are neither fitted to nor reported.

Axes: Y X pixels of the file, T thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.bac.agreement import Compared, area_scores, dice_scores, overlap, severity_scores
from mmv_jax.bac.areas import ViewResult, of_women
from mmv_jax.bac.infer import Measure
from mmv_jax.report.page import Cell, Section, Table

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LEAST_MM2 = (0.1, 0.3, 0.5, 0.8, 1.2)
COLUMNS = {
    "dice": "Dice",
    "area_r2": "R² of women",
    "severity_accuracy": "severity right",
    "zero_specificity": "free, found free",
    "sensitivity": "calcified, found so",
}


@dataclass(frozen=True)
class RuledView:
    """A view beside its truth. `pixels`: of both, of the truth, found, at each of `THRESHOLDS`. `pixel_mm2`: NaN where unknown."""

    truth: ViewResult
    pixels: Int[np.ndarray, "T 3"]
    pixel_mm2: float

    @classmethod
    def of(cls, truth: ViewResult, mask: Bool[np.ndarray, "Y X"], probability: Float[np.ndarray, "Y X"]) -> "RuledView":
        """The view by the probabilities at the pixels of its file."""
        counts = [overlap(mask, probability >= threshold) for threshold in THRESHOLDS]
        return cls(truth, np.array(counts), truth.spacing_mm[0] * truth.spacing_mm[1])


def scores(views: Sequence[RuledView], measure: Measure) -> dict[str, float]:
    """What the rules of `measure` give on these views; its threshold is one of `THRESHOLDS`. A score that nobody bears upon is left out."""
    at = THRESHOLDS.index(measure.threshold)
    found = [_found(view, at, measure.least_mm2) for view in views]
    pixels = np.array([[*view.pixels[at][:2], result.pixels] for view, result in zip(views, found)])
    pixels[:, 0] = np.minimum(pixels[:, 0], pixels[:, 2])  # a view that counts as free has nothing in common with its truth
    women = zip(*((true, own) for true, own in zip(of_women([v.truth for v in views], measure), of_women(found, measure)) if true.severity))
    true, own = ([*side] for side in women)
    areas = Compared(np.array([w.woman for w in true]), *(np.array([w.area_mm2 for w in side]) for side in (true, own)))
    every = area_scores(areas) | severity_scores(areas, measure.severity_mm2) | dice_scores(pixels, np.array([view.truth.woman for view in views]))
    return {name: every[name].value for name in COLUMNS if name in every}


def rules_section(views: Sequence[RuledView], measure: Measure) -> Section:
    """A line for each rule; that of `measure` is marked where it is among them."""
    lines = []
    for threshold in THRESHOLDS:
        for least in LEAST_MM2:
            own = scores(views, replace(measure, threshold=threshold, least_mm2=least))
            tone = "best" if (threshold, least) == (measure.threshold, measure.least_mm2) else ""
            cells = [Cell(f"{own[name]:.3f}" if name in own else "–", tone=tone) for name in COLUMNS]
            lines.append([Cell(f"{threshold} and {least} mm²", tone=tone), *cells])
    said = "For a choice on women who are neither fitted to nor reported: a rule chosen here flatters the figures above. Marked: that in use."
    return Section("Other rules of measuring", [said], tables=[Table(["threshold and least area of a view", *COLUMNS.values()], lines)])


def _found(view: RuledView, at: int, least_mm2: float) -> ViewResult:
    pixels = int(view.pixels[at][2])
    pixels = pixels if pixels * view.pixel_mm2 >= least_mm2 else 0
    return replace(view.truth, pixels=pixels, area_mm2=pixels * view.pixel_mm2)
