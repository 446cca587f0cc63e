"""Retrieval of a patient's study of one modality by that of another.

Axes: N patients; row i of a similarity is a query, column i its only right answer.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mmv_jax.metrics.closed_form import proportion_interval
from mmv_jax.metrics.features import unit
from mmv_jax.metrics.intervals import Interval
from mmv_jax.metrics.jackknife import jackknifed

DEPTHS = (1, 5)  # of recall


@dataclass(frozen=True)
class Retrieval:
    """How well the other study of a patient is found, with what chance would find.

    Attributes:
      recall: by depth, the share of queries whose answer is among so many of the most similar.
      precision: mean average precision. With one answer a query it is the mean reciprocal rank.
      chance: of each recall by depth, and of the precision under 0.
      left_out: the precision without each patient.
    """

    recall: dict[int, Interval]
    precision: Interval
    chance: dict[int, float]
    left_out: Float[np.ndarray, " N"]


def cosine(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    """Cosine similarity of every pair."""
    # float64 after the scaling, so that ties of equal features stay ties.
    return unit(x).astype(np.float64) @ unit(y).astype(np.float64).T


def posterior_cosine(
    a: Float[np.ndarray, "N C"], b: Float[np.ndarray, "M C"], correlations: Float[np.ndarray, " C"]
) -> Float[np.ndarray, "N M"]:
    """Cosine of what each variate leads to expect of the latent that both sets share.

    Args:
      a, b: canonical variates of both sets, of variance 1.
      correlations: of each pair of variates, on pairs that were not fitted to; 0 to below 1.

    Source: Bach and Jordan, A probabilistic interpretation of canonical correlation analysis
      (technical report 688, Berkeley, 2005), section 4.1, with M = √ρ for both sets.
    """
    weights = np.sqrt(correlations)[None]
    return cosine(a * weights, b * weights)


def likelihood_ratio(
    a: Float[np.ndarray, "N C"], b: Float[np.ndarray, "M C"], correlations: Float[np.ndarray, " C"]
) -> Float[np.ndarray, "N M"]:
    """Logarithm of how much likelier two studies are as those of one body than of two.

    In the model of Bach and Jordan the variates of one body are normal with their correlation, and
    those of two bodies independent. The constant that all pairs share is left out. Arguments as of
    `posterior_cosine`.
    """
    # log N(a, b; ρ) - log N(a) - log N(b), summed over independent variates:
    # [ρ a b - ρ² (a² + b²) / 2] / (1 - ρ²).
    beyond = 1 - correlations**2
    cross, own = correlations / beyond, correlations**2 / beyond / 2
    return (a * cross[None]) @ b.T - (a**2 @ own)[:, None] - (b**2 @ own)[None]


def ranks(similarity: Float[np.ndarray, "N N"]) -> Float[np.ndarray, " N"]:
    """Rank of the right answer of each query, from 1; answers that tie with it count half.

    Example:
      >>> ranks(np.array([[0.9, 0.1], [0.5, 0.5]])).tolist()
      [1.0, 1.5]
    """
    return 1 + _above(similarity).sum(axis=1)


def retrieve(similarity: Float[np.ndarray, "N N"]) -> Retrieval:
    """Recall and precision over all queries, with intervals.

    Recalls have Wilson's interval. That of the precision is jackknifed over patients: one that is
    left out is neither a query nor an answer.
    """
    above = _above(similarity)
    found, n = 1 + above.sum(axis=1), len(similarity)
    # Without patient j, the rank of query i falls where j stood above its answer.
    reciprocal = 1 / (found[:, None] - above)
    # The patient itself is no query then.
    np.fill_diagonal(reciprocal, 0.0)
    left_out = reciprocal.sum(axis=0) / (n - 1)
    value = float((1 / found).mean())
    recall = {}
    for depth in DEPTHS:
        hit = (found <= depth).astype(np.float64)
        # One query a patient, so there are no clusters.
        bounds = proportion_interval(hit, np.arange(n))
        recall[depth] = Interval(float(hit.mean()), *bounds, n)
    # With n answers in random order the mean of 1 / rank is the n-th harmonic number over n.
    chance = {depth: min(depth / n, 1.0) for depth in DEPTHS}
    chance[0] = float((1 / np.arange(1, n + 1)).mean())
    precision = jackknifed([value], left_out[None], within=(0.0, 1.0))
    return Retrieval(recall, precision, chance, left_out)


def _above(similarity: np.ndarray) -> np.ndarray:
    """Whether an answer stands above the right one of its query: 1, or 0.5 where they tie."""
    # The right answer of each query, as a column beside all its answers.
    right = np.diagonal(similarity)[:, None]
    above = (similarity > right) + 0.5 * (similarity == right)
    np.fill_diagonal(above, 0.0)
    return above
