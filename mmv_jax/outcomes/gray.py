"""Gray's test: is the cumulative incidence the same in several groups?

Axes: N women, T times, G groups.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped

from mmv_jax.outcomes.survival import CurveTest, by_group, chi2_of


def gray(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], group: Shaped[np.ndarray, "N"]
) -> CurveTest:
    """Gray's test of the cumulative incidence of event 1 under competing event 2.

    The log-rank test compares hazards instead. At the same hazard, a group with more deaths of
    other causes may have fewer outcomes.

    Source: Gray, Ann Stat 1988, with weight 1, as R's `cmprsk::cuminc` computes it.
    """
    # Times of competing deaths count too: they lower S(t-) and add to the variance.
    when = np.unique(time[event != 0])
    risk, d1 = by_group(when, time, event == 1, group)
    d2 = by_group(when, time, event == 2, group)[1]
    there = np.maximum(risk, 1)  # a group without women at risk has no event either
    alive = np.cumprod(1 - (d1 + d2) / there, axis=0)
    before = _shifted(alive, 1.0)
    incidence_before = _shifted(np.cumsum(before * d1 / there, axis=0), 0.0)
    # women at risk in the subdistribution if nobody were censored
    size = np.where(risk > 0, risk / np.where(risk > 0, before, 1.0), 0.0)
    total, happened = size.sum(axis=1), d1.sum(axis=1)
    # Gray's R(t) = r(t) (1 - F(t-)) / S(t-): women who died of another cause stay in it.
    still_free = size * (1 - incidence_before)
    expected = happened[:, None] * still_free / still_free.sum(axis=1, keepdims=True)
    score = np.sum(d1 - expected, axis=0)
    # incidence of all groups together, after and before each time
    pooled = np.cumsum(happened / total)
    pooled_before = _shifted(pooled[:, None], 0.0)[:, 0]
    # [T, G, G]: size_i (δ_ij - size_j / total).
    spread = size[:, :, None] * np.eye(size.shape[1]) - (
        size[:, :, None] * size[:, None, :] / total[:, None, None]
    )
    compensator = np.cumsum(
        spread * (happened / (total * (1 - pooled_before)))[:, None, None], axis=0
    )
    # two sources of variance: the outcomes, and the competing deaths
    positive = alive > 0
    left = np.where(positive, (1 - pooled)[:, None] / np.where(positive, alive, 1.0), 0.0)
    of_outcome = np.where(risk > 0, before * happened[:, None] / (total[:, None] * there), 0.0)
    # cuminc's correction for ties, 1 - (d - 1) / (n - 1): of outcomes here, of deaths below.
    several = total[:, None] * before - 1
    ties = (happened[:, None] > 1) & (several > 0)
    of_outcome *= 1 - np.where(ties, (happened - 1)[:, None] / np.where(ties, several, 1.0), 0.0)
    of_death = np.where(positive, before**2 * d2 / there**2, 0.0)
    of_death *= 1 - np.where(d2 > 1, (d2 - 1) / np.maximum(there - 1, 1), 0.0)
    variance = _gray_variance(
        (1 - left, spread - (1 - left)[:, None, :] * compensator, of_outcome),
        (-left, left[:, None, :] * compensator, of_death),
        last=compensator[-1],
    )
    return chi2_of(score, variance)


def _gray_variance(*sources, last):
    """Variance of the score: sum over sources (slope, own part, variance).

    Their shapes are [T, G], [T, G, G] and [T, G].
    """
    groups = len(last)
    variance, crossed, squared = np.zeros((groups, groups)), np.zeros((groups, groups)), 0.0
    # The score moves by own + last · slope. `last` has no time axis: the square is multiplied out.
    for slope, own, of in sources:
        variance = variance + np.einsum("tik,tjk,tk->ij", own, own, of)
        crossed = crossed + np.einsum("tik,tk->ik", own, slope * of)
        squared = squared + np.sum(slope**2 * of, axis=0)
    both = last @ crossed.T
    return variance + (last * squared) @ last.T + both + both.T


def _shifted(values: np.ndarray, first: float) -> np.ndarray:
    """Values just before each time."""
    return np.concatenate([np.full_like(values[:1], first), values[:-1]])
