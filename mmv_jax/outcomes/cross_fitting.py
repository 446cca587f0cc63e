"""Cross-fitting: risks of women whom the model has not seen. Axis: N women."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.outcomes.fine_gray import fine_gray

FOLDS = 5
Columns = Mapping[str, Float[np.ndarray, "N"]]


def cross_fitted(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    x: Columns,
    horizons: Sequence[float],
    *,
    folds: Int[np.ndarray, "N"],
) -> tuple[Float[np.ndarray, "N"], dict[float, Float[np.ndarray, "N"]]]:
    """Linear predictor, and risk by each horizon (years), from models of the other folds' women.

    Args:
      folds: of `deal_folds`; the same for two models that are compared.
    """
    score, risk = np.zeros(len(time)), {h: np.zeros(len(time)) for h in horizons}
    for k in range(FOLDS):
        seen, unseen = folds != k, folds == k
        model = fine_gray(
            time[seen], event[seen], {name: values[seen] for name, values in x.items()}
        )
        theirs = {name: values[unseen] for name, values in x.items()}
        score[unseen] = model.score(theirs)
        for h in horizons:
            risk[h][unseen] = model.risk(theirs, h)
    return score, risk


def deal_folds(x: Columns) -> Int[np.ndarray, "N"]:
    """Fold of each woman: each 0/1 column is dealt evenly, so that no model lacks a rare one.

    Outcomes are not dealt. Where they are even within a 0/1 column, the effect of that column is
    the same in every fold, so that a model's own noise predicts the women whom it has not seen: of
    100 cohorts without a gain, reclassification then told one in ten.
    """
    # A fixed seed, so that the same cohort gives the same report.
    count = len(next(iter(x.values())))
    rng = np.random.default_rng(0)
    binary = [values for values in x.values() if np.isin(values, (0, 1)).all()]
    # The last key of lexsort counts first: the 0/1 columns, then chance.
    order = np.lexsort([rng.random(count), *binary])
    fold = np.empty(count, int)
    fold[order] = np.arange(count) % FOLDS
    return fold
