"""TODO."""

import numpy as np
from jaxtyping import Float

from mmv_jax.evaluate.kinds.features import Probed, Standardiser, principal_axes

PENALTIES = tuple(10.0**e for e in np.arange(0, 6.5, 0.5))  # alpha of the ridge probe


def fit_ridge(
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, " N"],
    penalties: tuple[float, ...] = PENALTIES,
) -> tuple[Float[np.ndarray, "D S"], float]:
    """Ridge regression at every penalty from one decomposition; the intercept is the mean of `y`,
    so `x` must be centred.

    With xᵀx = V diag(v) Vᵀ the weights at penalty a are V diag(1 / (v + a)) Vᵀ xᵀ y: only the
    diagonal changes.
    """
    axes, values = principal_axes(x)
    mean = float(y.mean())
    along = (x @ axes).T @ (y - mean)
    return axes @ (along[:, None] / (values[:, None] + np.asarray(penalties)[None])), mean


def probe_number(
    x: Float[np.ndarray, "N D"],
    label: Float[np.ndarray, " N"],
    split: np.ndarray,
    penalties: tuple[float, ...] = PENALTIES,
) -> Probed:
    """A ridge probe of a number: fitted on train, penalty by the absolute error on val, refitted on
    train and val.
    """
    train, val, test = (split == name for name in ("train", "val", "test"))
    standard = Standardiser.of(x[train])
    weights, mean = fit_ridge(standard(x[train]), label[train], penalties)
    error = np.abs(standard(x[val]) @ weights + mean - label[val][:, None]).mean(axis=0)
    chosen = penalties[int(np.argmin(error))]

    both = train | val
    standard = Standardiser.of(x[both])
    weights, mean = fit_ridge(standard(x[both]), label[both], (chosen,))
    return Probed(standard(x[test]) @ weights[:, 0] + mean, chosen)
