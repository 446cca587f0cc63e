"""Scores of other measuring rules, to choose a threshold and least areas, and the weights of
groups (`evidence.py`) that suit these women.

Choose them on women who are neither fitted to nor reported. Axes: Y X pixels of the file, y x of
the working grid, G groups of calcified pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.bac.agreement import Compared, area_scores, dice_scores, severity_scores
from mmv_jax.bac.evidence import FEATURES, Groups, features, fit_weights
from mmv_jax.bac.measure import Measure, ViewResult, confirmed, of_women
from mmv_jax.bac.view import enlarged, nominal
from mmv_jax.report.page import Cell, Section, Table

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
LEAST_GROUP_MM2 = (0.0, 0.1, 0.2, 0.3)
LEAST_MM2 = (0.1, 0.2, 0.3, 0.5)
TRUE_SHARE = 0.3  # share of a group's pixels that are truly calcified where it is of an artery
COLUMNS = {
    "dice": "Dice",
    "area_r2": "R² of women",
    "severity_accuracy": "severity right",
    "zero_specificity": "free, found free",
    "sensitivity": "calcified, found so",
}


@dataclass(frozen=True)
class RuledView:
    """A view under other measuring rules.

    Attributes:
      view: result by the rule in use.
      truth: None if unknown: the view then counts for its breast, but is not scored.
      groups: for each of `THRESHOLDS`, [G, 2]: truly calcified pixels of each group (0 without a
        truth), and all its pixels.
      artery: for each of `THRESHOLDS`, the probability of each group (`Groups.artery`).
      features: of each group, for each of `THRESHOLDS`.
    """

    view: ViewResult
    truth: ViewResult | None
    groups: tuple[Int[np.ndarray, "_ 2"], ...]
    artery: tuple[Float[np.ndarray, "_"], ...]
    features: tuple[Float[np.ndarray, "_ 4"], ...]

    @classmethod
    def of(
        cls,
        view: ViewResult,
        truth: ViewResult | None,
        mask: Bool[np.ndarray, "Y X"],
        probability: Float[np.ndarray, "y x"],
        factor: int,
        measure: Measure,
    ) -> "RuledView":
        """View from the probabilities on its working grid.

        Args:
          mask: truly calcified pixels on the file's grid; empty if unknown.
          factor: file pixels along one pixel of the working grid.
          measure: the rules in use, which weigh the groups.
        """
        pixel_mm = (view.spacing_mm[0] * factor, view.spacing_mm[1] * factor)
        pixel_mm = nominal(pixel_mm, probability.shape)
        found, artery, known = [], [], []
        for threshold in THRESHOLDS:
            # Found on the working grid, as at inference, and counted in pixels of the file.
            groups = Groups.of(probability, pixel_mm, replace(measure, threshold=threshold))
            count = len(groups.pixels)
            artery.append(groups.artery)
            known.append(features(probability, groups.labels, count, pixel_mm))
            labels = enlarged(groups.labels, factor, (mask.shape[0], mask.shape[1]))
            found.append(
                np.stack(
                    [
                        # [1:] drops the background; minlength keeps groups that no true pixel hits.
                        np.bincount(labels[where], minlength=count + 1)[1:]
                        for where in (mask, labels > 0)
                    ],
                    axis=1,
                )
            )
        return cls(view, truth, tuple(found), artery=tuple(artery), features=tuple(known))

    def by(self, measure: Measure) -> tuple[ViewResult, int]:
        """Result by the rules of `measure`, and its truly calcified pixels.

        The breast is not judged yet.
        """
        n = THRESHOLDS.index(measure.threshold)
        found, artery = self.groups[n], self.artery[n]
        pixel_mm2 = self.view.spacing_mm[0] * self.view.spacing_mm[1]
        # Column 0 is calcified pixels, column 1 all pixels of a group.
        both, pixels = found[artery >= measure.least_artery].sum(axis=0)
        large = found[:, 1] * pixel_mm2 >= measure.least_group_mm2
        sure = (artery * found[:, 1])[large].sum() * pixel_mm2
        return replace(
            self.view, pixels=int(pixels), area_mm2=float(pixels * pixel_mm2), sure_mm2=float(sure)
        ), int(both)


def scores(views: Sequence[RuledView], measure: Measure) -> dict[str, float]:
    """Scores by the rules of `measure`, whose threshold is one of `THRESHOLDS`.

    A score without any view or woman is left out.
    """
    seen, hits = zip(*(view.by(measure) for view in views))
    # Breasts are judged over all views, also those without a truth; these are left out afterwards.
    reported = zip(views, confirmed(seen, measure), hits)
    scored = [
        (replace(view.truth, remark=found.remark), found, both)
        for view, found, both in reported
        if view.truth
    ]
    pixels = np.array(
        # A breast reported as free has no pixels, and so none that overlap.
        [[both if found.pixels else 0, truth.pixels, found.pixels] for truth, found, both in scored]
    )
    sides = (of_women([view[side] for view in scored], measure) for side in (0, 1))
    # A woman with unknown true severity is left out of both lists.
    true, own = (
        [*side] for side in zip(*((true, own) for true, own in zip(*sides) if true.severity))
    )
    areas = Compared(
        np.array([w.woman for w in true]),
        *(np.array([w.area_mm2 for w in side]) for side in (true, own)),
    )
    every = (
        area_scores(areas)
        | severity_scores(areas, measure.severity_mm2)
        | dice_scores(pixels, np.array([t.woman for t, *_ in scored]))
    )
    return {name: every[name].value for name in COLUMNS if name in every}


def rules_section(views: Sequence[RuledView], measure: Measure) -> Section:
    """Section with a line for each rule; that of `measure` is marked."""
    lines = []
    for threshold, group, least in product(THRESHOLDS, LEAST_GROUP_MM2, LEAST_MM2):
        ruled = replace(measure, threshold=threshold, least_group_mm2=group, least_mm2=least)
        own, tone = scores(views, ruled), "best" if ruled == measure else ""
        cells = [Cell(f"{own[name]:.3f}" if name in own else "–", tone=tone) for name in COLUMNS]
        lines.append([Cell(f"{threshold}, {group} and {least} mm²", tone=tone), *cells])
    said = (
        "Choose a rule on women who are neither fitted to nor reported: a rule chosen on these"
        " women makes the figures above look too good. Marked: the rule in use."
    )
    return Section(
        "Other rules of measuring",
        [said],
        tables=[
            Table(["threshold, least area of a group and of a breast", *COLUMNS.values()], lines)
        ],
        fold=True,
    )


def weights_section(views: Sequence[RuledView], measure: Measure) -> Section | None:
    """Section with the weights of groups that suit these women; None where groups of one kind only
    were found, or where the threshold in use is none of `THRESHOLDS`.
    """
    if measure.threshold not in THRESHOLDS:
        return None
    n = THRESHOLDS.index(measure.threshold)
    told = [view for view in views if view.truth]
    pixels = np.concatenate([view.groups[n] for view in told])
    artery = pixels[:, 0] >= TRUE_SHARE * pixels[:, 1]
    if artery.all() or not artery.any():
        return None
    # A group of a view without a truth is of unknown kind, and was left out above.
    weights = fit_weights(np.concatenate([view.features[n] for view in told]), artery)
    names = ("a constant", *FEATURES)
    said = (
        f"How probably a group is calcium of an artery, fitted to the {len(artery)} groups of these"
        f" women, of which {artery.sum()} are: --config.measure.artery="
        f'"({", ".join(f"{weight:.4g}" for weight in weights)})"'
    )
    lines = [[Cell(name), Cell(f"{weight:.4g}")] for name, weight in zip(names, weights)]
    return Section(
        "Weights of groups", [said], tables=[Table(["of a group", "weight"], lines)], fold=True
    )
