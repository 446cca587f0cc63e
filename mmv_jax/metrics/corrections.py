"""Corrections of p-values for the number of comparisons."""

import numpy as np


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for multiple comparisons, in the given order.

    NaN stays NaN and is not counted.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    adjusted, running = p.copy(), 0.0
    for rank, i in enumerate(order):
        # The running maximum keeps the adjusted values in the order of the p-values.
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return adjusted.tolist()
