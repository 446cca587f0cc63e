"""What probes share: standardised features, principal axes. Axes: N studies, D width, M of test."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MEMORY = 10  # pairs that the quasi-Newton direction remembers


@dataclass(frozen=True)
class Standardiser:
    """Features with mean 0 and variance 1 on the studies that it was made from."""

    mean: Float[np.ndarray, " D"]
    scale: Float[np.ndarray, " D"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "N D"]) -> "Standardiser":
        # A feature that varies by rounding alone must not be blown up to variance 1.
        std = x.std(axis=0)
        return cls(
            x.mean(axis=0),
            np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, 1.0).astype(x.dtype),
        )

    def __call__(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        return (x - self.mean[None]) / self.scale[None]


def principal_axes(
    x: Float[np.ndarray, "N D"], most: int | None = None
) -> tuple[Float[np.ndarray, "D R"], Float[np.ndarray, " R"]]:
    """Directions [D, R] in which `x` has any length, longest first and `most` at most, and the
    eigenvalues of xᵀx along them.

    The smaller of the two Gram matrices is decomposed: many times as fast as a singular value
    decomposition of `x`, and as exact where it matters.
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
    """What a probe says about the test studies, and the strength that the val studies chose.

    Attributes:
      held_out: how good it was on val before val was fitted on; more is better. NaN where the kind
        of task does not say, and so cannot choose between readouts.
    """

    predicted: Float[np.ndarray, " M"]
    strength: float
    held_out: float = float("nan")
