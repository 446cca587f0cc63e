"""Point estimates of metrics, computed by standard libraries. Axes: N studies."""

import warnings

import numpy as np
from jaxtyping import Bool, Float, Num
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score, roc_auc_score

TOLERANCE_MM = 2.0  # of a normalised surface Dice: about how far two readers' outlines differ


def auroc(truth: Num[np.ndarray, " N"], score: Float[np.ndarray, " N"]) -> float:
    """Area under the ROC curve; NaN where `truth` (0/1) has one class only."""
    # scikit-learn warns or raises on one class, depending on its version.
    return float(roc_auc_score(truth, score)) if _both_classes(truth) else float("nan")


def auprc(truth: Num[np.ndarray, " N"], score: Float[np.ndarray, " N"]) -> float:
    """Average precision, the step-wise area under the precision-recall curve.

    NaN where `truth` has one class only.
    """
    return float(average_precision_score(truth, score)) if _both_classes(truth) else float("nan")


def auprc_skill(truth: Num[np.ndarray, " N"], score: Float[np.ndarray, " N"]) -> float:
    """Average precision, rescaled: 0 is the prevalence (chance level), 1 is perfect."""
    prevalence = float(np.mean(truth))
    return (
        (auprc(truth, score) - prevalence) / (1 - prevalence)
        if _both_classes(truth)
        else float("nan")
    )


def mae(truth: Num[np.ndarray, " N"], predicted: Float[np.ndarray, " N"]) -> float:
    """Mean absolute error, in the unit of the label."""
    return float(mean_absolute_error(truth, predicted))


def r2(truth: Num[np.ndarray, " N"], predicted: Float[np.ndarray, " N"]) -> float:
    """Share of the label's variance that is explained.

    Negative if worse than the test set's mean; NaN where the label is constant.
    """
    return float(r2_score(truth, predicted)) if np.ptp(truth) > 0 else float("nan")


def brier(truth: Num[np.ndarray, " N"], probability: Float[np.ndarray, " N"]) -> float:
    """Mean squared difference of the probability from 0 or 1; lower is better."""
    return float(np.mean((np.asarray(probability) - truth) ** 2))


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


def _both_classes(truth: np.ndarray) -> bool:
    return len(np.unique(truth)) == 2
