"""Few-shot curves: the score of a linear probe fitted and chosen on a part of the patients.

A share is taken of train and of val alike, and both count as labelled.

Axes: N studies, D width, K draws, P voxels of a patch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.checked import fit_draws
from mmv_jax.evaluate.kinds.features import Standardiser
from mmv_jax.evaluate.kinds.mask_scores import THRESHOLDS
from mmv_jax.evaluate.kinds.segmentation import PENALTIES, PatchRidge, sweep_thresholds
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.arguments import named
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.intervals import Interval, interval_over_draws
from mmv_jax.metrics.scores import dice

LABELLED = ("train", "val")  # the splits whose labels are read


@dataclass(frozen=True)
class Point:
    """A point of a few-shot curve.

    `value` is the mean over draws, with the interval of a single draw. `patients` is the number
    whose labels were read; `val_patients` of them choose strengths and thresholds, and the others
    are fitted on.
    """

    task: str
    encoder: str
    metric: str
    share: float
    patients: int
    value: Interval
    val_patients: int

    @property
    def key(self) -> str:
        return f"{self.metric}@train={100 * self.share:g}%"


def check_few(options: dict[str, Any]) -> dict[str, Any]:
    """The shares and draws of a config, each share once.

    Raises:
      UserError: they cannot be drawn.
    """
    named(options, "config.few_shot", known=("shares", "draws"))
    shares, draws = options.get("shares"), options.get("draws")
    if (
        not isinstance(shares, list | tuple)
        or not shares
        or not all(type(share) in (int, float) and 0 < share <= 1 for share in shares)
    ):
        raise UserError(
            f"config.few_shot.shares is {shares!r}, but must be a list of shares of the patients,"
            " above 0 and up to 1: 0.05 is 5 %."
        )
    if type(draws) is not int or draws < 1:
        raise UserError(f"config.few_shot.draws is {draws!r}, but must be a number from 1 on.")
    return {"shares": tuple(dict.fromkeys(shares)), "draws": draws}


def few_shot(
    encoder: str, x: Float[np.ndarray, "N D"], task: Task, *, shares: Sequence[float], draws: int
) -> list[Point]:
    """The headline metric on test with each share of the patients of train and of val.

    The draws are the same for every encoder, and nested: the patients of 1 % are among those of 5
    %. The first patients of a draw include both classes. The strength is chosen on the drawn
    patients of val, which are not fitted on. Features are standardised on all of train, without its
    labels.

    Args:
      x: features of the task's studies; the task is no segmentation.
      shares: of the patients of train, and as much of val, 0 to 1.
      draws: how many times patients are drawn for each share.
    """
    z, truth = Standardiser.of(x[task.split == "train"])(x), task.labels[task.split == "test"]
    kind, parts = KINDS[task.kind], {part: task.split == part for part in LABELLED}
    orders = {
        part: _orders(task.patients[own], kind.shown_first(task.labels[own]), draws)
        for part, own in parts.items()
    }
    points, metric = [], kind.headline
    for share in shares:
        counts = {part: _count(share, own) for part, own in orders.items()}
        # A prefix of each order, so that a larger share contains the smaller ones.
        drawn = np.stack(
            [
                np.logical_or.reduce(
                    [
                        np.isin(task.patients, orders[part][draw][: counts[part]]) & own
                        for part, own in parts.items()
                    ]
                )
                for draw in range(draws)
            ],
            axis=1,
        )
        # A kind fits on those of train and chooses on those of val.
        predicted = fit_draws(z, task, drawn)
        patients = task.patients[task.split == "test"]
        value = interval_over_draws(kind.metrics[metric], truth, predicted, patients)
        point = Point(
            task=task.name,
            encoder=encoder,
            metric=metric,
            share=share,
            patients=sum(counts.values()),
            value=value,
            val_patients=counts["val"],
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
    """The mean Dice of a segmentation with each share of the patients, by the linear probe.

    It is computed like `few_shot`, over the test studies that have the structure. The first patient
    of a draw has the structure. The penalty has the least squared error on the drawn patients of
    val. The threshold is the best one there (`score_thresholds`), on the view's grid.

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
    held_out = [scenes[n] for n in test]
    orders, choosing = (_orders(task.patients[own], [has[own]], draws) for own in (train, val))
    # Shares ascend, so that the sums of one share are continued for the next.
    by_share: dict[float, list[np.ndarray]] = {share: [] for share in sorted(shares)}
    for draw in range(draws):
        model, asked = (PatchRidge.empty(scenes[0], standard) for _ in range(2))
        held: list[Scene] = []
        done = chosen = 0
        for share, found in by_share.items():
            count, count_val = _count(share, orders), _count(share, choosing)
            # order[done:count] are the patients that this share adds to the last one.
            for n in _of_patients(train, task, orders[draw][done:count]):
                model.add(scenes[n])
            for n in _of_patients(val, task, choosing[draw][chosen:count_val]):
                asked.add(scenes[n])
                held.append(scenes[n])
            # `error` needs only the sums of val; val's tokens are read only for the threshold.
            weights = min(map(model.weights, PENALTIES), key=asked.error)
            done, chosen = count, count_val
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
            patients=_count(share, orders) + _count(share, choosing),
            value=value,
            val_patients=_count(share, choosing),
        )
        for share, value in values.items()
    ]


def _of_patients(studies: Sequence[int], task: Task, patients: np.ndarray) -> list[int]:
    """Those of some studies of a task that these patients have."""
    return [n for n in studies if task.patients[n] in patients]


def _dice(values: Float[np.ndarray, "gz gy gx"], scene: Scene, threshold: float) -> float:
    """On the voxels of the study itself."""
    truth, spread, _ = scene.scored(values)
    return dice(truth, spread > threshold)


def labels_read(points: Sequence[Point]) -> list[tuple[str, str, str, Interval]]:
    """(task, encoder, key, value) for `metrics.json`: patients whose labels a point has read."""
    nan = float("nan")
    return [
        (
            p.task,
            p.encoder,
            f"labelled_patients@train={100 * p.share:g}%",
            Interval(float(p.patients), nan, nan, p.value.n, why="a count"),
        )
        for p in points
    ]


def _orders(
    patients: np.ndarray, shown: Sequence[Bool[np.ndarray, " n"]], draws: int
) -> list[np.ndarray]:
    """The order in which each draw takes the patients of train, or of val.

    Args:
      patients: of the n studies of the split.
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
