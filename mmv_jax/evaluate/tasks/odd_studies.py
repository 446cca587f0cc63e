"""Studies that contradict each other: one person with two sexes, one image in two splits or with
two labels. Sentences for the report.

Axes: N studies.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from mmv_jax.evaluate.tasks.columns import column, is_empty
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.store.leaks import leaks

# Columns of what a person keeps, in lower case.
SEXES = frozenset(("sex", "gender", "patient_sex", "patientsex", "geschlecht", "sexe", "sexo"))
# Of a study: its pixels are those of another where all of these agree.
PIXELS = ["checksum", "grid_z", "grid_y", "grid_x", "low", "high"]
IN_SPLITS = {
    "image_across_splits": "{} studies have the pixels of a study in another split",
    "near_duplicate_across_splits": "{} studies are nearly the image of a study in another split",
}


def odd_persons(task: Task, part: pd.DataFrame, labels: Sequence[str]) -> Iterator[str]:
    """A sentence for each column of the sex that differs between studies of one patient.

    Args:
      part: the lines of the store's index of the task's studies.
      labels: the columns of the truth.
    """
    groupings = (*task.subgroups, *task.confounders, *task.mediators)
    for name in sorted({*labels, *(grouping.column for grouping in groupings)}):
        if name.casefold() not in SEXES:
            continue
        values = column(part, name, "")
        known = ~is_empty(values)
        # F and female are one.
        folded = values[known].astype(str).str.strip().str.casefold().str[:1]
        both = int((folded.groupby(part["patient"][known]).nunique() > 1).sum())
        if both:
            yield f"{name}: it differs between studies of {both} patients: two persons of one id?"


def odd_images(index: pd.DataFrame, tasks: Sequence[Task]) -> Iterator[str]:
    """A sentence where images of tasks are in two splits, or stand there twice with two labels.

    In folds every study is measured, so that the store's own splits do not matter.
    """
    studies = np.unique(np.concatenate([task.studies for task in tasks]))
    if not any(task.folds for task in tasks):
        part = index.iloc[studies].reset_index(drop=True)
        found = Counter(told.code for told in leaks(part, part["manifest"].unique().tolist()))
        for code, said in IN_SPLITS.items():
            if found[code]:
                yield f"{said.format(found[code])}: figures of test are too good."
    yield from _two_labels(index, tasks)


def images_of(index: pd.DataFrame, studies: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """A number of the image of each study: equal where pixels and masks are."""
    return index.groupby(PIXELS, sort=False, dropna=False).ngroup().to_numpy(np.int64)[studies]


def _two_labels(index: pd.DataFrame, tasks: Sequence[Task]) -> Iterator[str]:
    for task in tasks:
        if not len(task.labels):
            continue
        count = _contradicted(images_of(index, task.studies), task.labels)
        if count:
            yield f"{task.name}: {count} images stand there several times with different labels."


def _contradicted(image: Int[np.ndarray, " N"], labels: np.ndarray) -> int:
    lines = pd.DataFrame(labels.reshape(len(labels), -1)).groupby(image).nunique()
    return int((lines > 1).any(axis=1).sum())
