"""Kinds of task of a plug-in that give something else than they must: each is one sentence."""

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.fewshot import few_shot
from mmv_jax.evaluate.kinds.features import Probed
from mmv_jax.evaluate.kinds.regression import Regression
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import measure
from mmv_jax.evaluate.tasks.task import Task

N = 48
SPLIT = np.resize(["train", "train", "val", "test"], N)
X = np.random.default_rng(0).normal(size=(N, 3))


class Odd(Regression):
    """A regression whose predictions are changed."""

    def __init__(self, change):
        super().__init__()
        object.__setattr__(self, "change", change)

    def probe(self, x, tasks):
        return self.change([one.predicted for one in super().probe(x, tasks)])

    def fit_draws(self, x, task, drawn):
        return self.change([super().fit_draws(x, task, drawn)])


def crash(found):
    raise ZeroDivisionError("of mine")


def task_of(monkeypatch, change) -> Task:
    monkeypatch.setattr(KINDS, "_entries", dict(KINDS._entries))
    KINDS.register("odd", Odd(change))
    return Task("t", "odd", np.arange(N), SPLIT, np.arange(N).astype(str), labels=X[:, 0])


WRONG = {
    "none": (lambda found: [], "a list of 1 `Probed`, one a task"),
    "arrays": (lambda found: found, "a list of 1 `Probed`, one a task"),
    "of all studies": (lambda found: [Probed(np.zeros(N), 1.0)], r"\(48,\) .*; \(12,\) is wanted"),
    "NaN": (lambda found: [Probed(found[0] * np.nan, 1.0)], "12 predictions .* no finite numbers"),
    "a crash": (crash, "The kind 'odd' failed in `probe`: ZeroDivisionError: of mine"),
}


@pytest.mark.parametrize("change, said", WRONG.values(), ids=list(WRONG))
def test_what_is_no_probe_is_one_sentence(monkeypatch, change, said):
    with pytest.raises(UserError, match=said):
        measure("trained", {"": X}, [task_of(monkeypatch, change)])


def test_the_same_of_few_shot_curves(monkeypatch):
    for change, said in (
        (lambda found: found[0].T, r"`fit_draws` gives .*; \(2, 12\) is wanted"),
        (lambda found: found[0] / np.zeros(1), "24 predictions"),
        (crash, "failed in `fit_draws`"),
    ):
        with np.errstate(all="ignore"), pytest.raises(UserError, match=said):
            few_shot("trained", X, task_of(monkeypatch, change), shares=(1.0,), draws=2)
    task = task_of(monkeypatch, lambda found: found[0])
    (point,) = few_shot("trained", X, task, shares=(1.0,), draws=2)
    assert np.isfinite(point.value.value)
