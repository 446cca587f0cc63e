"""How exact and how useful a predicted risk is: Brier score and IPA, net benefit, calibration
slope. Axes: N women, D thresholds.

As in `discrimination`, a competing death is one without the outcome, censoring is met by weights
that are taken as known, and intervals come from each woman's influence.
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
    """The mean squared distance of the risk by `years` from what happened: 0 is perfect.

    Source: Graf et al., Stat Med 1999; with competing deaths, Gerds and Schumacher 2006.
    """
    cases, controls = outcome_weights(time, event, years)
    # Weights make up for the censored, so the mean is over all N women.
    return _mean(cases * (1 - risk) ** 2 + controls * risk**2)


def index_of_accuracy(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    risk: Float[np.ndarray, "N"],
    years: float,
) -> Estimate:
    """IPA: the share of the Brier score of the mean risk that `risk` removes. 0: no better than one
    risk for all; below 0: worse.

    Source: Kattan and Gerds, Diagn Progn Res 2018.
    """
    everyone = cumulative_incidence(time, event).at(np.array([years]))[0]
    own = brier(time, event, risk, years)
    null = brier(time, event, np.full(len(time), everyone), years)
    ratio = own.value / null.value
    # Delta method of 1 - own / null. Both scores are of the same women, so influences subtract.
    return Estimate(1 - ratio, (ratio * null.influence - own.influence) / null.value)


def net_benefit(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    risk: Float[np.ndarray, "N"],
    years: float,
    *,
    threshold: float,
) -> Estimate:
    """Of each woman, the benefit of treating all whose risk is `threshold` or more: those with the
    outcome, less the others times the odds of the threshold.

    Source: Vickers and Elkin, Med Decis Making 2006; Vickers et al. 2008 for censored outcomes.
    """
    cases, controls = outcome_weights(time, event, years)
    # At threshold t, one needless treatment costs t / (1 - t) of the gain from one outcome treated.
    odds = threshold / (1 - threshold)
    return _mean((risk >= threshold) * (cases - odds * controls))


@dataclass(frozen=True)
class DecisionCurve:
    """The net benefit by threshold: of treating by each of two risks, and of treating all."""

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
    """Of the risks without and with something new."""
    everyone = np.ones(len(time))
    values = [
        [net_benefit(time, event, risk, years, threshold=float(t)).value for t in thresholds]
        for risk in (*risks, everyone)
    ]
    without, with_it, of_all = (np.array(column) for column in values)
    return DecisionCurve(
        years=years, thresholds=thresholds, without=without, with_it=with_it, of_all=of_all
    )


def calibration_slope(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], risk: Float[np.ndarray, "N"]
) -> tuple[float, tuple[float, float]]:
    """How much the log subdistribution hazard rises as that of the predicted risk rises by 1, and
    its 95 % interval: below 1 high risks are too high and low ones too low.

    Source: van Geloven et al., BMJ 2022, of a model of the subdistribution.
    """
    fit = fine_gray(time, event, {"predicted": log_hazard(risk)})
    value, error = float(fit.log_ratios[0]), float(np.sqrt(fit.covariance[0, 0]))
    return value, (value - Z95 * error, value + Z95 * error)


def log_hazard(risk: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The logarithm of the cumulative hazard that a risk stands for."""
    # H = -log(1 - risk). A risk of 0 or 1 has no finite logarithm, hence the clip.
    return np.log(-np.log1p(-np.clip(risk, 1e-12, 1 - 1e-12)))


def _mean(values: np.ndarray) -> Estimate:
    value = float(values.mean())
    return Estimate(value, (values - value) / len(values))
