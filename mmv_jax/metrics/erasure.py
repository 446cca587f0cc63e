"""Removal of a binary concept from features, so that no linear probe can tell it.

Axes: N studies, D width.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

RELATIVE = 1e-8  # of the largest variance: directions with less are rounding
ALIKE = 1e-16  # squared distance of the means in standard deviations: what is left is rounding


@dataclass(frozen=True)
class Erasure:
    """A map of features: x − (x − mean) @ along · across.

    Attributes:
      mean: of the features that it was fitted to.
      along, across: the direction that is read, and the one that is taken away.
    """

    mean: Float[np.ndarray, " D"]
    along: Float[np.ndarray, " D"]
    across: Float[np.ndarray, " D"]

    def __call__(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        read = (np.asarray(x, np.float64) - self.mean[None]) @ self.along
        return np.asarray(x - read[:, None] * self.across[None])


def fit_erasure(x: Float[np.ndarray, "N D"], concept: Bool[np.ndarray, " N"]) -> Erasure:
    """The smallest change after which both classes have the same mean (LEACE).

    A linear probe, trained on features with equal class means, does no better than a constant.
    Probes that are not linear may still tell the classes apart.

    Source: Belrose et al., LEACE (arXiv 2306.03819), theorem 4.2, with one concept of two values.
    """
    own = np.asarray(x, np.float64)
    mean = own.mean(axis=0)
    # Directions without variance cannot hold the concept, and cannot be whitened.
    values, axes = np.linalg.eigh((own - mean[None]).T @ (own - mean[None]) / len(own))
    there = values > RELATIVE * max(float(values[-1]), 1e-300)
    values, axes = values[there], axes[:, there]
    apart = own[concept].mean(axis=0) - own[~concept].mean(axis=0)
    # In whitened space the change is an orthogonal projection along the difference of the means.
    white = (axes.T @ apart) / np.sqrt(values)
    length = float(white @ white)
    if length < ALIKE:
        return Erasure(mean, np.zeros_like(mean), np.zeros_like(mean))
    direction = white / np.sqrt(length)
    # W⁺ u uᵀ W with W the whitening: one vector reads the concept, the other one is taken away.
    return Erasure(
        mean,
        along=axes @ (direction / np.sqrt(values)),
        across=axes @ (direction * np.sqrt(values)),
    )
