"""Worth of a predicted risk: C-index, time-dependent AUC, reclassification and calibration.

Axes: N women, G groups. An outcome is event 1. Event 2 is a competing death: the woman can no
longer have the outcome, and counts as one who never has it. Censoring is handled by inverse
probability weights. Intervals come from each woman's influence, so two risks of the same women are
compared in pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.outcomes.cox import Z95
from mmv_jax.outcomes.fine_gray import censoring_survival
from mmv_jax.outcomes.survival import cumulative_incidence

# borderline, intermediate, high: ten-year categories of the 2018 and 2019 AHA/ACC guidelines
RISK_CUTOFFS = (0.05, 0.075, 0.2)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
      influence: [N]; influence[k] is the derivative with respect to the weight of woman k.
    """

    value: float
    influence: Float[np.ndarray, "N"]

    @property
    def ci95(self) -> tuple[float, float]:
        """95 % interval by the infinitesimal jackknife."""
        # Infinitesimal jackknife: the variance is the sum of the squared influences.
        half = Z95 * float(np.sqrt(np.sum(self.influence**2)))
        return self.value - half, self.value + half

    @property
    def n(self) -> int:
        """Number of women."""
        return len(self.influence)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.influence - other.influence)

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value + other.value, self.influence + other.influence)


def concordance(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], risk: Float[np.ndarray, "N"]
) -> Estimate:
    """Harrell's C: of two women, how often had the one with the earlier outcome the higher risk?

    Equal risks count half. A pair is compared if the outcome came before the other's time, or at
    that time if the other was censored then. With competing deaths this is the C of Wolbers et al.
    (Epidemiology 2009). The variance is the infinitesimal jackknife, as in R's
    `survival::concordance`. Cost: N log² N.
    """
    return _weighted_concordance(time, event, risk, np.ones(len(time)))


def uno_concordance(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    risk: Float[np.ndarray, "N"],
    years: float,
) -> Estimate:
    """Uno's C of the outcomes within `years`: Harrell's C, weighted for censored outcomes.

    Harrell's C depends on the censoring: few late outcomes are seen. Here an outcome at T counts 1
    / G(T-)², where G is the probability of not being censored. The interval takes G as known.

    Source: Uno et al., Stat Med 2011, as scikit-survival's `concordance_index_ipcw`; competing
    deaths as in Wolbers' C.
    """
    counted = (event == 1) & (time <= years)
    free = censoring_survival(time, event, time)
    weight = np.where(counted, 1 / np.maximum(free, 1e-12) ** 2, 0.0)
    return _weighted_concordance(time, event, risk, weight)


def _weighted_concordance(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, weight: np.ndarray
) -> Estimate:
    """C in which a pair has the weight of its woman with the earlier outcome."""
    # Ranks: only the order counts, and `_weight_below` needs whole numbers.
    _, risk = np.unique(risk, return_inverse=True)
    had = (event == 1) & (weight > 0)
    # After a competing death the outcome never comes: her time is later than all others.
    ends = np.where(event == 2, np.inf, time)
    # Outcomes sort before censorings of the same time, so such a pair is compared.
    _, key = np.unique(np.stack([ends, event != 1], axis=1), axis=0, return_inverse=True)
    # NumPy 2.0 returns this inverse with a second axis.
    key = key.reshape(-1)
    # As the first of a pair: compared with all whose key is larger. As the second: with outcomes
    # whose key is smaller.
    order = np.argsort(-key, kind="stable")
    later = np.searchsorted(-key[order], -key[had], side="left")
    below, up_to = _weight_below(risk[order], np.ones(len(order)), later, risk[had])
    won, pairs = np.zeros(len(time)), np.zeros(len(time))
    won[had], pairs[had] = weight[had] * (below + up_to) / 2, weight[had] * later
    order = np.flatnonzero(had)[np.argsort(key[had], kind="stable")]
    earlier = np.searchsorted(key[order], key, side="left")
    below, up_to = _weight_below(risk[order], weight[order], earlier, risk)
    before = np.concatenate([[0.0], np.cumsum(weight[order])])[earlier]
    won += before - (below + up_to) / 2
    pairs += before
    # Every pair is in the sums of both its women, so pairs.sum() is twice their weight: hence the
    # 2.
    value = float(won.sum() / pairs.sum())
    return Estimate(value, 2 * (won - value * pairs) / pairs.sum())


