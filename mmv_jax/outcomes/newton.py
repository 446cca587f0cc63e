"""The maximum of a partial likelihood by Newton's method. Axis: P coefficients."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

# a model that has a maximum needs about six; where a coefficient has none, each step only moves it
# further
MOST_STEPS = 25
# A step that gains less than this share of the log likelihood is the last but one, as in R's coxph.
# An absolute limit fails on large cohorts: rounding of a likelihood of 100,000 is above 1e-12.
RELATIVE_GAIN = 1e-9
# in standard deviations of the covariate: the step after the last. Where a coefficient has no
# maximum, steps stay near 1 for as long as one looks.
LAST_STEP = 1e-3
# in standard deviations of the covariate: beyond, the likelihood is flat because it rises without
# end
LARGEST_ERROR = 100.0


def maximum(
    at: Callable[[np.ndarray], Any], coefficients: int
) -> tuple[Float[np.ndarray, "P"], Any]:
    """Where the likelihood is largest, and its state there; None for the state where it has no
    maximum.

    Args:
      at: the state at a vector of coefficients: `log_likelihood`, `score()` [P] and
        `information()` [P, P], of covariates whose standard deviations are 1.
    """
    beta = np.zeros(coefficients)
    state = at(beta)
    gained = np.inf
    for _ in range(MOST_STEPS):
        try:
            step = np.linalg.solve(state.information(), state.score())
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(step).all():
            break
        unseen = RELATIVE_GAIN * abs(state.log_likelihood)  # what rounding may hide
        if gained <= unseen and np.abs(step).max() < LAST_STEP:
            return beta, state if _is_curved(state) else None
        following = at(beta + step)
        # `not >=` rather than `<`: a NaN likelihood must halve the step as well.
        while not following.log_likelihood >= state.log_likelihood - unseen:
            step = step / 2
            if np.abs(step).max() < np.finfo(float).eps:
                return beta, None
            following = at(beta + step)
        gained = abs(following.log_likelihood - state.log_likelihood)
        beta, state = beta + step, following
    return beta, None


def _is_curved(state: Any) -> bool:
    """Whether every coefficient is known to some degree: where it is not, there is no maximum."""
    variances = np.diag(np.linalg.inv(state.information()))
    return bool(np.all((variances > 0) & (variances <= LARGEST_ERROR**2)))
