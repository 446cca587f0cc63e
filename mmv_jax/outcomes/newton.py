"""Maximum of a partial likelihood by Newton's method. Axis: P coefficients."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

# A model with a maximum needs about six steps. For a coefficient without a maximum, each step only
# moves it further.
MOST_STEPS = 25
# A step that gains less than this share of the log likelihood is the last but one, as in R's coxph.
# An absolute limit fails on large cohorts: the rounding of a likelihood of 100,000 is above 1e-12.
RELATIVE_GAIN = 1e-9
# Limit of the last step, in standard deviations of the covariate. For a coefficient without a
# maximum, steps stay near 1 forever.
LAST_STEP = 1e-3
# In standard deviations of the covariate. Above it, the likelihood is flat because it rises without
# end.
LARGEST_ERROR = 100.0


# A step that is far too long overflows; its likelihood is NaN, and the step is halved.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def maximum(
    at: Callable[[np.ndarray], Any], coefficients: int
) -> tuple[Float[np.ndarray, "P"], Any]:
    """Coefficients that maximise the likelihood, and its state there; state None without a maximum.

    Args:
      at: returns the state at a vector of coefficients: `log_likelihood`, `score()` [P] and
        `information()` [P, P], for covariates with standard deviation 1.
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
    """Whether every coefficient has a finite standard error; otherwise there is no maximum."""
    variances = np.diag(np.linalg.inv(state.information()))
    return bool(np.all((variances > 0) & (variances <= LARGEST_ERROR**2)))
