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
      probability of 1), or `dice`, `nsd`, `hd95` and `false_positive` for masks
      (`mask_scores.Segmented`). Columns that a kind of task does not have are NaN.
    """
    parts = []
    for result in results:
        studies = result.task.studies[result.task.split == "test"]
        part = index.iloc[studies][[name for name in PLACE if name in index]].reset_index(drop=True)
        part.insert(0, "encoder", result.encoder)
        part.insert(0, "task", result.task.name)
        # For masks, both `truth` and `predicted` of a result hold the Dice.
        is_mask, nothing = result.kind.is_mask, np.full(len(studies), np.nan)
        if result.kind.many_columns:
            # One number a study would be asked for by who reads these two columns.
            many = {"truth": result.truth, "predicted": result.predicted.reshape(len(studies), -1)}
            for name, values in many.items():
                for n, column in enumerate(values.T):
                    part[f"{name}_{n}"] = column
        plain = not is_mask and not result.kind.many_columns
        part["truth"] = result.truth if plain else nothing
        part["predicted"] = result.predicted if plain else nothing
        for name in ("dice", "nsd", "hd95", "false_positive"):
            part[name] = result.by_study.get(name, nothing)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
