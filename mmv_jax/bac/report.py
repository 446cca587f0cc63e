"""Sections of a report on agreement with the truth: tables, Bland–Altman plot, outlined views."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.figure import Figure
from scipy import ndimage

from mmv_jax.bac.agreement import Compared, severity_table
from mmv_jax.bac.conditions import TITLES
from mmv_jax.metrics.intervals import Interval, bounds_text
from mmv_jax.outcomes.cohort import SEVERITIES
from mmv_jax.report.figures import STYLE, WIDTH, outlined, svg
from mmv_jax.report.page import Cell, Section, Strip, Table
from mmv_jax.report.plots import COLOURS

WORDS = {
    "dice": "Dice of calcified pixels, mean over views with calcification",
    "dice_seen": (
        "the same of all that looks calcified, also in breasts that are reported to have none"
    ),
    "dice_pooled": "Dice of calcified pixels, all views together",
    "area_r2": "R² of the area about the identity",
    "area_mae": "mean absolute error of the area, mm²",
    "severity_accuracy": "women with the right severity",
    "severity_kappa": "weighted kappa of severity (squared steps)",
    "zero_specificity": "women without calcification who are found free of it",
    "sensitivity": "women with calcification who are found not free of it",
    "dice_breast": "Dice of the breast without the pectoral muscle, mean over views",
    "dice_muscle": "Dice of the pectoral muscle, mean over the views that show it",
}
# of the women of each vendor
OF_VENDOR = {
    "severity_accuracy": "severity right",
    "zero_specificity": "free, found free",
    "sensitivity": "calcified, found so",
    "area_r2": "R² of the area",
    "area_mae": "mean absolute error, mm²",
}
LIMIT_WORDS = {
    "area_bias": "mean difference",
    "area_limit_low": "lower limit of agreement",
    "area_limit_high": "upper limit of agreement",
}
REPEAT_WORDS = {
    "between_views_sd": "SD of a view, mm²",
    "repeatability": "95 % of differences are below, mm²",
}
SHOWN = 360  # pixels along the displayed part of a view


def agreement_sections(
    views: Mapping[str, Interval],
    women: Mapping[str, Interval],
    areas: Compared,
    thresholds: Sequence[float],
) -> list[Section]:
    """Tables and figures of the agreement of measured with true areas."""
    lines = [
        [Cell(f"{WORDS[name]} ({where})"), _score(score)]
        for where, scores in (("views", views), ("women", women))
        for name, score in scores.items()
    ]
    table = [
        [Cell(f"truly {SEVERITIES[i]}"), *(_count(int(n), i == j) for j, n in enumerate(counts))]
        for i, counts in enumerate(severity_table(areas, thresholds))
    ]
    return [
        Section(
            "Agreement with the truth",
            ["Intervals of shares of women are exact (Clopper and Pearson)."],
            tables=[Table(["", "value (95 % interval, by women)"], lines)],
        ),
        Section("Areas", figures=bland_altman(areas)),
        Section(
            "Severity", tables=[Table(["women", *(f"found {name}" for name in SEVERITIES)], table)]
        ),
    ]


def further_sections(
    limits: Mapping[str, Interval],
    repeats: Mapping[str, Mapping[str, Interval]],
    groups: Mapping[str, Mapping[str, Mapping[str, Interval]]],
) -> list[Section]:
    """Limits of agreement, views of one breast beside each other, errors by condition.

    Args:
      repeats: of the areas found and of the true ones, as of `between_views`.
      groups: as of `by_condition`.
    """
    sections = []
    if limits:
        lines = [[Cell(LIMIT_WORDS[name]), _mm2(limit)] for name, limit in limits.items()]
        head = ["women, found minus true area", "mm² (95 % interval)"]
        sections.append(Section("Limits of agreement", tables=[Table(head, lines)]))
    if any(repeats.values()):
        names = list(REPEAT_WORDS)
        lines = [
            [Cell(f"{kind} areas"), *(_mm2(found[name]) for name in names)]
            for kind, found in repeats.items()
            if found
        ]
        sections.append(
            Section(
                "The two views of a breast",
                [
                    "CC beside MLO of breasts with calcium in either. The views project one artery"
                    " differently: the line of the true areas is what a perfect reader would have."
                ],
                tables=[Table(["", *REPEAT_WORDS.values()], lines)],
            )
        )
    for condition, of_group in groups.items():
        lines = [
            [
                Cell(group),
                Cell(str(scores["area_mae"].n)),
                *(_mm2(scores[name]) for name in ("area_bias", "area_mae")),
                _score(scores["dice"]) if "dice" in scores else Cell("none calcified"),
            ]
            for group, scores in of_group.items()
        ]
        head = [TITLES[condition], "views", "mean difference, mm²", "mean absolute error, mm²"]
        head.append("Dice of calcified views")
        sections.append(Section(f"By {TITLES[condition]}", tables=[Table(head, lines)], fold=True))
    return sections


def vendor_section(vendors: Mapping[str, Mapping[str, Interval]]) -> list[Section]:
    """A line for the women of each vendor (`women_by_vendor`); none without vendors."""
    if not vendors:
        return []
    lines = [
        [
            Cell(vendor),
            *(_score(scores[name]) if name in scores else Cell("none such") for name in OF_VENDOR),
        ]
        for vendor, scores in vendors.items()
    ]
    head = [TITLES["vendor"], *OF_VENDOR.values()]
    return [Section("Women by maker of the detector", tables=[Table(head, lines)], fold=True)]


def _mm2(score: Interval) -> Cell:
    return Cell(f"{score.value:.2f}", bounds_text(score, ".2f"))


def _score(score: Interval) -> Cell:
    return Cell(f"{score.value:.3f}", f"{bounds_text(score)}, n = {score.n}")


def _count(n: int, right: bool) -> Cell:
    return Cell(str(n), tone="good" if right and n else "bad" if n else "")


def bland_altman(areas: Compared) -> list[str]:
    """Plots of found against true area, and of difference against mean, a dot per woman."""
    mean, low, high = areas.limits
    top = 1.05 * max(float(areas.truth.max()), float(areas.found.max()), 1.0)
    with matplotlib.rc_context(STYLE):
        first, second = (Figure(figsize=(WIDTH, 4.2), layout="constrained") for _ in range(2))
        left, right = first.add_subplot(), second.add_subplot()
        left.plot([0, top], [0, top], color="#bbbbbb", linewidth=0.8)
        left.set(
            xlabel="true area (mm²)",
            ylabel="found area (mm²)",
            aspect="equal",
            xlim=(-0.02 * top, top),
            ylim=(-0.02 * top, top),
        )
        for y, style in ((low, "--"), (mean, "-"), (high, "--")):
            right.axhline(y, color=COLOURS[5], linewidth=1, linestyle=style)
        right.set(xlabel="mean of both (mm²)", ylabel="found − true (mm²)")
        for truth, found in zip(areas.truth.tolist(), areas.found.tolist()):
            dot: dict[str, Any] = {"color": COLOURS[0], "markersize": 4, "alpha": 0.7}
            # `svg` turns such an id into a title, which a pointer shows.
            dot |= {"gid": f"tip: true {truth:.1f} mm², found {found:.1f} mm²"}
            left.plot(truth, found, "o", **dot)
            right.plot((truth + found) / 2, found - truth, "o", **dot)
        return [
            svg(first, "Found against true areas"),
            svg(second, "Agreement of areas, after Bland and Altman"),
        ]


def outlined_part(
    voxels: Shaped[np.ndarray, "Y X"],
    truth: Bool[np.ndarray, "Y X"],
    found: Bool[np.ndarray, "Y X"],
    caption: str,
) -> tuple[str, str] | None:
    """Part of a view with most of either mask, with outlines of truth (green) and found (orange).

    None if both masks are empty.
    """
    either = (truth | found).astype(np.float32)
    if not either.any():
        return None
    size = [min(SHOWN, n) for n in voxels.shape]
    # Mean of the mask over a window the size of the part: its maximum is the fullest part.
    density = ndimage.uniform_filter(either, size, mode="constant")
    middle = np.unravel_index(int(np.argmax(density)), density.shape)
    start = [int(np.clip(m - s // 2, 0, n - s)) for m, s, n in zip(middle, size, voxels.shape)]
    box = np.s_[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
    return (
        outlined(
            _grey(voxels[box]),
            [(truth[box], COLOURS[3]), (found[box], COLOURS[5])],
            caption,
            2 * SHOWN,
        ),
        caption,
    )


def _grey(part: Shaped[np.ndarray, "Y X"]) -> Float[np.ndarray, "Y X"]:
    # Calcium is a few of the brightest pixels: it may saturate, so that tissue keeps contrast.
    low, high = np.percentile(part, [1, 99.8])
    return np.clip((part - low) / max(high - low, 1e-6), 0, 1).astype(np.float64)


def picture_section(shown: Sequence[tuple[str, str]]) -> Section:
    """Section with the outlined views."""
    return Section(
        "What it found",
        ["Green: the truth. Orange: found."],
        strips=[Strip(shown)],
    )
