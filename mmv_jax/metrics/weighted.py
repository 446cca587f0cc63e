"""Metrics under weights of studies: all resamples of a bootstrap in one vectorised sum.

A study of weight 2 counts as two studies, so a row of multinomial counts is a resample.

Axes: R resamples, N studies.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Num


def weighted_auroc(
    truth: Num[np.ndarray, " N"], score: Num[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """AUROC under each row of weights, ties counted half; NaN where a class has no weight."""
    # One column a distinct score, so that ties are one step of the curve.
    starts, order = _groups(score)
    positive = np.add.reduceat((weights * truth[None])[:, order], starts, axis=1)
    negative = np.add.reduceat((weights * (1 - truth)[None])[:, order], starts, axis=1)
    # The negatives below each score, and half of those that tie with it.
    below = np.cumsum(negative, axis=1) - negative / 2
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def weighted_auprc(
    truth: Num[np.ndarray, " N"], score: Num[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """Average precision under each row of weights; NaN where no positive study has weight."""
    # Highest score first: precision is over all studies at the threshold or above it.
    starts, order = _groups(-np.asarray(score, np.float64))
    positive = np.add.reduceat((weights * truth[None])[:, order], starts, axis=1)
    both = np.add.reduceat(weights[:, order], starts, axis=1)
    # A resample may give no weight to the highest scores, hence the floor.
    precision = np.cumsum(positive, axis=1) / np.maximum(np.cumsum(both, axis=1), 1e-12)
    return _ratio((positive * precision).sum(axis=1), positive.sum(axis=1))


def weighted_auprc_skill(
    truth: Num[np.ndarray, " N"], score: Num[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """Average precision under each row of weights, with the resample's prevalence scaled to 0."""
    prevalence = weighted_mean(truth, weights)
    return _ratio(weighted_auprc(truth, score, weights) - prevalence, 1 - prevalence)


def weighted_mean(
    values: Num[np.ndarray, " N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """Mean under each row of weights."""
    return _ratio(weights @ np.asarray(values, np.float64), weights.sum(axis=1))


def weighted_mae(
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """Mean absolute error under each row of weights."""
    return weighted_mean(np.abs(truth - predicted), weights)


def weighted_brier(
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """Mean squared difference of the probability from 0 or 1, under each row of weights."""
    return weighted_mean((truth - predicted) ** 2, weights)


def weighted_r2(
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """Share of the variance that is explained, under each row of weights; NaN where `truth` is
    constant.
    """
    truth = np.asarray(truth, np.float64)
    # Centred before it is squared: E[t²] − E[t]² loses all digits of a far mean.
    away = truth[None] - weighted_mean(truth, weights)[:, None]
    variance = _ratio((weights * away**2).sum(axis=1), weights.sum(axis=1))
    constant = np.sqrt(variance) <= 1e-12 * np.abs(truth).max(initial=0.0)
    return np.where(
        constant,
        np.nan,
        1 - _ratio(weighted_mean((truth - predicted) ** 2, weights), variance),
    )


def weighted_calibration(
    truth: Num[np.ndarray, " N"],
    probability: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
    bins: int = 10,
) -> Float[np.ndarray, " R"]:
    """`scores.calibration_error` under each row of weights.

    The bins are those of all studies' probabilities, the same for every resample.
    """
    inside = np.zeros((len(truth), bins))
    for b, part in enumerate(np.array_split(np.argsort(probability, kind="stable"), bins)):
        inside[part, b] = 1.0
    # |Σ w (p - y)| of a bin is its weight times |mean p - mean y|: no division by empty bins.
    gap = np.asarray(probability, np.float64) - truth
    return _ratio(np.abs((weights * gap[None]) @ inside).sum(axis=1), weights.sum(axis=1))


def weighted_calibration_slope(
    truth: Num[np.ndarray, " N"],
    probability: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """Slope of a logistic regression of the truth on the log odds, under each row of weights.

    1 is calibrated, less is overconfident. NaN where there is no one slope: the log odds separate
    the classes, or are all the same. Newton's method runs on all rows together.

    Source: Cox, Biometrika 45 (1958); Van Calster et al., BMC Medicine 17 (2019), "weak
      calibration".
    """
    p = np.clip(np.asarray(probability, np.float64), 1e-6, 1 - 1e-6)
    x = np.log(p / (1 - p))
    # Centred, in units of its own spread: the slope of a timid probe may be in the hundreds.
    unit = float(x.std())
    if unit <= 1e-12 * float(np.abs(x).max(initial=1.0)):
        return np.full(len(weights), np.nan)
    x = (x - x.mean()) / unit
    a, b = np.zeros((2, len(weights)))
    step = np.full(len(weights), np.inf)
    for _ in range(25):
        # The clip keeps exp finite. At 30 the probability is within 1e-13 of 0 or 1.
        said = 1 / (1 + np.exp(-np.clip(a[:, None] + b[:, None] * x[None], -30, 30)))
        residual, spread = weights * (truth[None] - said), weights * said * (1 - said)
        g0, g1 = residual.sum(axis=1), residual @ x
        h00, h01, h11 = spread.sum(axis=1), spread @ x, spread @ (x * x)
        # Cramer's rule for the 2 × 2 Newton system, one a resample.
        determinant = np.maximum(h00 * h11 - h01 * h01, 1e-12)
        step = (h00 * g1 - h01 * g0) / determinant
        a, b = a + np.clip((h11 * g0 - h01 * g1) / determinant, -5, 5), b + np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-8:
            break
    # A slope that still moves, or that is beyond 50 spreads, has no finite maximum.
    return np.where((np.abs(step) < 1e-4) & (np.abs(b) < 50), b / unit, np.nan)


def weighted_first(
    truth: Num[np.ndarray, " N"],
    predicted: Num[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """Mean of `predicted` under each row of weights; `truth` is not read.

    For scores that exist for each study: Dice, distances.
    """
    return weighted_mean(predicted, weights)


Weighted = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
METRICS: dict[str, Weighted] = {
    "auroc": weighted_auroc,
    "auprc": weighted_auprc,
    "auprc_skill": weighted_auprc_skill,
    "mae": weighted_mae,
    "r2": weighted_r2,
    "brier": weighted_brier,
    "calibration": weighted_calibration,
    "calibration_slope": weighted_calibration_slope,
    "mean": weighted_first,
    "proportion": weighted_first,
}


def _groups(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start of each run of equal scores in ascending order, and that order."""
    order = np.argsort(score, kind="stable")
    ranked = np.asarray(score)[order]
    return np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]), order


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full_like(a, np.nan, dtype=np.float64), where=b > 0)