def _weight_below(
    values: np.ndarray, weight: np.ndarray, ends: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of `values[:ends[q]]` below `at[q]`, and of those up to `at[q]`, for each query q.

    Values are whole numbers from 0. A prefix is cut into blocks whose lengths are the powers of two
    in `ends[q]`. The blocks of one length are sorted and searched together.
    """
    # Larger than any value, so that the keys of two blocks never mix.
    span = int(max(values.max(initial=0), at.max(initial=0))) + 2
    place = np.arange(len(values))
    below, up_to = np.zeros(len(ends)), np.zeros(len(ends))
    for bit in range(int(ends.max(initial=0)).bit_length()):
        # For ends = 6, binary 110, the blocks are [0, 4) at bit 2 and [4, 6) at bit 1.
        asked = np.flatnonzero(ends >> bit & 1)
        block = (ends[asked] >> bit) - 1
        keyed = (place >> bit) * span + values
        order = np.argsort(keyed, kind="stable")
        keyed = keyed[order]
        total = np.concatenate([[0.0], np.cumsum(weight[order])])
        # All blocks before it are full, so sorting leaves the place where it starts unchanged.
        start = total[block << bit]
        key = block * span + at[asked]
        below[asked] += total[np.searchsorted(keyed, key, side="left")] - start
        up_to[asked] += total[np.searchsorted(keyed, key, side="right")] - start
    return below, up_to


def outcome_weights(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], years: float
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Weight of each woman among those with, and among those without, the outcome by `years`.

    Both are 0 if she was censored before.
    """
    before = 1 / np.maximum(censoring_survival(time, event, np.minimum(time, years)), 1e-12)
    known = (time > years) | (event != 0)
    # G just after `years` for those followed longer: nobody is censored between their weights' time
    # and `years` itself.
    beyond = 1 / max(
        float(censoring_survival(time, event, np.array([np.nextafter(years, np.inf)]))[0]), 1e-12
    )
    weight = np.where(time > years, beyond, before) * known
    case = (event == 1) & (time <= years)
    return weight * case, weight * ~case


def auc(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    risk: Float[np.ndarray, "N"],
    years: float,
) -> Estimate:
    """Time-dependent AUC at `years`.

    It is the probability that a woman with the outcome by then has a higher risk than one without.

    Cases are cumulative, controls dynamic, and competing deaths are among the controls. The
    interval takes the censoring weights as known.

    Source: Blanche et al., Stat Med 2013.
    """
    cases, controls = outcome_weights(time, event, years)
    w1, w0 = cases.sum(), controls.sum()
    controls_below = _share_below(risk, controls / w0)
    cases_below = _share_below(risk, cases / w1)
    value = float(np.sum(cases / w1 * controls_below))
    # A weight also changes the sum of its class, w1 or w0, so each part is centred by `value`.
    influence = cases / w1 * (controls_below - value) + controls / w0 * (1 - cases_below - value)
    return Estimate(value, influence)


def _share_below(risk: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weight of those with a lower risk, plus half the weight of those with the same risk."""
    _, place = np.unique(risk, return_inverse=True)
    each = np.bincount(place, weights=weight)
    return (np.cumsum(each) - each / 2)[place]


@dataclass(frozen=True)
class Reclassification:
    """Net reclassification by `years`.

    With the outcome it is moved up minus moved down, without it moved down minus moved up. `total`
    is their sum.
    """

    years: float
    cutoffs: tuple[float, ...]
    with_outcome: Estimate
    without_outcome: Estimate
    total: Estimate


def reclassification(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    old: Float[np.ndarray, "N"],
    new: Float[np.ndarray, "N"],
    years: float,
    cutoffs: Sequence[float | int] = RISK_CUTOFFS,
) -> Reclassification:
    """Net reclassification: how far `new` moves women in the right direction, compared with `old`.

    Args:
      cutoffs: bounds of the risk categories. Without any, every change of risk is a move (the
        continuous form).
    Source: Pencina et al., Stat Med 2011, with censoring weights.
    """
    cases, controls = outcome_weights(time, event, years)
    if cutoffs:
        # side="right": a risk of exactly 7.5 % is in the higher category, as in the guidelines.
        old, new = (
            np.searchsorted(cutoffs, old, side="right"),
            np.searchsorted(cutoffs, new, side="right"),
        )
    move = np.sign(new - old).astype(float)
    up, down = _mean(move, cases), _mean(-move, controls)
    return Reclassification(
        years=years,
        cutoffs=tuple(cutoffs),
        with_outcome=up,
        without_outcome=down,
        total=up + down,
    )


def _mean(values: np.ndarray, weight: np.ndarray) -> Estimate:
    value = float(np.sum(weight * values) / weight.sum())
    return Estimate(value, weight * (values - value) / weight.sum())


@dataclass(frozen=True)
class Calibration:
    """Predicted and observed risk by `years` in groups of rising predicted risk.

    `low` and `high` are the 95 % interval of the observed risk.
    """

    years: float
    predicted: Float[np.ndarray, "G"]
    observed: Float[np.ndarray, "G"]
    low: Float[np.ndarray, "G"]
    high: Float[np.ndarray, "G"]
    women: Int[np.ndarray, "G"]
    ratio: float  # observed / predicted of all women
    ratio_ci95: tuple[float, float]


def calibration(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    risk: Float[np.ndarray, "N"],
    years: float,
    *,
    groups: int = 10,
) -> Calibration:
    """Calibration of a risk by `years`, in `groups` quantile groups of the predicted risk.

    The observed risk is the cumulative incidence under competing death.
    """
    # Two argsorts give ranks. Equal risks may be split, so that the groups have equal size.
    rank = np.argsort(np.argsort(risk, kind="stable"), kind="stable")
    group = rank * groups // len(risk)
    rows = [_observed(time[group == i], event[group == i], years) for i in range(groups)]
    observed, low, high = (np.array(column) for column in zip(*rows))
    predicted = np.bincount(group, weights=risk) / np.bincount(group)
    overall, mean = _observed(time, event, years), float(np.mean(risk))
    # The mean prediction is taken as known: the interval is that of the observed risk.
    ratio, *ratio_ci95 = (value / mean for value in overall)
    return Calibration(
        years=years,
        predicted=predicted,
        observed=observed,
        low=low,
        high=high,
        women=np.bincount(group),
        ratio=ratio,
        ratio_ci95=(ratio_ci95[0], ratio_ci95[1]),
    )


def _observed(time: np.ndarray, event: np.ndarray, years: float) -> tuple[float, float, float]:
    curve = cumulative_incidence(time, event)
    i = np.searchsorted(curve.time, years, side="right") - 1
    return float(curve.value[i]), float(curve.low[i]), float(curve.high[i])
