"""Table of the predictions for each test study, for analyses of one's own.

Axis: M test studies.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mmv_jax.evaluate.measure import Result

PLACE = ("study", "patient", "manifest", "line", "split")  # columns of the index


def predictions(results: Sequence[Result], index: pd.DataFrame) -> pd.DataFrame:
    """One row a task, encoder and test study.

    Args:
      index: of the store; the tasks' studies are positions in it.
    Returns:
      `task`, `encoder`, the columns `PLACE`, and `truth` and `predicted` (classification: the
      probability of 1), or `dice` for masks. Columns that a kind of task does not have are NaN.
    """
    parts = []
    for result in results:
        studies = result.task.studies[result.task.split == "test"]
        part = index.iloc[studies][[name for name in PLACE if name in index]].reset_index(drop=True)
        part.insert(0, "encoder", result.encoder)
        part.insert(0, "task", result.task.name)
        # For masks, both `truth` and `predicted` of a result hold the Dice.
        is_mask, nothing = result.kind.is_mask, np.full(len(studies), np.nan)
        part["truth"] = nothing if is_mask else result.truth
        part["predicted"] = nothing if is_mask else result.predicted
        part["dice"] = result.predicted if is_mask else nothing
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
