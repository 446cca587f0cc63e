"""Accuracy of predicted risk: Brier score and IPA, net benefit, calibration slope.

Axes: N women, D thresholds. As in `discrimination`, a woman who dies of another cause counts as one
without the outcome. Censoring is handled by weights, which are taken as known. Intervals come from
each woman's influence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.outcomes.cox import Z95
from mmv_jax.outcomes.discrimination import Estimate, outcome_weights
from mmv_jax.outcomes.fine_gray import fine_gray
from mmv_jax.outcomes.survival import cumulative_incidence


def brier(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    risk: Float[np.ndarray, "N"],
    years: float,
) -> Estimate:
    """Brier score: mean squared distance between risk by `years` and outcome; 0 is perfect.

    Source: Graf et al., Stat Med 1999; with competing deaths, Gerds and Schumacher 2006.
    """
    cases, controls = outcome_weights(time, event, years)
    # Weights compensate for the censored, so the mean is over all N women.
    return _mean(cases * (1 - risk) ** 2 + controls * risk**2)


def index_of_accuracy(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    risk: Float[np.ndarray, "N"],
    years: float,
) -> Estimate:
    """IPA: share of the Brier score of the mean risk that `risk` removes.

    0 means no better than one risk for all; below 0 means worse.

    Source: Kattan and Gerds, Diagn Progn Res 2018.
    """
    everyone = cumulative_incidence(time, event).at(np.array([years]))[0]
    own = brier(time, event, risk, years)
    null = brier(time, event, np.full(len(time), everyone), years)
    ratio = own.value / null.value
    # Delta method of 1 - own / null. Both scores are of the same women, so influences are
    # subtracted.
    return Estimate(1 - ratio, (ratio * null.influence - own.influence) / null.value)


def net_benefit(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    risk: Float[np.ndarray, "N"],
    years: float,
    *,
    threshold: float,
) -> Estimate:
    """Net benefit per woman of treating all with a risk of at least `threshold`.

    It is the share treated with the outcome, minus the share treated without it times the
    threshold's odds.

    Source: Vickers and Elkin, Med Decis Making 2006; Vickers et al. 2008 for censored outcomes.
    """
    cases, controls = outcome_weights(time, event, years)
    # At threshold t, one unnecessary treatment costs t / (1 - t) of the gain from one treated
    # outcome.
    odds = threshold / (1 - threshold)
    return _mean((risk >= threshold) * (cases - odds * controls))


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit by threshold: of treating by each of two risks, and of treating all."""

    years: float
    thresholds: Float[np.ndarray, "D"]
    without: Float[np.ndarray, "D"]
    with_it: Float[np.ndarray, "D"]
    of_all: Float[np.ndarray, "D"]


def decision_curve(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    risks: Sequence[Float[np.ndarray, "N"]],
    *,
    years: float,
    thresholds: Float[np.ndarray, "D"],
) -> DecisionCurve:
    """Decision curve of two risks, without and with a new predictor.

    Args:
      risks: by `years`, first without and then with it.
    """
    # `net_benefit` at every threshold, with weights that are computed once.
    cases, controls = outcome_weights(time, event, years)
    odds = thresholds / (1 - thresholds)
    without, with_it, of_all = (
        np.array(
            [
                np.mean((risk >= t) * (cases - o * controls))
                for t, o in zip(thresholds, odds, strict=True)
            ]
        )
        for risk in (*risks, np.ones(len(time)))
    )
    return DecisionCurve(
        years=years, thresholds=thresholds, without=without, with_it=with_it, of_all=of_all
    )


def calibration_slope(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], risk: Float[np.ndarray, "N"]
) -> tuple[float, tuple[float, float]]:
    """Calibration slope of a predicted risk and its 95 % interval.

    It is the rise of the log subdistribution hazard when that of the prediction rises by 1. Below
    1, high risks are too high and low risks too low.

    Source: van Geloven et al., BMJ 2022, for a model of the subdistribution.
    """
    fit = fine_gray(time, event, {"predicted": log_hazard(risk)})
    value, error = float(fit.log_ratios[0]), float(np.sqrt(fit.covariance[0, 0]))
    return value, (value - Z95 * error, value + Z95 * error)


def log_hazard(risk: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Logarithm of the cumulative hazard that corresponds to a risk."""
    # H = -log(1 - risk). A risk of 0 or 1 has no finite logarithm, hence the clip.
    return np.log(-np.log1p(-np.clip(risk, 1e-12, 1 - 1e-12)))


def _mean(values: np.ndarray) -> Estimate:
    value = float(values.mean())
    return Estimate(value, (values - value) / len(values))
