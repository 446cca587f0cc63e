"""Canonical correlation of two sets of features of the same patients: what both of them say.

Axes: N pairs, D and E widths, C axes, S shared ones.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RELATIVE = 1e-8  # of the largest variance: directions with less are rounding


@dataclass(frozen=True)
class Side:
    """One of the two sets: how its features become canonical variates of variance 1.

    Attributes:
      axes: the variate k is (x − mean) @ axes[:, k]. Variates are uncorrelated among each other.
    """

    mean: Float[np.ndarray, " D"]
    axes: Float[np.ndarray, "D C"]

    def leading(self, count: int) -> "Side":
        """The first axes alone."""
        return Side(self.mean, self.axes[:, :count])

    def __call__(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N C"]:
        return (np.asarray(x, np.float64) - self.mean[None]) @ self.axes


@dataclass(frozen=True)
class Canonical:
    """Canonical variates of two sets, the most correlated first.

    Attributes:
      correlations: on the pairs that it was fitted to, which few pairs make too high.
    """

    first: Side
    second: Side
    correlations: Float[np.ndarray, " C"]


def fit_canonical(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"], components: int
) -> Canonical:
    """Canonical correlation analysis between the leading principal components of both sets.

    Without the limit, more dimensions than pairs would correlate perfectly.

    Args:
      components: principal components of each set that are looked at.
    Raises:
      ValueError: fewer than two pairs, or the sets differ in length.

    Source: Hotelling, Biometrika 28 (1936); by a singular value decomposition of the whitened
      cross-covariance, Bjoerck and Golub, Mathematics of Computation 27 (1973).
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"{len(x)} and {len(y)} lines are no pairs")
    first, second = whiten(x, components), whiten(y, components)
    return between(first, second, x, y)


def between(
    first: Side, second: Side, x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"]
) -> Canonical:
    """The canonical variates between white axes of both sets, as of `whiten`.

    Args:
      x, y: what the axes are white on.
    """
    # On white axes a rotation keeps variates uncorrelated, so one SVD finds all of them.
    left, correlations, right = np.linalg.svd(first(x).T @ second(y) / (len(x) - 1))
    # Both have as many variates as their own components: those beyond the smaller number are of
    # one set alone.
    return Canonical(
        Side(first.mean, first.axes @ left),
        Side(second.mean, second.axes @ right.T),
        np.minimum(correlations, 1.0),
    )


def whiten(x: Float[np.ndarray, "N D"], components: int) -> Side:
    """Axes on which the leading principal components have variance 1."""
    own = np.asarray(x, np.float64)
    mean = own.mean(axis=0)
    # Of the features themselves, not of their covariance, which would square the condition number.
    _, sigma, axes = np.linalg.svd(own - mean[None], full_matrices=False)
    variance = sigma**2 / (len(own) - 1)
    there = np.flatnonzero(variance > RELATIVE * variance[0])[:components]
    return Side(mean, axes[there].T / np.sqrt(variance[there])[None])


def held_out_correlations(
    fitted: Canonical, x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"]
) -> Float[np.ndarray, " C"]:
    """The correlation of each pair of variates on pairs that were not fitted to."""
    return _correlations(fitted.first(x), fitted.second(y))


@dataclass(frozen=True)
class Shared:
    """How many variates are shared, by pairs that were not fitted to.

    Attributes:
      count: leading variates whose correlation is above `null`.
      correlations: of all variates on these pairs.
      null: the 95th percentile of the largest correlation of any variate with the pairs permuted.
      p: of the largest correlation, one-sided.
    """

    count: int
    correlations: Float[np.ndarray, " C"]
    null: float
    p: float


def shared_variates(
    fitted: Canonical,
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, "N E"],
    *,
    permutations: int = 999,
    seed: int = 0,
) -> Shared:
    """The leading variates that correlate on held-out pairs more than chance allows for any.

    The null is of the largest of all correlations, so that many variates do not find one by chance.
    """
    a, b = fitted.first(x), fitted.second(y)
    found = _correlations(a, b)
    # The fit stays as it is: it has not seen these pairs, whose order is all that is permuted.
    rng = np.random.default_rng(seed)
    largest = np.array(
        [_correlations(a, b[rng.permutation(len(b))]).max() for _ in range(permutations)]
    )
    null = float(np.quantile(largest, 0.95))
    above = found > null
    # The first that is not above it ends the shared subspace.
    count = int(np.argmin(above)) if not above.all() else len(above)
    # The observed order counts as one of the permutations, so p is never 0.
    p = float((1 + (largest >= found.max()).sum()) / (1 + permutations))
    return Shared(count, found, null, p)


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of column k of both, for as many columns as both have; 0 where a column is constant."""
    # Beyond the smaller number of variates there is no partner.
    most = min(a.shape[1], b.shape[1])
    a, b = (z[:, :most] - z[:, :most].mean(axis=0)[None] for z in (a, b))
    scale = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.divide((a * b).sum(axis=0), scale, out=np.zeros(most), where=scale > 0)
