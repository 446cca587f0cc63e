"""Cross-fitting: risks of women whom the model has not seen. Axis: N women."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.outcomes.fine_gray import fine_gray

FOLDS = 5
Columns = Mapping[str, Float[np.ndarray, "N"]]


def cross_fitted(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], x: Columns, horizons: Sequence[float]
) -> tuple[Float[np.ndarray, "N"], dict[float, Float[np.ndarray, "N"]]]:
    """Linear predictor, and risk by each horizon (years), from models of the other folds' women."""
    fold = _folds(event, x)
    score, risk = np.zeros(len(time)), {h: np.zeros(len(time)) for h in horizons}
    for k in range(FOLDS):
        seen, unseen = fold != k, fold == k
        model = fine_gray(
            time[seen], event[seen], {name: values[seen] for name, values in x.items()}
        )
        theirs = {name: values[unseen] for name, values in x.items()}
        score[unseen] = model.score(theirs)
        for h in horizons:
            risk[h][unseen] = model.risk(theirs, h)
    return score, risk


def _folds(event: np.ndarray, x: Columns) -> np.ndarray:
    """Fold of each woman.

    Outcomes, deaths and the others are dealt evenly, and within them each 0/1 column, so that no
    model lacks a rare one.
    """
    # A fixed seed, so that the same cohort gives the same report.
    rng = np.random.default_rng(0)
    binary = [values for values in x.values() if np.isin(values, (0, 1)).all()]
    # The last key of lexsort counts first: event, then the 0/1 columns, then chance.
    order = np.lexsort([rng.random(len(event)), *binary, event])
    fold = np.empty(len(event), int)
    fold[order] = np.arange(len(event)) % FOLDS
    return fold
