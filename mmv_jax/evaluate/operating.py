"""Decisions and fairness: an operating point that val chose, what acting on it is worth, and how it
treats groups. Axes: M test studies, V val studies.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.evaluate.measure import Result, is_judged
from mmv_jax.evaluate.tasks.groupings import Grouping
from mmv_jax.metrics.between import between_groups
from mmv_jax.metrics.corrections import holm
from mmv_jax.metrics.intervals import Difference, Interval, interval
from mmv_jax.metrics.scores import roc_curve

# Probabilities from which on one would act: a miss then costs as much as 19, 9, 4, 2⅓ or 1 false
# alarms.
ACT_FROM = (0.05, 0.1, 0.2, 0.3, 0.5)
FEWEST = 5  # patients behind a rate, below which none is given


@dataclass(frozen=True)
class Operating:
    """A classification at the threshold that is best on val (Youden).

    Attributes:
      threshold: of the probability; a study at or above it is called positive.
      net_benefit: by probability to act from, of the encoder.
      of_all: the same of calling every study positive; calling none is worth 0.
    """

    task: str
    encoder: str
    threshold: float
    sensitivity: Interval
    specificity: Interval
    net_benefit: dict[float, Interval]
    of_all: dict[float, Interval]


@dataclass(frozen=True)
class GroupRates:
    """How the operating point treats a group of the test studies.

    Attributes:
      sensitivity, false_positive_rate: at the threshold of the whole task.
      calibration: how much more often the finding is there than was predicted, on average.
      more_found, more_alarms: sensitivity and false positive rate, this group minus the others.
      p_holm: of these two, corrected over all groups of the evaluation; NaN where not tested.
    """

    task: str
    encoder: str
    column: str
    group: str
    sensitivity: Interval
    false_positive_rate: Interval
    calibration: Interval
    more_found: Difference
    more_alarms: Difference
    p_holm: tuple[float, float] = (float("nan"), float("nan"))


def youden(truth: Float[np.ndarray, " V"], predicted: Float[np.ndarray, " V"]) -> float:
    """The threshold with the largest sum of sensitivity and specificity; the highest of equals."""
    false, right, thresholds = roc_curve(truth, predicted)
    # The first one calls nothing positive, and is infinite.
    return float(thresholds[1:][int((right - false)[1:].argmax())])


def measure_operating(results: Iterable[Result]) -> list[Operating]:
    """Every classification whose val predictions are known."""
    return [_operating(r) for r in results if r.on_val is not None and r.kind.has_classes]


def _operating(result: Result) -> Operating:
    task, threshold = result.task, threshold_of(result)
    truth, patients = result.truth, task.patients[task.split == "test"]
    called = (result.predicted >= threshold).astype(np.float64)
    found, healthy = truth == 1, truth != 1

    def rate(values: np.ndarray, inside: np.ndarray) -> Interval:
        return share(values[inside], patients[inside])

    benefit, of_all = {}, {}
    for act_from in ACT_FROM:
        # Vickers and Elkin, Medical Decision Making 26 (2006): a false alarm costs the odds.
        worth = truth - (1 - truth) * act_from / (1 - act_from)
        acted = worth * (result.predicted >= act_from)
        benefit[act_from], of_all[act_from] = (
            interval("mean", x, x, patients) for x in (acted, worth)
        )
    return Operating(
        task=task.name,
        encoder=result.encoder,
        threshold=threshold,
        sensitivity=rate(called, found),
        specificity=rate(1 - called, healthy),
        net_benefit=benefit,
        of_all=of_all,
    )


def threshold_of(result: Result) -> float:
    """The operating point of a result, from val alone."""
    assert result.on_val is not None
    return youden(result.task.labels[result.task.split == "val"], result.on_val)


def share(values: Float[np.ndarray, " M"], patients: np.ndarray) -> Interval:
    """A proportion of studies, where there are enough patients."""
    count, nan = len(np.unique(patients)), float("nan")
    if count < FEWEST:
        return Interval(nan, nan, nan, len(values), why=f"fewer than {FEWEST} patients")
    return interval("proportion", values, values, patients)


def measure_rates(results: Iterable[Result]) -> list[GroupRates]:
    """Every group of the subgroups of every whole encoder with an operating point."""
    asked = [
        (r, grouping[r.task.split == "test"], group)
        for r in results
        if r.on_val is not None and r.kind.has_classes and "/" not in r.encoder
        for grouping in r.task.subgroups
        # Where only positives are grouped, no group has false alarms of its own.
        if not grouping.positives
        for group in grouping.order
    ]
    # Two tests a group; floors and stand-ins are shown and not tested.
    found = [_rates(r, grouping, group) for r, grouping, group in asked]
    tested = [
        d.p if is_judged(g.encoder) else float("nan")
        for g in found
        for d in (g.more_found, g.more_alarms)
    ]
    p = holm(tested)
    return [replace(g, p_holm=(p[2 * n], p[2 * n + 1])) for n, g in enumerate(found)]


def _rates(result: Result, grouping: Grouping, group: str) -> GroupRates:
    truth, patients = result.truth, result.task.patients[result.task.split == "test"]
    called = (result.predicted >= threshold_of(result)).astype(np.float64)
    inside, rest = grouping.names == group, ~np.isin(grouping.names, (group, ""))
    gap = truth - result.predicted

    def differs(among_these: Bool[np.ndarray, " M"]) -> Difference:
        sides = inside & among_these, rest & among_these
        if min(len(np.unique(patients[side])) for side in sides) < FEWEST:
            return Difference(*(float("nan"),) * 4, why=f"fewer than {FEWEST} patients")
        return between_groups(
            "proportion", sides, truth=called, predicted=called, patients=patients
        )

    return GroupRates(
        task=result.task.name,
        encoder=result.encoder,
        column=grouping.column,
        group=group,
        sensitivity=share(called[inside & (truth == 1)], patients[inside & (truth == 1)]),
        false_positive_rate=share(called[inside & (truth != 1)], patients[inside & (truth != 1)]),
        calibration=_mean(gap[inside], patients[inside]),
        more_found=differs(truth == 1),
        more_alarms=differs(truth != 1),
    )


def _mean(values: np.ndarray, patients: np.ndarray) -> Interval:
    if not len(values):
        nan = float("nan")
        return Interval(nan, nan, nan, 0, why="no study")
    return interval("mean", values, values, patients)


def gaps(rates: Iterable[GroupRates]) -> list[tuple[str, str, str, Interval]]:
    """(task, encoder, key, value): how far the rates of the groups of a column lie apart at most.

    A largest of several is biased upward and has no interval here; the differences of single groups
    have.
    """
    columns: dict[tuple[str, str, str], list[GroupRates]] = {}
    for g in rates:
        columns.setdefault((g.task, g.encoder, g.column), []).append(g)
    out, nan = [], float("nan")
    for (task, encoder, column), own in columns.items():
        for name in ("sensitivity", "false_positive_rate"):
            known = [getattr(g, name) for g in own if not np.isnan(getattr(g, name).value)]
            value = max(k.value for k in known) - min(k.value for k in known) if known else nan
            why = "the largest of several differences; see the groups"
            count = sum(k.n for k in known)
            out.append(
                (task, encoder, f"{name}_gap@{column}", Interval(value, nan, nan, count, why=why))
            )
    return out


def operating_metrics(
    points: Iterable[Operating], rates: Iterable[GroupRates]
) -> list[tuple[str, str, str, Interval]]:
    """(task, encoder, key, value) for `metrics.json`."""
    rates, nan = list(rates), float("nan")
    out = []
    for o in points:
        named = {"sensitivity": o.sensitivity, "specificity": o.specificity}
        count = o.sensitivity.n + o.specificity.n
        chosen = Interval(o.threshold, nan, nan, count, why="chosen on val")
        named["threshold"] = chosen
        for act_from in ACT_FROM:
            named[f"net_benefit@{100 * act_from:g}%"] = o.net_benefit[act_from]
            named[f"net_benefit_of_all@{100 * act_from:g}%"] = o.of_all[act_from]
        out += [(o.task, o.encoder, key, value) for key, value in named.items()]
    for g in rates:
        own = {
            "sensitivity": g.sensitivity,
            "false_positive_rate": g.false_positive_rate,
            "observed_minus_predicted": g.calibration,
        }
        of_group = f"{g.column}={g.group}"
        out += [(g.task, g.encoder, f"{name}@{of_group}", value) for name, value in own.items()]
    return [*out, *gaps(rates)]
