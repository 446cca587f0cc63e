"""Shared parts of probes: standardised features, linear heads and principal axes.

Axes: N studies, D width, M of test.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MEMORY = 10  # pairs in the memory of the quasi-Newton direction


@dataclass(frozen=True)
class Standardiser:
    """A map of features to mean 0 and variance 1 on the studies that it was made from."""

    mean: Float[np.ndarray, " D"]
    scale: Float[np.ndarray, " D"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "N D"]) -> "Standardiser":
        # A feature that varies only by rounding must not be scaled up to variance 1.
        std = x.std(axis=0)
        return cls(
            x.mean(axis=0),
            np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, 1.0).astype(x.dtype),
        )

    def __call__(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        return (x - self.mean[None]) / self.scale[None]


@dataclass(frozen=True)
class LinearHead:
    """One number a study: `features @ kernel + bias`."""

    kernel: Float[np.ndarray, " D"]
    bias: float

    @classmethod
    def of(
        cls, standard: Standardiser, weights: Float[np.ndarray, " D"], bias: float
    ) -> "LinearHead":
        """The head of plain features with the output of `weights` on standardised ones."""
        kernel = weights / standard.scale
        return cls(kernel, bias - float(standard.mean @ kernel))


def principal_axes(
    x: Float[np.ndarray, "N D"], most: int | None = None
) -> tuple[Float[np.ndarray, "D R"], Float[np.ndarray, " R"]]:
    """Directions [D, R] of `x` with their eigenvalues of xᵀx, largest first, `most` at most.

    Directions in which `x` has no length are left out. The smaller of the two Gram matrices is
    decomposed. This is many times faster than a singular value decomposition of `x`, and as exact
    where it matters.
    """
    # A Gram matrix squares the condition number: in float32 the short axes would be noise.
    x = x.astype(np.float64)
    tall = x.shape[0] > x.shape[1]
    values, vectors = np.linalg.eigh(x.T @ x if tall else x @ x.T)
    # eigh sorts ascending, hence the reversal. Below 1e-10 of the
    # largest, eigenvalues are rounding.
    there = np.flatnonzero(values > 1e-10 * max(values[-1], 1e-300))[::-1][:most]
    values, vectors = values[there], vectors[:, there]
    # From x xᵀ u = v u follows the axis xᵀ u / √v, of length 1.
    return (vectors if tall else x.T @ vectors / np.sqrt(values)[None]), values


@dataclass(frozen=True)
class Probed:
    """A probe's predictions on the test studies, and the strength that val chose.

    Attributes:
      held_out: the score on val before val was fitted on; larger is better. NaN if the kind of task
        has no such score, and so cannot choose between readouts.
      on_val: predictions for the val studies by the fit on train alone, from which an operating
        point is chosen; None where the kind has none.
    """

    predicted: Float[np.ndarray, "M *C"]
    strength: float
    held_out: float = float("nan")
    on_val: Float[np.ndarray, " V"] | None = None
