"""Cross-validation: probes measured on every study of train and val, while test is not looked at.

The test studies of all folds are measured together, so an AUROC also ranks scores of different
probes against each other. That lowers it a little (Forman and Scholz, Apples-to-Apples in Cross-
Validation Studies, SIGKDD Explorations 12, 2010); the mean of five AUROCs would have no interval by
patient where a fold has few positives.

Axes: N studies of a task, M of its test.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from mmv_jax.errors import UserError
from mmv_jax.evaluate.measure import Result, mask_metrics, result_of_vector
from mmv_jax.evaluate.tasks.make import check
from mmv_jax.evaluate.tasks.task import Task

LEAST = 3  # one fold to measure, one to choose on, one to fit
# Keys of a config that fit or choose something once, on the store's own train and val. With folds
# the studies of that val are measured too, so the figure would be too good.
WITHOUT = ("few_shot", "shifts", "protocols", "heads")


def check_folds(config: ConfigDict) -> int:
    """The number of folds that a config asks for; 0 for the store's own splits.

    Raises:
      UserError: there are too few, or the config asks for what folds cannot measure.
    """
    count = config.get("folds", 0)
    if count == 0:
        return 0
    if not isinstance(count, int) or count < LEAST:
        raise UserError(
            f"config.folds is {count!r}. Set a whole number of at least {LEAST} (one fold is"
            " measured, one chooses, the others are fitted on), or 0 for the store's splits."
        )
    used = [name for name in WITHOUT if config.get(name)]
    if used:
        raise UserError(
            f"config.folds: probes alone are measured in folds, but config.{used[0]} is set. Leave"
            " one of the two out."
        )
    if len(config.get("weights", ())) > 1:
        raise UserError(
            f"config.folds: val would choose among config.weights {tuple(config.weights)}, and its"
            " studies are measured too. Name one of the weights."
        )
    return count


def split_folds(task: Task, count: int, seed: int) -> list[Task]:
    """One task a fold: the fold is its test, the next fold its val, the others its train.

    Studies of test are left out. A patient's fold depends on the patient and the seed alone, so
    that all tasks have the same folds.

    Raises:
      UserError: a fold has no study, or one class only.
    """
    own = task[task.split != "test"]
    fold = fold_of(own.patients, count, seed)
    parts = []
    for k in range(count):
        split = np.where(fold == k, "test", np.where(fold == (k + 1) % count, "val", "train"))
        part = replace(own, name=f"{task.name}, fold {k + 1}", split=split, fold=k, folds=count)
        try:
            check(part)
        except UserError as error:
            raise UserError(f"config.folds is {count}, which are too many here. {error}") from None
        parts.append(part)
    return parts


def fold_of(patients: np.ndarray, count: int, seed: int) -> Int[np.ndarray, " N"]:
    """The fold of each study, 0 to `count` - 1, drawn by patient."""

    def draw(patient: str) -> int:
        digest = hashlib.sha256(f"{seed} {patient}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % count

    names, of_study = np.unique(patients, return_inverse=True)
    return np.array([draw(name) for name in names.tolist()], dtype=np.int64)[of_study]


def pool_folds(
    results: Iterable[Result], tasks: Sequence[Task], count: int, seed: int
) -> tuple[list[Result], list[Task]]:
    """Results of whole tasks from those of their folds, and the tasks with all studies as test.

    Each study's prediction is by the probe that has not seen its patient. Metrics and intervals
    are computed once, over all studies.

    Args:
      tasks: as they were before `split_folds`.
    """
    whole = {}
    for task in tasks:
        own = task[task.split != "test"]
        whole[task.name] = replace(
            own,
            split=np.full(len(own), "test"),
            folds=count,
            fold_of=fold_of(own.patients, count, seed),
        )
    found: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        found[result.task.name.rsplit(", fold ", 1)[0], result.encoder].append(result)
    pooled = []
    for (name, encoder), parts in found.items():
        task = whole[name]
        # Stable: inside a fold, studies keep their order.
        back = np.argsort(np.argsort(task.fold_of, kind="stable"), kind="stable")
        parts.sort(key=lambda part: part.task.fold)
        pooled.append(_joined(encoder, task, parts, back))
    return pooled, list(whole.values())


def _joined(
    encoder: str, task: Task, parts: Sequence[Result], back: Int[np.ndarray, " N"]
) -> Result:
    """Args: back: the place of each of the task's studies among those of the folds in turn."""

    def join(each: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(each))[back]

    # Folds may choose differently: the most frequent choice is told, with its count.
    (choice, times), *_ = Counter(part.choice.split(";")[0] for part in parts).most_common(1)
    told = f"{choice} in {times} of {len(parts)} folds"
    predicted = join(part.predicted for part in parts)
    if not parts[0].kind.is_mask:
        return result_of_vector(encoder, predicted, told, task)
    scores = {key: join(part.by_study[key] for part in parts) for key in parts[0].by_study}
    if parts[0].kind.locates:
        lesions = join(part.truth for part in parts)
        found = result_of_vector(encoder, predicted, told, task, truth=lesions)
        return replace(found, by_study=scores)
    planar = not any("false_positive_ml" in part.metrics for part in parts)
    return Result(
        task=task,
        encoder=encoder,
        truth=predicted,
        predicted=predicted,
        metrics=mask_metrics(scores, task.patients, planar=planar),
        choice=told,
        by_study=scores,
    )
