"""Groups that can be measured and are probably meant otherwise: sentences for the report.

Axes: N studies of a task.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mmv_jax.evaluate.tasks.columns import FEW, column, is_empty
from mmv_jax.evaluate.tasks.groupings import Grouping, finite_numbers
from mmv_jax.evaluate.tasks.odd_labels import odd_numbers
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.groups import rare_groups
from mmv_jax.store.odd_values import codes_among
from mmv_jax.store.spelled_twice import spelled_twice


def odd_groups(task: Task, part: pd.DataFrame) -> list[str]:
    """A sentence for each way in which the groups of a task are odd, each once.

    Args:
      part: the lines of the store's index of the task's studies.
    """
    measured = (task.split == "test") != bool(task.folds)
    ties = (*task.confounders, *task.mediators)
    found = [
        (grouping, said)
        for grouping in (*task.subgroups, *ties)
        # Crossed groups are as odd as their own two columns are.
        if f"label_{grouping.column}" in part or grouping.column in part
        for said in _odd_grouping(task, grouping, column(part, grouping.column, ""), measured)
    ]
    found += [(grouping, said) for grouping in ties for said in _left_out(task, grouping, measured)]
    return list(dict.fromkeys(f"{grouping.column}: {said}" for grouping, said in found))


def _left_out(task: Task, grouping: Grouping, measured: Bool[np.ndarray, " N"]) -> Iterator[str]:
    """As `subgroups.measure_confounders` leaves them out."""
    known = measured & (grouping.names != "")
    own = grouping.names[known]
    for group in rare_groups(task.labels[known], own, task.patients[known]):
        yield (
            f"{group!r} ({(own == group).sum()} measured studies) has too few patients of a class:"
            " it is left out where the tie to the label is broken."
        )


def _odd_grouping(
    task: Task, grouping: Grouping, values: pd.Series, measured: Bool[np.ndarray, " N"]
) -> Iterator[str]:
    """Args: measured: the studies that results are of."""
    numbers, empty = finite_numbers(values), is_empty(values)
    own = {f"{n:g}" for n in numbers[~np.isnan(numbers)]}
    if own and not own & {*grouping.names.tolist()}:  # bands have names of their own
        yield from odd_numbers(numbers)
        if wrong := int((np.isnan(numbers) & ~empty).sum()):
            yield f"{wrong} studies have no number there: they are in no band."
    else:
        yield from _odd_names(grouping, numbers)
    yield from _odd_shares(grouping, measured)
    if _is_label(grouping, task.labels):
        yield "all studies of a group have the same label: is the column the label itself?"


def _odd_names(grouping: Grouping, numbers: Float[np.ndarray, " N"]) -> Iterator[str]:
    names = grouping.names[grouping.names != ""]
    if spelled := spelled_twice(Counter(names.tolist())):
        yield f"some groups differ in spelling alone ({spelled})."
    codes = codes_among(Counter(numbers[~np.isnan(numbers)].tolist()))
    for code in sorted(codes):
        # Beside two classes a code is in no group already.
        if count := int((names == f"{code:g}").sum()):
            yield f"{code:g} ({count} studies) is a group. If it means not known, leave it empty."


def _odd_shares(grouping: Grouping, measured: Bool[np.ndarray, " N"]) -> Iterator[str]:
    """Of positives alone a study without a value is usual: it may be negative."""
    names = grouping.names[measured]
    without = int((names == "").sum())
    if not grouping.positives and without > FEW * len(names):
        yield f"{without} of {len(names)} measured studies have no value: they are in no group."
    if len(there := {*names.tolist()} - {""}) == 1:
        yield f"all measured studies are in one group, {there.pop()!r}: nothing is compared."


def _is_label(grouping: Grouping, labels: Float[np.ndarray, "M *C"]) -> bool:
    """Whether the group says the label of every study; a group of one study says nothing."""
    if not len(labels) or grouping.positives:
        return False
    groups = [labels[grouping.names == name] for name in grouping.order]
    several = [own for own in groups if len(own) > 1]
    same = all((own == own[0]).all() for own in several)
    return same and len({own[0].tobytes() for own in several}) > 1
