"""Point values of metrics by scikit-learn, which the package's own must equal. Axes: N studies."""

import numpy as np
from sklearn import metrics


def auroc(truth, score) -> float:
    """Area under the ROC curve; NaN where `truth` (0/1) has one class only."""
    # scikit-learn warns or raises on one class, depending on its version.
    return float(metrics.roc_auc_score(truth, score)) if np.ptp(truth) else float("nan")


def auprc(truth, score) -> float:
    """Average precision; NaN where `truth` has one class only."""
    return float(metrics.average_precision_score(truth, score)) if np.ptp(truth) else float("nan")


def auprc_skill(truth, score) -> float:
    """Average precision, rescaled: 0 is the prevalence, 1 is perfect."""
    prevalence = float(np.mean(truth))
    return (auprc(truth, score) - prevalence) / (1 - prevalence) if prevalence < 1 else float("nan")


def r2(truth, predicted) -> float:
    """Share of the variance that is explained; NaN where the label is constant."""
    return float(metrics.r2_score(truth, predicted)) if np.ptp(truth) > 0 else float("nan")


METRICS = {
    "auroc": auroc,
    "auprc": auprc,
    "auprc_skill": auprc_skill,
    "mae": metrics.mean_absolute_error,
    "r2": r2,
    "brier": lambda truth, probability: np.mean((np.asarray(probability) - truth) ** 2),
}
