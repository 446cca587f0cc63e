"""Results of every task by every encoder and pooling, with intervals and paired differences.

Axes: M test studies.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.evaluate.encoders.features import Features
from mmv_jax.evaluate.finetune.budget import Spent
from mmv_jax.evaluate.kinds.checked import probe
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.mask_scores import Segmented, join
from mmv_jax.evaluate.kinds.segmentation import probe_masks
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.corrections import holm
from mmv_jax.metrics.intervals import RESAMPLES, Difference, Interval, interval, paired_over_fits
from mmv_jax.metrics.over_fits import over_fits

FLOORS = ("random", "pixels")
STAND_IN = " (stand-in)"  # in the name of an encoder without its real weights
POOLINGS = ("both", "cls", "patch_mean")  # "both", one after the other, is the headline


def is_judged(encoder: str) -> bool:
    """Whether an encoder takes part in significance tests.

    Floors, stand-ins and single poolings (`encoder/cls`) are only shown.
    """
    # "pixels+linear" is a floor too: the encoder's name ends at the plus sign.
    return "/" not in encoder and STAND_IN not in encoder and encoder.split("+")[0] not in FLOORS


@dataclass(frozen=True)
class Result:
    """The result of one encoder in one task.

    Attributes:
      truth, predicted: of the test studies. For segmentation both are the Dice of each study, NaN
        where the structure is absent; for localisation the number of lesions, and the candidates.
      metrics: by name; the first one is the task's headline.
      choice: the strength that val chose, in words.
      by_study: further scores of each test study, by name; of masks only.
      on_val: predictions for the val studies before they were fitted on; None if unknown.
      fits: the results of each seed, where the metrics are means over fits with different seeds.
        Predictions and scores are then those of the fit in the middle on val.
      spent: what the fits have cost; None where nothing was fitted by gradient descent.
    """

    task: Task
    encoder: str
    truth: Float[np.ndarray, "M *C"]
    predicted: Float[np.ndarray, "M *D"]
    metrics: Mapping[str, Interval]
    choice: str
    by_study: Mapping[str, Float[np.ndarray, " M"]] = field(default_factory=dict)
    on_val: Float[np.ndarray, " V"] | None = None
    fits: Sequence["Result"] = ()
    spent: Spent | None = None

    @property
    def headline(self) -> Interval:
        return self.metrics[self.kind.headline]

    @property
    def kind(self) -> Kind:
        """The kind of the task."""
        return KINDS[self.task.kind]


@dataclass(frozen=True)
class Comparison:
    """The advantage of the first encoder over the second, with the corrected p-value.

    Positive is better, whatever the metric's direction.
    """

    task: str
    first: str
    second: str
    metric: str
    better_by: Difference
    p_holm: float
    apart: bool  # whether the two confidence intervals do not overlap
    is_headline: bool = True
    said: str = ""  # in place of the verdict, where other metrics disagree

    @property
    def verdict(self) -> str:
        if self.said:
            return self.said
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
    """Probe all tasks, which must have the same studies and be no segmentations.

    Args:
      name: of the encoder, and of the result with the headline pooling. The others are named
        `name/pooling`.
      vectors: by pooling, of the tasks' studies; a pooling called "" is the only one.
    """
    results = []
    for pooling, x in vectors.items():
        called = name if pooling in ("", POOLINGS[0]) else f"{name}/{pooling}"
        for task, probed in zip(tasks, probe(x, tasks)):
            result = result_of_vector(
                called,
                probed.predicted,
                f"strength {probed.strength:g}",
                task,
                on_val=probed.on_val,
            )
            if called == name:
                more = result.kind.more_metrics(task, x)
                result = replace(result, metrics={**result.metrics, **more})
            results.append(result)
    return results


def measure_masks(
    name: str, parts: Mapping[str, Sequence[Scene]], task: Task
) -> tuple[Result, Segmented]:
    """The result of the linear probe on a segmentation, and its masks for the pictures.

    Args:
      parts: the scenes of each structure, in the order of `task.parts()`.
    """
    locates = KINDS[task.kind].locates
    found = join({key: probe_masks(scenes, task.split, locates) for key, scenes in parts.items()})
    return result_of_masks(name, found, task), found


def result_of_masks(name: str, found: Segmented, task: Task) -> Result:
    """The result of a segmentation: scores over the test studies that have the structure, and false
    positives in the others; of a localisation, what its candidates find.
    """
    if found.located is not None:
        lesions, candidates = found.located
        of_lesions = result_of_vector(
            name, candidates.reshape(len(candidates), -1), found.choice, task, truth=lesions
        )
        return replace(of_lesions, by_study=found.scores)
    patients = task.patients[task.split == "test"]
    metrics = mask_metrics(found.scores, patients, planar=found.masks[0].shape[0] == 1)
    return Result(
        task=task,
        encoder=name,
        truth=found.dice,
        predicted=found.dice,
        metrics=metrics,
        choice=found.choice,
        by_study=found.scores,
    )


def mask_metrics(
    by_study: Mapping[str, Float[np.ndarray, " M"]], patients: np.ndarray, *, planar: bool
) -> dict[str, Interval]:
    """Mean scores of the studies that have the structure, and false positives in the others.

    Args:
      by_study: scores of each study, NaN where they are not defined.
      planar: whether false positives are areas, in mm², and not volumes, in ml.
    """
    scores = {m: x for m, x in by_study.items() if m != "false_positive"}
    metrics = {metric: _mean(x, patients) for metric, x in scores.items()}
    size = by_study["false_positive"]
    without = ~np.isnan(size)
    if without.any():
        some = (size[without] > 0).astype(np.float64)
        metrics["false_positive_share"] = interval("proportion", some, some, patients[without])
        metrics[f"false_positive_{'mm2' if planar else 'ml'}"] = _mean(size, patients)
    return metrics


def _mean(values: Float[np.ndarray, " M"], patients: np.ndarray) -> Interval:
    """Of the studies that have a value."""
    there = ~np.isnan(values)
    return interval("mean", values[there], values[there], patients[there])


def over_seeds(results: Sequence[Result], on_val: Sequence[float], spent: Spent) -> Result:
    """One result of fits with different seeds: each metric is the mean over the fits.

    Args:
      results: of each seed.
      on_val: the fits' scores on val. Figures that need one model, such as curves and subgroups,
        are of the middle one, so that no seed is chosen by luck.
      spent: what the fits have cost.
    """
    # Of an even number the worse of the two in the middle, which flatters nobody.
    middle = results[int(np.argsort(on_val, kind="stable")[(len(results) - 1) // 2])]
    metrics = {name: over_fits([r.metrics[name] for r in results]) for name in middle.metrics}
    return replace(
        middle,
        metrics=metrics,
        choice=f"{spent.setting}; {middle.choice}",
        fits=tuple(results),
        spent=spent,
    )


def compare(results: Iterable[Result], first: str, floors: tuple[str, ...]) -> list[Comparison]:
    """Comparisons of one encoder with each floor, task by task, on shared draws of patients.

    p-values are corrected over all of these comparisons.
    """
    return compare_pairs(results, [(first, floor) for floor in floors])


def compare_pairs(results: Iterable[Result], names: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Comparisons of the encoders of each pair, in every task that has both.

    Each metric that the kind judges is compared. p-values are corrected over all of these
    comparisons.
    """
    by_task: dict[str, dict[str, Result]] = defaultdict(dict)
    for result in results:
        by_task[result.task.name][result.encoder] = result
    pairs = [
        (found[a], found[b], metric)
        for found in by_task.values()
        for a, b in names
        if a in found and b in found
        for metric in found[a].kind.judged or (found[a].kind.headline,)
    ]
    # Where all draws agree, p is about 2 / resamples. Holm multiplies it by at most the number of
    # pairs, which gives 2 / 80, still below 0.05.
    resamples = max(RESAMPLES, 80 * len(pairs))
    differences = [_difference(a, b, metric, resamples) for a, b, metric in pairs]
    return [
        Comparison(
            task=a.task.name,
            first=a.encoder,
            second=b.encoder,
            metric=metric,
            better_by=difference,
            p_holm=p,
            apart=_apart(a.metrics[metric], b.metrics[metric]),
            is_headline=metric == a.kind.headline,
        )
        for (a, b, metric), difference, p in zip(
            pairs, differences, holm([d.p for d in differences])
        )
    ]


