"""Subgroups and confounders of a task.

They show whether an encoder works equally well for all groups, and whether it sees the finding or
something that accompanies it. Axes: M test studies.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.evaluate.measure import Result, is_judged
from mmv_jax.evaluate.tasks.groupings import Grouping
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.between import between_groups
from mmv_jax.metrics.corrections import holm
from mmv_jax.metrics.groups import Support, auroc_within, rare_groups, support, tie_broken
from mmv_jax.metrics.intervals import RESAMPLES, Difference, Interval, contrast, interval

FEWEST = 5  # with fewer studies in a group, or of a class in it, no value is given


@dataclass(frozen=True)
class GroupResult:
    """The result of one encoder in one group of a task's test studies.

    Attributes:
      value: of the task's headline metric.
      positives: positive studies in the group; None where the task has no classes.
      than_rest: how much better than in all other groups; positive is better, whatever the metric's
        direction. None where it was not tested.
      p_holm: of `than_rest`, corrected over all groups of the evaluation; NaN where it was not
        tested or is not defined.
    """

    task: str
    encoder: str
    grouping: Grouping
    group: str
    metric: str
    value: Interval
    positives: int | None
    than_rest: Difference | None = None
    p_holm: float = float("nan")

    @property
    def key(self) -> str:
        return f"{self.metric}@{self.grouping.column}={self.group}"


@dataclass(frozen=True)
class Confounded:
    """A classification beside a column that may predict the label by itself.

    Attributes:
      alone: the AUROC of the column without any image. The score is the rate of the label in the
        column's groups on train and val.
      plain: the AUROC of the encoder's probe.
      broken: the same, with test studies weighted so that column and label are independent.
      within: over pairs of studies of the same group alone.
      lost: `plain` minus `broken`, on the same draws.
      support: the sample sizes of `broken` and `within`. If they are too small, these and `lost`
        are not defined, or `broken` and `lost` have a value alone.
      p_holm: of `lost`, corrected over all encoders of `measure.is_judged`; NaN for the others.
      mediator: whether the finding causes the column. `lost` is then read of the finding's
        consequences, and no bias of the data.
    """

    task: str
    encoder: str
    column: str
    alone: Interval
    plain: Interval
    broken: Interval
    within: Interval
    lost: Difference
    support: Support
    p_holm: float = float("nan")
    mediator: bool = False


def measure_groups(results: Iterable[Result]) -> list[GroupResult]:
    """Results of each encoder and pooling in each group of each task.

    Whole encoders are also compared between a group and the rest.
    """
    found = [
        _measure_group(r, grouping, group)
        for r in results
        for grouping in _tested(r)
        for group in grouping.order
    ]
    asked = [
        (n, result, grouping, group)
        for n, (g, result, grouping, group) in enumerate(found)
        if _is_asked(g, grouping, group)
    ]
    resamples = max(RESAMPLES, 80 * len(asked))  # as in `measure.compare`
    differences = [
        _than_rest(result, grouping, group, resamples) for _, result, grouping, group in asked
    ]
    out = [g for g, *_ in found]
    for (n, *_), difference, p in zip(asked, differences, holm([d.p for d in differences])):
        # `n` is the position in `found`: only some groups are tested,
        # and a result must find its group.
        out[n] = replace(out[n], than_rest=difference, p_holm=p)
    return out


def measure_confounders(results: Iterable[Result]) -> list[Confounded]:
    """Results of each whole encoder, not its poolings, with and without the tie to a confounder.

    Mediators are measured alike, as a family of tests of their own.
    """
    results = [r for r in results if "/" not in r.encoder]
    return [
        *_measure_columns([(r, g) for r in results for g in r.task.confounders]),
        *(
            replace(found, mediator=True)
            for found in _measure_columns([(r, g) for r in results for g in r.task.mediators])
        ),
    ]


def _measure_columns(asked: list[tuple[Result, Grouping]]) -> list[Confounded]:
    # as in `measure.compare`
    resamples = max(RESAMPLES, 80 * sum(is_judged(r.encoder) for r, _ in asked))
    found = [_measure_confounder(r, grouping, resamples) for r, grouping in asked]
    return [
        # Encoders that are not tested enter as NaN, which Holm's correction does not count.
        replace(c, p_holm=p)
        for c, p in zip(
            found, holm([c.lost.p if is_judged(c.encoder) else float("nan") for c in found])
        )
    ]


def as_metrics(
    groups: Iterable[GroupResult], confounded: Iterable[Confounded]
) -> list[tuple[str, str, str, Interval]]:
    """(task, encoder, metric, value) for `metrics.json`.

    The metrics are named `auroc@sex=F`, `auroc@view:broken`, `auroc@view:within`,
    `auroc@view:alone`.
    """
    out = [(g.task, g.encoder, g.key, g.value) for g in groups]
    for c in confounded:
        out += [
            (c.task, c.encoder, f"auroc@{c.column}:{name}", getattr(c, name))
            for name in ("broken", "within", "alone")
        ]
    return out


def as_comparisons(groups: Iterable[GroupResult], confounded: Iterable[Confounded]) -> list[dict]:
    """The tests as further objects of `comparisons.json`."""
    rows = [
        (
            g.task,
            f"{g.encoder}@{g.grouping.column}={g.group}",
            f"{g.encoder}@{g.grouping.column}=rest",
            g.metric,
            g.than_rest,
            g.p_holm,
        )
        for g in groups
        if g.than_rest is not None
    ]
    rows += [
        (c.task, c.encoder, f"{c.encoder}@{c.column}:broken", "auroc", c.lost, c.p_holm)
        for c in confounded
    ]
    return [
        {
            "task": task,
            "first": first,
            "second": second,
            "metric": metric,
            # JSON has no NaN, so what is not defined becomes null.
            "better_by": _null(d.value),
            "ci95": [_null(d.low), _null(d.high)],
            "p": _null(d.p),
            "p_holm": _null(p),
            "words": verdict_of(d, p),
        }
        for task, first, second, metric, d, p in rows
    ]


def verdict_of(difference: Difference, p_holm: float) -> str:
    """A difference in words."""
    if np.isnan(p_holm):
        return "not defined"
    return "no difference told" if p_holm >= 0.05 else "better" if difference.value > 0 else "worse"


def _tested(result: Result) -> list[Grouping]:
    # Groupings cover all studies of the task, but results exist for its test studies alone.
    test = result.task.split == "test"
    return [grouping[test] for grouping in result.task.subgroups]


def _inside(
    result: Result, grouping: Grouping, chosen: Bool[np.ndarray, " M"]
) -> Bool[np.ndarray, " M"]:
    """A mask of the test studies on which a group is measured."""
    if result.kind.has_classes and grouping.positives:
        # A negative study has no lesion to group by: each group is compared with all negatives.
        return (chosen & (result.truth == 1)) | (result.truth == 0)
    # A Dice is NaN where the structure is absent, and would make the mean NaN.
    known = ~np.isnan(result.predicted).reshape(len(result.predicted), -1).any(axis=1)
    return chosen & known


def _measure_group(
    result: Result, grouping: Grouping, group: str
) -> tuple[GroupResult, Result, Grouping, str]:
    task, metric = result.task, result.kind.headline
    inside = _inside(result, grouping, grouping.names == group)
    # `inside` is a mask over the test studies; `patients` first needs the mask of the split.
    truth, patients = result.truth[inside], task.patients[task.split == "test"][inside]
    if _too_few(result, inside):
        value = Interval(float("nan"), float("nan"), float("nan"), int(inside.sum()))
    else:
        value = interval(result.kind.metrics[metric], truth, result.predicted[inside], patients)
    positives = int((truth == 1).sum()) if result.kind.has_classes else None
    return (
        GroupResult(
            task=task.name,
            encoder=result.encoder,
            grouping=grouping,
            group=group,
            metric=metric,
            value=value,
            positives=positives,
        ),
        result,
        grouping,
        group,
    )


def _too_few(result: Result, inside: Bool[np.ndarray, " M"]) -> bool:
    truth = result.truth[inside]
    counts = [(truth == 0).sum(), (truth == 1).sum()] if result.kind.has_classes else [len(truth)]
    return bool(min(counts) < FEWEST)


def _is_asked(found: GroupResult, grouping: Grouping, group: str) -> bool:
    """Whether a group is tested. Of two groups only the first is: the second is its reverse."""
    mirrored = len(grouping.order) == 2 and group == grouping.order[1]
    return is_judged(found.encoder) and not (np.isnan(found.value.value) or mirrored)


def _than_rest(result: Result, grouping: Grouping, group: str, resamples: int) -> Difference:
    kind, names = result.kind, grouping.names
    metric = kind.metrics[kind.headline]
    # Studies without a value in the column ("") belong to neither side.
    own, rest = (
        _inside(result, grouping, chosen)
        for chosen in (names == group, (names != group) & (names != ""))
    )
    # Only the rest is checked: the value of a group that is too small is
    # NaN, and `_is_asked` drops it.
    if _too_few(result, rest):
        return Difference(*(float("nan"),) * 4)
    patients = result.task.patients[result.task.split == "test"]
    found = between_groups(
        metric,
        (own, rest),
        truth=result.truth,
        predicted=result.predicted,
        patients=patients,
        resamples=resamples,
    )
    return (
        # Where less is better the sign changes, and the two bounds are swapped.
        replace(found, value=-found.value, low=-found.high, high=-found.low)
        if kind.headline in kind.lower_is_better
        else found
    )


def _measure_confounder(result: Result, grouping: Grouping, resamples: int) -> Confounded:
    task, names = result.task, grouping.names
    test = task.split == "test"
    # A study without a value is in no group, so no weight can be derived for it. Nor can it where
    # a group lacks a class: one study of a scanner must not make the whole test impossible.
    known = names[test] != ""
    own, patients = names[test][known], task.patients[test][known]
    known[known] = ~np.isin(own, rare_groups(result.truth[known], own, patients))
    truth, predicted, patients = (
        result.truth[known],
        result.predicted[known],
        task.patients[test][known],
    )
    groups = names[test][known]
    rests_on = support(truth, groups, patients)
    nan = float("nan")
    if rests_on.refused:
        # A few patients would carry the weight of their whole group, and resamples without them
        # are left out: the interval would be far too narrow.
        broken = within = Interval(nan, nan, nan, len(truth), why=rests_on.refused)
        lost = Difference(nan, nan, nan, nan, why=rests_on.refused)
    else:
        metric = tie_broken("auroc", groups)
        broken = interval(metric, truth, predicted, patients)
        within = interval(auroc_within(groups), truth, predicted, patients)
        lost = contrast(
            "auroc",
            metric,
            truth=truth,
            predicted=predicted,
            patients=patients,
            resamples=resamples,
        )
        if why := rests_on.untold(broken.value):
            broken = replace(broken, low=nan, high=nan, why=why)
            lost = replace(lost, low=nan, high=nan, p=nan, why=why)
    return Confounded(
        task.name,
        result.encoder,
        grouping.column,
        alone=interval("auroc", truth, _column_alone(task, names)[known], patients),
        plain=interval("auroc", truth, predicted, patients),
        broken=broken,
        within=within,
        lost=lost,
        support=rests_on,
    )


def _column_alone(task: Task, names: np.ndarray) -> Float[np.ndarray, " M"]:
    """The rate of label 1 in the group of each measured study.

    Rates come from train and val, in folds from the other folds: the labels of measured studies
    must not predict themselves.
    """
    if not task.folds:
        test = task.split == "test"
        return _rates(names[~test], task.labels[~test], names[test])
    found = np.zeros(len(task))
    for fold in np.unique(task.fold_of):
        own = task.fold_of == fold
        found[own] = _rates(names[~own], task.labels[~own], names[own])
    return found


def _rates(
    names: np.ndarray, labels: Float[np.ndarray, " N"], wanted: np.ndarray
) -> Float[np.ndarray, " M"]:
    """The rate of label 1 in the group of each wanted study; the overall rate for a new group."""
    rates = {name: float(labels[names == name].mean()) for name in set(names.tolist())}
    return np.array([rates.get(name, float(labels.mean())) for name in wanted.tolist()])


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value
