"""Time until an event, with censoring: a Cox head and Harrell's C.

Axes: N studies, M of test, D width, K draws, R resamples.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.classification import Classification
from mmv_jax.evaluate.kinds.features import Probed, Standardiser, principal_axes
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.tasks.columns import FEW, numbers_of
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.behind import rests_on
from mmv_jax.metrics.weighted import Weighted

STRENGTHS = tuple(10.0**e for e in np.arange(-5, 1.5, 0.5))
BY_POSITIVE = "name the value of an event by `positive`"
# Words of a column in which 1 says that there was no event.
NO_EVENT = frozenset(("censored", "censor", "censoring", "cens", "alive", "survived", "survivor"))
# Where events and censored studies are exchanged, most have an "event", at the end of follow-up.
MOST_EVENTS, LATER, ENOUGH = 0.6, 1.5, 10
AXES = 256  # principal axes of the features that the head reads at most


@rests_on(lambda truth: [truth[:, 1] == 1])
def weighted_concordance(
    truth: Float[np.ndarray, "N 2"],
    predicted: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """Harrell's C under each line of weights: of two studies of which one has the event first, how
    often its risk is the higher one, ties half. NaN where no pair can be compared.

    Every pair is looked at, so time and memory grow with N². `outcomes.discrimination.concordance`
    is faster and has no weights.
    """
    time, event = truth.T
    # i has the event before j's time, or at it where j was censored then.
    before = (time[:, None] < time[None]) | (
        (time[:, None] == time[None]) & (event[:, None] == 1) & (event[None] == 0)
    )
    pairs = (event[:, None] == 1) & before
    right = pairs * (
        (predicted[:, None] > predicted[None]) + 0.5 * (predicted[:, None] == predicted[None])
    )
    won, all_pairs = (((weights @ m) * weights).sum(axis=1) for m in (right, pairs * 1.0))
    return np.divide(won, all_pairs, out=np.full(len(weights), np.nan), where=all_pairs > 0)


def fit_cox(
    x: Float[np.ndarray, "N D"],
    time: Float[np.ndarray, " N"],
    event: Bool[np.ndarray, " N"],
    strength: float,
    start: Float[np.ndarray, " D"] | None = None,
) -> Float[np.ndarray, " D"]:
    """Log hazard ratios that minimise the negative log partial likelihood (Breslow's ties) plus
    |w|² / (2 strength).
    """  # fmt: skip
    order = np.argsort(-time, kind="stable")
    z, had = x[order].astype(np.float64), event[order]
    # Those at risk at a time are all before its last line, since the longest time comes first.
    last = np.searchsorted(-time[order], -time[order], side="right") - 1

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        eta = z @ w
        top = eta.max()
        hazard = np.exp(eta - top)
        at_risk = np.cumsum(hazard)[last]
        # Each event adds its share of the hazard to the gradient of all who are at risk then.
        share = np.zeros(len(z))
        np.add.at(share, last[had], 1 / at_risk[had])
        pull = hazard * np.cumsum(share[::-1])[::-1]
        loss = float((np.log(at_risk[had]) + top - eta[had]).sum() + w @ w / (2 * strength))
        return loss, z.T @ (pull - had) + w / strength

    first = np.zeros(z.shape[1]) if start is None else start
    return minimize(objective, first, jac=True, method="L-BFGS-B").x


class Survival(Kind):
    """`label` is two columns: the times, and 1 for an event or 0 for censored. Of other codes
    `positive` names that of an event.
    """

    metrics: Mapping[str, str | Weighted] = {"c_index": weighted_concordance}
    labels = {"c_index": "C-index"}
    chance = 0.5
    shares_axis = True
    many_columns = True
    end_to_end = False
    scale = "numbers"

    def read_many(
        self, values: pd.DataFrame, *, task: str, positive: Any
    ) -> Float[np.ndarray, "N 2"]:
        """Times and events [N, 2]; NaN where one of the two is empty or, in few studies, wrong.

        Raises:
          UserError: not two columns, or in more than a few studies a value that is no number, a
            time that is not above 0, or an event that is neither 0 nor 1.
        """
        if values.shape[1] != 2:
            raise UserError(
                f"config.tasks.{task}.label: a survival has two columns, the time and the event (1"
                f" or 0), and here are {values.shape[1]}. Give both as a list."
            )
        (first, times), (second, events) = ((str(name), own) for name, own in values.items())
        asked_by = f"config.tasks.{task}.label"
        time = numbers_of(times, first, asked_by)
        if positive is None:
            event = numbers_of(events, second, asked_by, otherwise=f", or {BY_POSITIVE}")
        else:
            read = Classification().read_labels
            event = read(events, task=task, label=second, positive=positive)
        known = ~np.isnan(time) & ~np.isnan(event)
        early, odd = (time <= 0) & known, ~np.isin(event, (0, 1)) & known
        if max(early.sum(), odd.sum()) > FEW * known.sum():
            raise UserError(
                f"{asked_by}: times must be above 0 and events 0 or 1, and"
                f" {early.sum()} studies have another {first!r}, {odd.sum()} another {second!r}."
                f" Correct them in the manifest{f', or {BY_POSITIVE}' if odd.any() else ''}."
            )
        known &= ~early & ~odd
        return np.where(known[:, None], np.stack([time, event], axis=1), np.nan)

    def odd_truth(
        self,
        labels: Float[np.ndarray, "N 2"],
        *,
        patients: np.ndarray,
        names: Sequence[str],
        positive: Any,
    ) -> Iterator[str]:
        time, event = labels[:, 0], labels[:, 1] == 1
        if (time == time[0]).all():
            yield "all times are the same: a classification of the event would say as much."
        if event.all():
            yield "no study is censored: does the column of the event say so?"
        if positive is None and set(re.findall("[a-z]+", names[1].casefold())) & NO_EVENT:
            yield f"1 counts as an event, and the column is {names[1]!r}: if not, set `positive`."
        elif len(time) - event.sum() >= ENOUGH and event.mean() > MOST_EVENTS:
            times = float(np.median(time[event]) / np.median(time[~event]))
            if times > LATER:
                yield (
                    f"{event.sum()} of {len(time)} studies have an event, {times:.2g} times as late"
                    " as others are censored: does 1 mean censored?"
                )
        of_patient = pd.Series(event).groupby(patients).nunique()
        if both := int((of_patient > 1).sum()):
            yield f"{both} patients have a study with an event and one that is censored."

    def check_split(self, task: Task, split: str) -> None:
        if not task.labels[task.split == split, 1].any():
            raise UserError(
                f"config.tasks.{task.name}: no study of {task.called(split)} has an event. Leave"
                " the task out."
            )

    def probe(self, x: Float[np.ndarray, "N D"], tasks: Sequence[Task]) -> list[Probed]:
        return [self._probe(x, task) for task in tasks]

    def _probe(self, x: Float[np.ndarray, "N D"], task: Task) -> Probed:
        train, val, test = (task.split == name for name in ("train", "val", "test"))
        z, truth = _reduced(x, train), task.labels
        fits = _path(z[train], truth[train])
        on_val = [_c_index(truth[val], z[val] @ w) for w in fits]
        best = int(np.argmax(on_val))
        both = train | val
        z = _reduced(x, both)
        w = fit_cox(z[both], truth[both, 0], truth[both, 1] == 1, STRENGTHS[best])
        return Probed(z[test] @ w, STRENGTHS[best], float(on_val[best]))

    def shown_first(self, labels: Float[np.ndarray, "n 2"]) -> list[Bool[np.ndarray, " n"]]:
        return [labels[:, 1] == 1]

    def fit_draws(
        self, x: Float[np.ndarray, "N D"], task: Task, drawn: Bool[np.ndarray, "N K"]
    ) -> Float[np.ndarray, "K M"]:
        train, val, test = (task.split == part for part in ("train", "val", "test"))
        predicted = []
        for draw in drawn.T:
            own, choosing = draw & train, draw & val
            z = _reduced(x, own)
            fits = _path(z[own], task.labels[own])
            asked, risks = task.labels[choosing], [z[choosing] @ w for w in fits]
            best = fits[int(np.argmax([_c_index(asked, risk) for risk in risks]))]
            predicted.append(z[test] @ best)
        return np.stack(predicted)


def _reduced(x: Float[np.ndarray, "N D"], fitted_on: np.ndarray) -> Float[np.ndarray, "N E"]:
    """Standardised features on their principal axes: with a ridge nothing is lost but time."""
    z = Standardiser.of(x[fitted_on])(x)
    return z @ principal_axes(z[fitted_on], AXES)[0]


def _path(z: np.ndarray, truth: Float[np.ndarray, "N 2"]) -> list[np.ndarray]:
    """Fits at every strength, each begun where the last one ended."""
    fits: list[np.ndarray] = []
    for strength in STRENGTHS:
        start = fits[-1] if fits else None
        fits.append(fit_cox(z, truth[:, 0], truth[:, 1] == 1, strength=strength, start=start))
    return fits


def _c_index(truth: Float[np.ndarray, "N 2"], risk: Float[np.ndarray, " N"]) -> float:
    """0.5 where no pair can be compared, so that nothing is chosen by it."""
    found = weighted_concordance(truth, risk, np.ones((1, len(risk))))[0]
    return 0.5 if np.isnan(found) else float(found)