def as_json(
    results: Iterable[Result], others: Iterable[tuple[str, str, str, Interval]] = ()
) -> dict:
    """`{"task": {"encoder": {"metric": {"value", "ci95", "n"}}}}`.

    A value that is not defined is null; `"why"` says why there is no interval. The mean of several
    `"fits"` has their standard deviation, `"sd"`.

    Args:
      others: further (task, encoder, metric, value).
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
            **({"sd": _null(found.sd), "fits": found.fits} if found.fits > 1 else {}),
        }
    return {task: dict(encoders) for task, encoders in out.items()}


def comparisons_as_json(comparisons: Iterable[Comparison]) -> list[dict]:
    """One object a comparison; a value that is not defined is null."""
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
    """Tasks grouped by kind and studies, so that one solve fits the probes of a group."""
    groups: dict[tuple, list[Task]] = defaultdict(list)
    for task in tasks:
        groups[
            # Arrays cannot be keys of a dict, but their bytes can. `local`
            # and `pixels` change which features are read.
            (task.kind, task.studies.tobytes(), task.split.tobytes(), task.local, task.pixels)
        ].append(task)
    return list(groups.values())


def pooled(features: Features, task: Task) -> dict[str, Float[np.ndarray, "N D"]]:
    return {pooling: features.pooled(pooling, task.studies) for pooling in POOLINGS}


def result_of_vector(
    name: str,
    predicted: Float[np.ndarray, "M *C"],
    choice: str,
    task: Task,
    on_val: Float[np.ndarray, " V"] | None = None,
    truth: np.ndarray | None = None,
) -> Result:
    """The result of predicted probabilities or numbers on the task's test studies.

    Args:
      on_val: that of `features.Probed`.
      truth: of the test studies; None: the task's labels.
    """
    test = task.split == "test"
    patients = task.patients[test]
    truth = task.labels[test] if truth is None else truth
    metrics = {
        # Inside the comprehension `name` is a metric's; outside it stays the encoder's.
        name: interval(metric, truth, predicted, patients)
        for name, metric in KINDS[task.kind].metrics.items()
    }
    return Result(
        task=task,
        encoder=name,
        truth=truth,
        predicted=predicted,
        metrics=metrics,
        choice=choice,
        on_val=on_val,
    )


def _difference(a: Result, b: Result, metric: str, resamples: int) -> Difference:
    kind, test = a.kind, a.task.split == "test"
    first, second = (
        np.stack([fit.by_study.get(metric, fit.predicted) for fit in r.fits or (r,)])
        for r in (a, b)
    )
    # A paired difference needs the predictions of all fits for each study.
    there = ~(_unknown(first) | _unknown(second))
    truth, patients = a.truth[there], a.task.patients[test][there]
    # For masks the metric is the mean of a score of each study.
    found = paired_over_fits(
        kind.metrics[metric],
        truth,
        first=first[:, there],
        second=second[:, there],
        patients=patients,
        resamples=resamples,
    )
    return (
        # Where less is better the sign changes, and the two bounds are swapped.
        replace(found, value=-found.value, low=-found.high, high=-found.low)
        if metric in kind.lower_is_better
        else found
    )


def _unknown(values: Float[np.ndarray, "K M *C"]) -> Bool[np.ndarray, " M"]:
    """Whether any fit lacks a number of the study."""
    return np.isnan(values).any(axis=(0, *range(2, values.ndim)))


def _apart(a: Interval, b: Interval) -> bool:
    return a.low > b.high or a.high < b.low


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value
