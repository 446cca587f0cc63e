"""A task with fewer studies to learn from, so that fits by gradient descent cost less."""

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.make import check
from mmv_jax.evaluate.tasks.task import Task


def with_fewer(task: Task, most: int, seed: int) -> Task:
    """The task with at most `most` training studies, and the same share of val; test is whole.

    Whole patients are drawn by the seed, as many as fit.

    Args:
      most: 0 for all.
    Raises:
      UserError: what is left cannot be fitted: a class or the structure is missing.
    """
    there = int((task.split == "train").sum())
    if not most or there <= most:
        return task
    kept = task.split == "test"
    for part in ("train", "val"):
        own = np.flatnonzero(task.split == part)
        # Val shrinks too: it is read after each epoch, and chooses among few studies as well.
        room = max(1, int(len(own) * most / there))
        names, whose, sizes = np.unique(task.patients[own], return_inverse=True, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(names))
        # The first patients of the order whose studies fit together; one at the least.
        drawn = order[: max(1, int((np.cumsum(sizes[order]) <= room).sum()))]
        kept[own[np.isin(whose, drawn)]] = True
    left = task[kept]
    try:
        check(left)
    except UserError as error:
        few = f"config.fit.studies is {most}, which is too few for a task of {there}"
        raise UserError(f"{few}. {error}") from None
    return left
