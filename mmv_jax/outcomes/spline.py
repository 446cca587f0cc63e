"""Restricted cubic splines: a covariate whose effect may bend. Axes: N women, K knots."""

import numpy as np
from jaxtyping import Float

# Quantiles of the values, by number of knots (Harrell, Regression Modeling Strategies, table 2.3).
QUANTILES = {
    3: (0.10, 0.50, 0.90),
    4: (0.05, 0.35, 0.65, 0.95),
    5: (0.05, 0.275, 0.50, 0.725, 0.95),
}
# Outcomes needed for a spline with so many knots: about 15 for each of its columns, and more.
OUTCOMES = {5: 100, 4: 60, 3: 30}


def knots_for(values: Float[np.ndarray, "N"], outcomes: int) -> Float[np.ndarray, "K"]:
    """Knots at Harrell's quantiles, as many as the number of outcomes allows.

    None if outcomes or distinct values are too few for a curve.
    """
    distinct = len(np.unique(values))
    for count, needed in OUTCOMES.items():
        # Tied values make quantiles coincide. Then a smaller number of knots is tried.
        knots = np.unique(np.quantile(values, QUANTILES[count]))
        if outcomes >= needed and len(knots) == count < distinct:
            return knots
    return np.zeros(0)


def restricted_cubic(
    name: str, values: Float[np.ndarray, "N"], knots: Float[np.ndarray, "K"]
) -> dict[str, Float[np.ndarray, "N"]]:
    """Columns of a restricted cubic spline: K - 1 columns `name`, `name'`, `name''`.

    The spline is linear before the first and after the last knot. Without knots the values
    themselves are returned.

    Source: Stone and Koo 1985; scaled by the squared range of the knots, as R's
    `Hmisc::rcspline.eval` does.

    Example:
      >>> columns = restricted_cubic("age", np.array([40.0, 50.0, 70.0]), np.array([40.0, 50, 60]))
      >>> [(name, column.tolist()) for name, column in columns.items()]
      [('age', [40.0, 50.0, 70.0]), ("age'", [0.0, 2.5, 30.0])]
    """
    columns = {name: values}
    if not len(knots):
        return columns
    before, last = knots[-2:]

    def above(knot: float) -> np.ndarray:
        return np.maximum(values - knot, 0.0) ** 3

    for i, knot in enumerate(knots[:-2], 1):
        # Beyond the last knot the cubic and quadratic parts cancel, so the tail is linear.
        bend = (
            above(knot)
            - above(before) * (last - knot) / (last - before)
            + above(last) * (before - knot) / (last - before)
        )
        # A cube over a square: every column keeps the unit of the covariate.
        columns[name + "'" * i] = bend / (last - knots[0]) ** 2
    return columns
