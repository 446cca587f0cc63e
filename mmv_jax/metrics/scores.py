"""Scores of masks, calibration and the ROC curve. Axes: N studies.

Metrics that have an interval are in `weighted.py`.
"""

import warnings

import numpy as np
from jaxtyping import Bool, Float, Num

TOLERANCE_MM = 2.0  # of a normalised surface Dice: about how far two readers' outlines differ


def roc_curve(
    truth: Num[np.ndarray, " N"], score: Float[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1 - specificity, sensitivity and threshold of each point of the curve, from (0, 0) on.

    A study is called positive at the threshold or above it; the first threshold is infinite. There
    is a point for each distinct score, also where three of them lie on a line.
    """
    score = np.asarray(score)
    order = np.argsort(-score, kind="stable")
    # Studies that tie are called positive together: a point stands at the last of them.
    last = np.flatnonzero(np.diff(score[order], append=np.nan))
    found = np.cumsum(np.asarray(truth, np.float64)[order])[last]
    alarms = 1 + last - found
    return (
        np.r_[0.0, alarms / alarms[-1]],
        np.r_[0.0, found / found[-1]],
        np.r_[np.inf, score[order][last]],
    )


def calibration_bins(
    truth: Num[np.ndarray, " N"], probability: Float[np.ndarray, " N"], bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, observed frequency and number of studies of each bin, for a reliability
    diagram.

    The bins hold equal numbers of studies.
    """
    order = np.argsort(probability, kind="stable")
    # With fewer studies than bins, array_split leaves empty ones.
    parts = [part for part in np.array_split(order, bins) if len(part)]
    said, seen = (np.array([x[part].mean() for part in parts]) for x in (probability, truth))
    return said, seen, np.array(list(map(len, parts)))


def calibration_error(
    truth: Num[np.ndarray, " N"], probability: Float[np.ndarray, " N"], bins: int = 10
) -> float:
    """Mean absolute difference of probability and observed frequency, over bins of equal count.

    Source: the adaptive form of the expected calibration error, Nixon et al. (arXiv 1904.01685),
      equation 3.
    """
    said, seen, count = calibration_bins(truth, probability, bins)
    return float((count * np.abs(said - seen)).sum() / count.sum())


def dice(truth: Bool[np.ndarray, "*grid"], predicted: Bool[np.ndarray, "*grid"]) -> float:
    """Overlap of two segmentations, 0 to 1; NaN where both are empty."""
    size = truth.sum() + predicted.sum()
    return float(2 * (truth & predicted).sum() / size) if size else float("nan")


def hd95(
    truth: Bool[np.ndarray, "*grid"],
    predicted: Bool[np.ndarray, "*grid"],
    spacing_mm: tuple[float, ...],
) -> float:
    """95th percentile of the distances between two surfaces, in mm.

    Each surface element counts by its area; other libraries count voxels.
    """
    return surface_scores(truth, predicted, spacing_mm)[1]


def surface_scores(
    truth: Bool[np.ndarray, "*grid"],
    predicted: Bool[np.ndarray, "*grid"],
    spacing_mm: tuple[float, ...],
    tolerance_mm: float = TOLERANCE_MM,
) -> tuple[float, float]:
    """NSD and HD95 of two segmentations, from one computation of distances.

    NSD is the share of both surfaces within `tolerance_mm` of the other one. HD95 is the 95th
    percentile of the distances in mm. Each surface element counts by its area.

    Args:
      spacing_mm: of each axis of the grid, two or three of them.
    Returns:
      NaN where both are empty. Where one is empty, 0 and the grid's diagonal, the largest possible
      distance.

    Source: Nikolov et al. (arXiv 1809.04430), through their library surface-distance.
    """
    if not truth.any() and not predicted.any():
        return float("nan"), float("nan")
    if not truth.any() or not predicted.any():  # the library fails on these under NumPy 2
        return 0.0, float(np.linalg.norm(np.multiply(truth.shape, spacing_mm)))
    import surface_distance

    with warnings.catch_warnings():
        # The library imports the deprecated scipy.ndimage.filters.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="surface_distance")
        distances = surface_distance.compute_surface_distances(truth, predicted, spacing_mm)
    nsd = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
    return float(nsd), float(surface_distance.compute_robust_hausdorff(distances, 95))
