"""One estimate of models that were fitted several times, with different seeds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mmv_jax.metrics.intervals import Interval


def over_fits(found: Sequence[Interval]) -> Interval:
    """The mean of a metric over fits of one recipe, with their standard deviation.

    The bounds are the means of the fits' bounds: they say what the test patients leave open for a
    single fit, and `sd` says what the seed does. A metric that one fit does not have is undefined.

    Example:
      >>> found = over_fits([Interval(0.75, 0.5, 1.0, n=9), Interval(0.25, 0.0, 0.5, n=9)])
      >>> found, round(found.sd, 3)
      (Interval(value=0.5, low=0.25, high=0.75, n=9), 0.354)
    """
    if len(found) == 1:
        return found[0]
    # NaN in one fit makes the mean NaN, as the docstring says.
    value, low, high = np.mean([(one.value, one.low, one.high) for one in found], axis=0).tolist()
    return replace(
        found[0],
        value=value,
        low=low,
        high=high,
        why=next((one.why for one in found if one.why), ""),
        undefined=max(one.undefined for one in found),
        fits=len(found),
        # ddof=1: few seeds are a sample of all that there could be.
        sd=float(np.std([one.value for one in found], ddof=1)),
    )
