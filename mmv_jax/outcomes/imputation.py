"""Multiple imputation of missing covariates, in addition to complete cases.

Axes: N women, P covariates, M imputed cohorts, Q further columns without gaps.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import stats

from mmv_jax.errors import UserError
from mmv_jax.outcomes.cox import Effect
from mmv_jax.outcomes.ratios import Women
from mmv_jax.outcomes.survival import counts

IMPUTATIONS = 20
ROUNDS = 5  # rounds of the chained equations
DONORS = 5


def imputed_ratios(women: Women) -> tuple[dict[str, Effect], list[str]]:
    """Adjusted hazard ratios of all women with imputed covariates, and notes.

    Both are empty if nothing is missing. The covariates are imputed from each other, age, area,
    event and the cumulative hazard at a woman's time (White and Royston, Stat Med 2009). It is
    assumed that they are missing at random given these.
    """
    cohort = women.cohort
    x = np.stack([cohort.column(name) for name in women.names], axis=1)
    gaps = np.isnan(x)
    if not gaps.any():
        return {}, []
    times, at_risk, _, of_any = counts(cohort.time_years, cohort.event, entry=cohort.entry_years)
    # Nelson–Aalen of any event. Every own time is in `times`, so the place is exact.
    hazard = np.cumsum(of_any / at_risk)[np.searchsorted(times, cohort.time_years)]
    # log1p: areas are 0 for most women and have a long tail.
    known = np.stack(
        [cohort.age, np.log1p(cohort.area_mm2), women.group > 0, hazard]
        + [cohort.event == code for code in (1, 2)],
        axis=1,
    ).astype(float)
    fits = []
    for m in range(IMPUTATIONS):
        filled = impute(x, known, np.random.default_rng(m))
        columns = dict(zip(women.names, filled.T))
        whole = replace(women, cohort=replace(cohort, covariates=dict(cohort.covariates) | columns))
        compared, area = whole.compared(), {"per_mm2": cohort.area_mm2}
        by_severity = compared.severities()
        try:
            fits.append(
                [
                    (by_severity, compared.cox(by_severity | compared.covariates())),
                    (area, whole.cox(area | whole.covariates())),
                ]
            )
        except UserError as error:
            return {}, [f"With imputed covariates there are no hazard ratios. {error}"]
    found = {}
    for k, (names, fit) in enumerate(fits[0]):
        # The columns of interest come first in their model, so i is their coefficient too.
        for i, name in enumerate(names):
            own = [models[k][1] for models in fits]
            found[name] = pooled(
                name,
                np.array([model.log_ratios[i] for model in own]),
                np.array([model.covariance[i, i] for model in own]),
                women=fit.women,
                outcomes=fit.outcomes,
            )
    incomplete = int(gaps.any(axis=1).sum())
    return found, [
        f"cox_adjusted_imputed is of all women: the missing covariates of {incomplete:,} were"
        f" imputed {IMPUTATIONS} times, which holds if they are missing at random."
    ]


def pooled(
    name: str,
    estimates: Float[np.ndarray, "M"],
    variances: Float[np.ndarray, "M"],
    *,
    women: int,
    outcomes: int,
) -> Effect:
    """Hazard ratio pooled from M log hazard ratios by Rubin's rules, with his t interval."""
    m, value = len(estimates), float(estimates.mean())
    # Rubin's total variance is within + (1 + 1/M) between; 1/M accounts for the finite M.
    within, between = float(variances.mean()), (1 + 1 / m) * float(estimates.var(ddof=1))
    error = np.sqrt(within + between)
    df = (m - 1) * (1 + within / between) ** 2 if between > 0 else np.inf
    half = float(stats.t.ppf(0.975, df)) * error
    return Effect(
        name=name,
        hazard_ratio=float(np.exp(value)),
        ci95=(float(np.exp(value - half)), float(np.exp(value + half))),
        p=float(2 * stats.t.sf(abs(value / error), df)),
        women=women,
        outcomes=outcomes,
    )


def impute(
    x: Float[np.ndarray, "N P"], known: Float[np.ndarray, "N Q"], rng: np.random.Generator
) -> Float[np.ndarray, "N P"]:
    """Columns with their NaN filled, by chained equations and predictive mean matching.

    A gap gets the value of a woman whose predicted value is among the nearest, so a 0/1 column
    keeps its values. The prediction is drawn from its posterior, so the imputations vary as much as
    the uncertainty requires.

    Source: van Buuren, Flexible Imputation of Missing Data, algorithm 3.3 (type 1 matching).
    """
    gaps = np.isnan(x)
    filled = x.copy()
    for p in np.flatnonzero(gaps.any(axis=0)):
        # Start from draws of the observed values, which the rounds replace.
        have = x[~gaps[:, p], p]
        filled[gaps[:, p], p] = rng.choice(have, int(gaps[:, p].sum()))
    for _ in range(ROUNDS):
        for p in np.flatnonzero(gaps.any(axis=0)):
            others = np.delete(filled, p, axis=1)
            design = _standardised(np.concatenate([known, others], axis=1))
            filled[gaps[:, p], p] = _matched(design, x[:, p], gaps[:, p], rng)
    return filled


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Standardised columns with a column of ones; constant columns become 0."""
    spread = columns.std(axis=0)
    centred = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.concatenate([np.ones((len(columns), 1)), centred], axis=1)


def _matched(design, y, gap, rng) -> np.ndarray:
    """Values for the gaps of `y`, each from a woman with nearly the same prediction."""
    a, b = design[~gap], y[~gap]
    # A very small ridge: a column may be a combination of the others.
    gram = a.T @ a + 1e-6 * len(a) * np.eye(a.shape[1])
    beta = np.linalg.solve(gram, a.T @ b)
    freedom = max(len(a) - a.shape[1], 1)
    # The residual variance has its own posterior: the sum of squares over a chi-square draw.
    sigma = np.sqrt(np.sum((b - a @ beta) ** 2) / rng.chisquare(freedom))
    # drawn with covariance sigma² gram⁻¹
    drawn = beta + sigma * np.linalg.solve(np.linalg.cholesky(gram).T, rng.normal(size=len(beta)))
    # Type 1: donors are predicted by the estimate, gaps by the draw.
    predicted = a @ beta
    order = np.argsort(predicted, kind="stable")
    asked = design[gap] @ drawn
    # In one dimension the nearest lie within DONORS places on either side.
    near = np.searchsorted(predicted[order], asked)[:, None] + np.arange(-DONORS, DONORS)
    # At the ends the outermost donor appears several times and is chosen more often.
    near = np.clip(near, 0, len(order) - 1)
    distance = np.abs(predicted[order][near] - asked[:, None])
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :DONORS]
    chosen = nearest[np.arange(len(asked)), rng.integers(DONORS, size=len(asked))]
    return b[order][near[np.arange(len(asked)), chosen]]
