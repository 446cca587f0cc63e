"""Few-shot curves: the score of a linear probe fitted on a part of the training patients.

Axes: N studies, D width, K draws, P voxels of a patch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.evaluate.kinds.features import Standardiser
from mmv_jax.evaluate.kinds.mask_scores import THRESHOLDS
from mmv_jax.evaluate.kinds.segmentation import PENALTIES, PatchRidge, sweep_thresholds
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.intervals import Interval, interval_over_draws
from mmv_jax.metrics.scores import dice


@dataclass(frozen=True)
class Point:
    """A point of a few-shot curve.

    `value` is the mean over draws, with the interval of a single draw. `patients` is the number
    drawn from train, `val_patients` the number whose labels choose strengths and thresholds.
    """

    task: str
    encoder: str
    metric: str
    share: float
    patients: int
    value: Interval
    val_patients: int = 0

    @property
    def key(self) -> str:
        return f"{self.metric}@train={100 * self.share:g}%"


def few_shot(
    encoder: str, x: Float[np.ndarray, "N D"], task: Task, *, shares: Sequence[float], draws: int
) -> list[Point]:
    """The headline metric on test with each share of the training patients.

    The draws are the same for every encoder, and nested: the patients of 1 % are among those of 5
    %. The first patients of a draw include both classes. The strength is chosen on the whole of
    val, which is not fitted on. Features are standardised on all of train, without its labels.

    Args:
      x: features of the task's studies; the task is no segmentation.
      shares: of the patients of train, 0 to 1.
      draws: how many times patients are drawn for each share.
    """
    train = task.split == "train"
    z, truth = Standardiser.of(x[train])(x), task.labels[task.split == "test"]
    kind = KINDS[task.kind]
    orders = _orders(task.patients[train], kind.shown_first(task.labels[train]), draws)
    points, metric = [], kind.headline
    for share in shares:
        count = _count(share, orders)
        # A prefix of each order, so that a larger share contains the smaller ones.
        drawn = np.stack(
            [np.isin(task.patients, order[:count]) & (task.split == "train") for order in orders],
            axis=1,
        )
        predicted = kind.fit_draws(z, task, drawn)
        patients = task.patients[task.split == "test"]
        value = interval_over_draws(kind.metrics[metric], truth, predicted, patients)
        point = Point(
            task=task.name,
            encoder=encoder,
            metric=metric,
            share=share,
            patients=count,
            value=value,
            val_patients=_val_patients(task),
        )
        points.append(point)
    return points


def few_shot_masks(
    encoder: str,
    parts: Mapping[str, Sequence[Scene]],
    task: Task,
    *,
    shares: Sequence[float],
    draws: int,
) -> list[Point]:
    """The curve of each structure of a segmentation; of several, one by itself is `dice@NAME`."""
    points = []
    for key, scenes in parts.items():
        metric = "dice" if len(parts) == 1 else f"dice@{key}"
        found = _structure_curve(encoder, scenes, task, shares=shares, draws=draws)
        points += [replace(point, metric=metric) for point in found]
    return points


def _structure_curve(
    encoder: str, scenes: Sequence[Scene], task: Task, *, shares: Sequence[float], draws: int
) -> list[Point]:
    """The mean Dice of a segmentation with each share of the training patients, by the linear
    probe.

    It is computed like `few_shot`, over the test studies that have the structure. The first patient
    of a draw has the structure. The penalty has the least squared error on val. The threshold is
    the best one there (`score_thresholds`), on the view's grid.

    Args:
      scenes: of the task's studies, in its order.
    """
    # Dice is not defined without the structure, so only test studies that have it are kept.
    has = np.array([scene.truth.any() for scene in scenes])
    train, val, test = (
        np.flatnonzero((task.split == part) & (has | (part != "test"))).tolist()
        for part in ("train", "val", "test")
    )
    standard = Standardiser.of(np.concatenate([scenes[n].tokens for n in train]))
    held, held_out = [scenes[n] for n in val], [scenes[n] for n in test]
    asked, orders = (
        PatchRidge.of(held, standard),
        _orders(task.patients[train], [has[train]], draws),
    )
    # Shares ascend, so that the sums of one share are continued for the next.
    by_share: dict[float, list[np.ndarray]] = {share: [] for share in sorted(shares)}
    for order in orders:
        model, done = PatchRidge.empty(scenes[0], standard), 0
        for share, found in by_share.items():
            count = _count(share, orders)
            for n in train:
                # order[done:count] are the patients that this share adds to the last one.
                if task.patients[n] in order[done:count]:
                    model.add(scenes[n])
            # `error` needs only the sums of val; val's tokens are read only for the threshold.
            weights, done = min(map(model.weights, PENALTIES), key=asked.error), count
            threshold = THRESHOLDS[int(sweep_thresholds(model, weights, held).argmax())]
            on_test = model.values(weights, held_out)
            found.append(np.array([_dice(v, s, threshold) for v, s in zip(on_test, held_out)]))
    values = {
        share: interval_over_draws("mean", found[0], np.stack(found), task.patients[test])
        for share, found in by_share.items()
    }
    return [
        Point(
            task=task.name,
            encoder=encoder,
            metric="dice",
            share=share,
            patients=_count(share, orders),
            value=value,
            val_patients=_val_patients(task),
        )
        for share, value in values.items()
    ]


def _dice(values: Float[np.ndarray, "gz gy gx"], scene: Scene, threshold: float) -> float:
    """On the voxels of the study itself."""
    truth, spread, _ = scene.scored(values)
    return dice(truth, spread > threshold)


def _val_patients(task: Task) -> int:
    """Patients whose labels choose strengths and thresholds; they are no part of a share."""
    return len(np.unique(task.patients[task.split == "val"]))


def labels_read(points: Sequence[Point]) -> list[tuple[str, str, str, Interval]]:
    """(task, encoder, key, value) for `metrics.json`: patients whose labels a point has read."""
    nan = float("nan")
    return [
        (
            p.task,
            p.encoder,
            f"labelled_patients@train={100 * p.share:g}%",
            Interval(float(p.patients + p.val_patients), nan, nan, p.value.n, why="a count"),
        )
        for p in points
    ]


def _orders(
    patients: np.ndarray, shown: Sequence[Bool[np.ndarray, " n"]], draws: int
) -> list[np.ndarray]:
    """The order in which each draw takes the patients of train.

    Args:
      patients: of the n studies of train.
      shown: groups of these studies; the first patients of a draw include one of each.
    """
    orders = []
    for draw in range(draws):
        # Each draw has its own seed, and `unique` sorts: every encoder gets the same patients.
        order = np.random.default_rng([17, draw]).permutation(np.unique(patients))
        first = [
            name for group in shown for name in order[np.isin(order, patients[group])][:1].tolist()
        ]
        # dict.fromkeys keeps the first mention, so a patient moved to the front is not taken twice.
        orders.append(np.array(list(dict.fromkeys([*first, *order.tolist()]))))
    return orders


def _count(share: float, orders: Sequence[np.ndarray]) -> int:
    """Number of patients in a share, at least two."""
    # One patient could not show both classes of a task.
    return min(max(round(share * len(orders[0])), 2), len(orders[0]))
