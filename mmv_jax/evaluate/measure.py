"""From features to numbers: every task by every encoder and pooling, with intervals, and the paired
differences. Axes: M test studies.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from mmv_jax.evaluate.encoders.features import Features
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.segmentation import Segmented, probe_masks
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.intervals import RESAMPLES, Difference, Interval, holm, interval, paired

FLOORS = ("random", "pixels")
STAND_IN = " (stand-in)"  # in the name of an encoder without its real weights
POOLINGS = ("both", "cls", "patch_mean")  # "both", one after the other, is the headline


def is_judged(encoder: str) -> bool:
    """Whether what an encoder loses or gains is tested: floors and stand-ins are only shown, and so
    are single poolings (`encoder/cls`).
    """
    # "pixels+linear" is a floor too: the encoder's name ends at the plus sign.
    return "/" not in encoder and STAND_IN not in encoder and encoder.split("+")[0] not in FLOORS


@dataclass(frozen=True)
class Result:
    """What one encoder reached in one task.

    Attributes:
      truth, predicted: of the test studies; for segmentation both are the Dice of each, NaN where
        the structure is absent.
      metrics: by name, the first one is the task's headline.
      choice: the strength that the val studies chose, in words.
    """

    task: Task
    encoder: str
    truth: Float[np.ndarray, " M"]
    predicted: Float[np.ndarray, " M"]
    metrics: Mapping[str, Interval]
    choice: str

    @property
    def headline(self) -> Interval:
        return self.metrics[self.kind.headline]

    @property
    def kind(self) -> Kind:
        """The kind of the task."""
        return KINDS[self.task.kind]


@dataclass(frozen=True)
class Comparison:
    """How far the encoder is better than a floor (positive: better, whatever the metric's
    direction), corrected p-value included.
    """

    task: str
    first: str
    second: str
    metric: str
    better_by: Difference
    p_holm: float
    apart: bool  # whether the two intervals do not touch

    @property
    def verdict(self) -> str:
        if np.isnan(self.p_holm):
            return "not defined"
        if self.p_holm >= 0.05:
            return "no difference told"
        return ("better" if self.better_by.value > 0 else "worse") + (
            ", intervals apart" if self.apart else ""
        )


def measure(
    name: str, vectors: Mapping[str, Float[np.ndarray, "N D"]], tasks: list[Task]
) -> list[Result]:
    """Probes all tasks, which must have the same studies and are no segmentations.

    Args:
      name: of the encoder; the headline pooling goes by it, the others by `name/pooling`.
      vectors: by pooling, of the tasks' studies; a pooling called "" is the only one.
    """
    results = []
    for pooling, x in vectors.items():
        called = name if pooling in ("", POOLINGS[0]) else f"{name}/{pooling}"
        for task, probed in zip(tasks, KINDS[tasks[0].kind].probe(x, tasks)):
            result = result_of_vector(
                called, probed.predicted, f"strength {probed.strength:g}", task
            )
            if called == name:
                more = result.kind.more_metrics(task, x)
                result = replace(result, metrics={**result.metrics, **more})
            results.append(result)
    return results


def measure_masks(name: str, scenes: list[Scene], task: Task) -> tuple[Result, Segmented]:
    """Segments the task's studies with the linear probe; the masks come with the numbers, to be
    looked at.
    """
    found = probe_masks(scenes, task.split)
    return result_of_masks(name, found, task), found


def result_of_masks(name: str, found: Segmented, task: Task) -> Result:
    """What a segmentation of the task's test studies is worth, over those that have the
    structure.
    """
    there = ~np.isnan(found.dice)
    patients = task.patients[task.split == "test"][there]
    metrics = {
        metric: interval("mean", x[there], x[there], patients)
        for metric, x in (("dice", found.dice), ("hd95", found.hd95))
    }
    return Result(
        task=task,
        encoder=name,
        truth=found.dice,
        predicted=found.dice,
        metrics=metrics,
        choice=found.choice,
    )


def compare(results: Iterable[Result], first: str, floors: tuple[str, ...]) -> list[Comparison]:
    """The headline of one encoder beside each floor, task by task, on shared draws of patients;
    p-values corrected over all of these.
    """
    return compare_pairs(results, [(first, floor) for floor in floors])


def compare_pairs(results: Iterable[Result], names: Sequence[tuple[str, str]]) -> list[Comparison]:
    """The first encoder of each pair beside the second one, in every task that has both; one family
    of comparisons.
    """
    by_task: dict[str, dict[str, Result]] = defaultdict(dict)
    for result in results:
        by_task[result.task.name][result.encoder] = result
    pairs = [
        (found[a], found[b])
        for found in by_task.values()
        for a, b in names
        if a in found and b in found
    ]
    # Where all draws agree, p is about 2 / resamples. Holm multiplies it by the number of pairs at
    # most, which gives 2 / 80, still below 0.05.
    resamples = max(RESAMPLES, 80 * len(pairs))
    differences = [_difference(a, b, resamples) for a, b in pairs]
    return [
        Comparison(
            task=a.task.name,
            first=a.encoder,
            second=b.encoder,
            metric=a.kind.headline,
            better_by=difference,
            p_holm=p,
            apart=_apart(a.headline, b.headline),
        )
        for (a, b), difference, p in zip(pairs, differences, holm([d.p for d in differences]))
    ]


def as_json(
    results: Iterable[Result], others: Iterable[tuple[str, str, str, Interval]] = ()
) -> dict:
    """`{"task": {"encoder": {"metric": {"value", "ci95", "n"}}}}`; what is not defined is null,
    and `"why"` says why there is no interval. `others` are (task, encoder, metric, value).
    """
    out: dict = defaultdict(lambda: defaultdict(dict))
    of_results = [
        (r.task.name, r.encoder, metric, found)
        for r in results
        for metric, found in r.metrics.items()
    ]
    for task, encoder, metric, found in [*of_results, *others]:
        out[task][encoder][metric] = {
            # JSON has no NaN, so what is not defined becomes null.
            "value": _null(found.value),
            "ci95": [_null(found.low), _null(found.high)],
            "n": found.n,
            **({"why": found.why} if found.why else {}),
        }
    return {task: dict(encoders) for task, encoders in out.items()}


def comparisons_as_json(comparisons: Iterable[Comparison]) -> list[dict]:
    """One object a comparison; what is not defined is null."""
    return [
        {
            "task": c.task,
            "first": c.first,
            "second": c.second,
            "metric": c.metric,
            "better_by": _null(c.better_by.value),
            "ci95": [_null(c.better_by.low), _null(c.better_by.high)],
            "p": _null(c.better_by.p),
            "p_holm": _null(c.p_holm),
            "words": c.verdict,
        }
        for c in comparisons
    ]


def group_by_studies(tasks: Iterable[Task]) -> list[list[Task]]:
    """Tasks of one kind with the same studies together: their probes are solved in one go."""
    groups: dict[tuple, list[Task]] = defaultdict(list)
    for task in tasks:
        groups[
            # Arrays are no keys of a dict, so their bytes are. `local`
            # and `pixels` change what is read.
            (task.kind, task.studies.tobytes(), task.split.tobytes(), task.local, task.pixels)
        ].append(task)
    return list(groups.values())


def pooled(features: Features, task: Task) -> dict[str, Float[np.ndarray, "N D"]]:
    return {pooling: features.pooled(pooling, task.studies) for pooling in POOLINGS}


def result_of_vector(
    name: str, predicted: Float[np.ndarray, " M"], choice: str, task: Task
) -> Result:
    """What probabilities or numbers for the task's test studies are worth."""
    test = task.split == "test"
    truth, patients = task.labels[test], task.patients[test]
    metrics = {
        # Inside the comprehension `name` is a metric's; outside it stays the encoder's.
        name: interval(metric, truth, predicted, patients)
        for name, metric in KINDS[task.kind].metrics.items()
    }
    return Result(
        task=task, encoder=name, truth=truth, predicted=predicted, metrics=metrics, choice=choice
    )


def _difference(a: Result, b: Result, resamples: int) -> Difference:
    kind, test = a.kind, a.task.split == "test"
    # A paired difference needs both answers for each study.
    there = ~np.isnan(a.predicted) & ~np.isnan(b.predicted)
    truth, patients = a.truth[there], a.task.patients[test][there]
    # For masks the metric is the mean of `predicted`, the Dice of each study.
    found = paired(
        kind.metrics[kind.headline],
        truth,
        first=a.predicted[there],
        second=b.predicted[there],
        patients=patients,
        resamples=resamples,
    )
    return (
        # Where less is better the sign turns, and the two bounds change places.
        Difference(-found.value, -found.high, -found.low, found.p)
        if kind.headline in kind.lower_is_better
        else found
    )


def _apart(a: Interval, b: Interval) -> bool:
    return a.low > b.high or a.high < b.low


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value
