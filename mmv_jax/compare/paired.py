"""Paired comparison of two encoders on the same test studies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from mmv_jax.compare.runs import Run
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.metrics.corrections import holm
from mmv_jax.metrics.intervals import Difference, paired


@dataclass(frozen=True)
class Pair:
    """The comparison of two runs in one task.

    Attributes:
      better_by: how much better the second run is than the first, whatever the metric's direction.
      studies: number of studies in both test sets.
      of: number of test studies of the run that has more.
    """

    task: str
    first: str
    second: str
    metric: str
    better_by: Difference
    studies: int
    of: int
    p_holm: float = np.nan

    @property
    def verdict(self) -> str:
        if np.isnan(self.p_holm):
            return "not defined"
        if self.p_holm >= 0.05:
            return "no significant difference"
        return f"{self.second if self.better_by.value > 0 else self.first} is better"


def pairs(runs: Sequence[Run]) -> tuple[list[Pair], list[str]]:
    """All pairs of runs in every task that both were evaluated in, and reasons for missing pairs.

    p-values are corrected (Holm) over all of these pairs.
    """
    found: list[Pair] = []
    reasons: dict[str, list[str]] = {}  # tasks by reason
    for first, second in combinations(runs, 2):
        # Reported once a run below, not once a pair.
        if first.predictions is None or second.predictions is None:
            continue
        for task in first.metrics:
            if task in second.metrics:
                pair = _pair(task, first, second)
                if isinstance(pair, Pair):
                    found.append(pair)
                else:
                    reasons.setdefault(pair, []).append(task)
    why = [f"{', '.join(tasks)}: {reason}" for reason, tasks in reasons.items()]
    for run in runs:
        if run.predictions is None:
            told = "was not evaluated" if run.evaluation is None else "left no predictions.parquet"
            why.append(f"{run.name} {told}: run `mmv evaluate` on it.")
    corrected = holm([pair.better_by.p for pair in found])
    return [replace(pair, p_holm=float(p)) for pair, p in zip(found, corrected)], why


def _pair(task: str, first: Run, second: Run) -> Pair | str:
    """The comparison of two runs in a task, or why there is none."""
    a, b = (_of_task(run, task) for run in (first, second))
    # An inner join: only studies in both test sets can be paired.
    both = a.merge(b, on="study", suffixes=("_a", "_b"))
    told = f"{first.name} and {second.name}"
    if both.empty:
        return f"{told} share no test study (another store, or another key)."
    metric = next(iter(first.metrics[task]))
    kind = _kind_of(metric)
    if kind is None:
        return f"{told} are measured by {metric}, which is no headline of a known kind of task."
    if kind.locates:
        return f"{told} locate lesions, and predictions.parquet does not hold the candidates."
    if kind.is_mask:
        # A Dice score is judged already, and its metric is a mean:
        # the truth is not read, and only fills the place.
        one, other = _of_both(both, "dice")
        truth = again = one
    else:
        (truth, again), (one, other) = _of_both(both, "truth"), _of_both(both, "predicted")
    if not np.array_equal(truth, again, equal_nan=True):
        return f"{told} have different truths of the same studies: the task has changed."
    # A study counts only if both runs have a prediction.
    there = ~np.isnan(np.stack([one, other], axis=1)).reshape(len(both), -1).any(axis=1)
    if not there.any():
        return f"{told} have no test study that both predict."
    known, second_of, first_of = (x[there] for x in (truth, other, one))
    # The second run goes first:
    # `paired` returns first less second, and a gain of the second run shall be positive.
    difference = paired(
        kind.metrics[metric],
        truth=known,
        first=second_of,
        second=first_of,
        patients=both["patient_a"].to_numpy(str)[there],
    )
    if metric in kind.lower_is_better:
        d = difference
        # The sign changes, so the two ends of the interval are swapped.
        difference = replace(d, value=-d.value, low=-d.high, high=-d.low)
    return Pair(
        task=task,
        first=first.name,
        second=second.name,
        metric=metric,
        better_by=difference,
        studies=int(there.sum()),
        of=max(len(a), len(b)),
    )


def _of_both(both: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    return _numbers(both, name, "_a"), _numbers(both, name, "_b")


def _numbers(both: pd.DataFrame, name: str, side: str) -> Float[np.ndarray, "N *C"]:
    """A number of each study, or several, each with a column of its own."""
    several = [f"{name}_{n}{side}" for n in range(both.shape[1])]
    # The table has the columns of all tasks, and this one may have fewer.
    several = [own for own in several if own in both and both[own].notna().any()]
    if not several:
        return both[f"{name}{side}"].to_numpy(np.float64)
    found = both[several].to_numpy(np.float64)
    return found[:, 0] if len(several) == 1 else found


def _of_task(run: Run, task: str) -> pd.DataFrame:
    assert run.predictions is not None
    return run.predictions[run.predictions["task"] == task]


def _kind_of(metric: str) -> Kind | None:
    return next((kind for _, kind in KINDS.items() if kind.headline == metric), None)
