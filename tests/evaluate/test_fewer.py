"""A cap of training studies: whole patients are drawn, val shrinks alike, and test is whole."""

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.fewer import with_fewer
from mmv_jax.evaluate.tasks.task import Task

PARTS = {"train": 60, "val": 20, "test": 12}


def task_of(per_patient=1, **changed):
    split = np.repeat(list(PARTS), list(PARTS.values()))
    n = len(split)
    own = {"labels": (np.arange(n) % 2).astype(float)} | changed
    patients = np.array([f"p{i // per_patient}" for i in range(n)])
    return Task("t", "classification", np.arange(n) + 7, split, patients, **own)


def counts(task):
    return {part: int((task.split == part).sum()) for part in PARTS}


def test_train_and_val_shrink_alike_and_test_is_whole():
    whole, left = task_of(), with_fewer(task_of(), 30, seed=1)
    assert counts(left) == {"train": 30, "val": 10, "test": 12}
    test = whole.split == "test"
    np.testing.assert_array_equal(left.studies[left.split == "test"], whole.studies[test])
    np.testing.assert_array_equal(left.labels[left.split == "test"], whole.labels[test])


def test_patients_stay_whole():
    left = with_fewer(task_of(per_patient=4), 30, seed=0)
    sizes = np.unique(left.patients, return_counts=True)[1]
    assert set(sizes) == {4} and counts(left)["train"] == 28


def test_another_seed_draws_others_and_the_same_seed_the_same():
    drawn = [with_fewer(task_of(), 30, seed).studies.tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("most", [0, 60, 500])
def test_without_a_cap_or_below_it_the_task_is_unchanged(most):
    whole = task_of()
    assert with_fewer(whole, most, seed=1) is whole


def test_a_class_that_is_lost_is_told():
    rare = np.zeros(92)
    rare[[0, 60, 80]] = 1
    with pytest.raises(
        UserError, match="config.fit.studies is 4, which is too few.*config.tasks.t"
    ):
        with_fewer(task_of(labels=rare), 4, seed=3)
