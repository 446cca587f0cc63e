"""Groups, confounders and survivals that are probably meant otherwise: each is told once, and a
group of one study leaves itself out and not the test.
"""

import re

import numpy as np
import pandas as pd
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.measure import Result
from mmv_jax.evaluate.subgroups import measure_confounders
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.evaluate.tasks.odd_studies import odd_images
from mmv_jax.metrics.intervals import interval

N = 240
RNG = np.random.default_rng(0)
SPLIT = np.repeat(np.resize(["train", "val", "test"], N // 2), 2)
LEFT = (RNG.random(N) < 0.5) * 1.0
AGE = RNG.integers(20, 90, N) * 1.0
SEX = np.resize(["F", "M", "M", "F", "M"], N).astype(object)


def index_of(**columns):
    known = {
        "study": [f"s{i}" for i in range(N)],
        "patient": [f"p{i // 2}" for i in range(N)],
        "split": SPLIT,
        "modality": "CXR",
        "ndim": 2,
        "masks": "",
        "label_left": LEFT,
    }
    return pd.DataFrame(known | {f"label_{name}": x for name, x in columns.items()})


def task(kind="classification", label="left", positive=None, group=None, **columns):
    return make_task(
        index_of(**columns), "mine", kind=kind, label=label, positive=positive, **(group or {})
    )


def one(value, of, dtype=object):
    changed = np.array(of, dtype)
    changed[SPLIT.tolist().index("test")] = value
    return changed


SUB, BANDS, TIE = (
    {"subgroups": {"x": {}}},
    {"subgroups": {"x": {"edges": (40, 60)}}},
    {"confounders": {"x": {}}},
)
ODD = {
    "spellings": (SUB, np.resize(["F", "M", "Female", "m"], N), "spelling alone"),
    "a word among ages": (BANDS, one("unclear", AGE), "1 studies have no number there"),
    "an infinite age": (BANDS, one(np.inf, AGE, float), "1 studies have no number there"),
    "999": (BANDS, np.where(np.arange(N) % 10 == 0, 999.0, AGE), r"999 \(24 studies\) counts"),
    "an id": (BANDS, RNG.permutation(N) + 0.0, "does it count the lines"),
    "no value": (SUB, np.where(np.arange(N) % 4, SEX, None), "of 80 measured studies have no"),
    "one group in test": (SUB, np.where(SPLIT == "test", "F", SEX), "in one group, 'F'"),
    "the label": (TIE, np.where(LEFT > 0, "seen", "clear"), "is the column the label itself"),
    "grades and 9": (SUB, np.resize([1.0, 2.0, 3.0, 9.0], N), r"9 \(60 studies\) is a group"),
    "a group of one": (TIE, one("X", SEX), r"'X' \(1 measured studies\) has too few patients"),
}


@pytest.mark.parametrize("group, values, said", ODD.values(), ids=list(ODD))
def test_odd_groups_are_told(group, values, said):
    (note,) = task(group=group, x=values).notes
    assert note.startswith("mine: x: ")
    assert re.search(said, note)


@pytest.mark.parametrize(
    "group, values", [(SUB, SEX), (BANDS, AGE), (TIE, SEX)], ids=["sex", "age", "confounder"]
)
def test_usual_groups_are_told_nothing(group, values):
    assert task(group=group, x=values).notes == ()


def test_a_code_beside_two_classes_is_no_group():
    values = np.where(np.arange(N) % 30 == 0, -1.0, np.arange(N) // 2 % 2)
    (found,) = task(group=SUB, x=values).subgroups
    assert found.order == ("0", "1") and (found.names == "").sum() == 8


WRONG = {
    "half of it words": (BANDS, np.where(np.arange(N) % 2, "old", AGE), "not a column of numbers"),
    "positives as text": ({"subgroups": {"x": {"positives": "no"}}}, SEX, "True or False"),
    "both": (TIE | {"mediators": {"x": {}}}, SEX, "among the confounders and the mediators"),
    "crossed flat": (SUB | {"intersections": ("x", "left")}, SEX, "intersections has 'x'"),
    "with itself": (SUB | {"intersections": (("x", "x"),)}, SEX, "two or more columns"),
}


@pytest.mark.parametrize("group, values, said", WRONG.values(), ids=list(WRONG))
def test_groups_that_mean_nothing_are_one_sentence(group, values, said):
    with pytest.raises(UserError, match=f"config.tasks.mine.*{said}"):
        task(group=group, x=values)


def test_values_of_a_list_that_no_study_has_are_told():
    made = task(group={"where": {"x": ["F", "Female"]}}, x=SEX)
    assert made.notes == ("mine: where of 'x' lists 'Female', which no study has.",)
    words = np.where(LEFT > 0, "left", "right")
    (note,) = task(label="x", positive=["left", "links"], x=words).notes
    assert "positive of 'x' lists 'links'" in note


def test_one_patient_with_two_sexes_is_told():
    values = np.repeat(np.resize(["F", "M"], N // 2), 2).astype(object)
    assert task(group={"subgroups": {"sex": {}}}, sex=values).notes == ()
    values[0], values[4] = "Male", "female"  # one other sex, and one other word for the same
    notes = task(label="sex", positive=["M", "Male"], sex=values).notes
    assert "mine: sex: it differs between studies of 1 patients: two persons of one id?" in notes


def test_a_group_of_one_study_leaves_the_tie_to_be_broken():
    made = task(group=TIE, x=one("X", SEX))
    test = made.split == "test"
    score = LEFT[test] + RNG.normal(size=test.sum())
    auroc = {"auroc": interval("auroc", LEFT[test], score, made.patients[test])}
    result = Result(made, "trained", LEFT[test], score, auroc, "")
    (found,) = measure_confounders([result])
    assert found.plain.n == test.sum() - 1 and found.support.refused == ""
    assert np.isfinite(found.broken.value)


TIMES = RNG.exponential(600, N).round() + 1
EVENT = np.repeat(RNG.random(N // 2) < 0.3, 2) * 1.0
LAST = np.where(EVENT == 1, np.minimum(TIMES, 1000), 1825)
SURVIVALS = {
    "exchanged": (LAST, 1 - EVENT, "does 1 mean censored"),
    "all alike": (np.full(N, 365.0), EVENT, "all times are the same"),
    "nobody censored": (TIMES, np.ones(N), "no study is censored"),
    "a patient twice": (TIMES, np.r_[1 - EVENT[:1], EVENT[1:]], "1 patients have a study with an"),
}


@pytest.mark.parametrize("times, events, said", SURVIVALS.values(), ids=list(SURVIVALS))
def test_odd_survivals_are_told(times, events, said):
    notes = task("survival", ("t", "e"), t=times, e=events).notes
    assert any(said in note for note in notes)
    assert task("survival", ("t", "e"), t=TIMES, e=EVENT).notes == ()


def test_a_column_of_the_censored_is_told_and_an_event_may_have_another_code():
    (note,) = task("survival", ("t", "is_censored"), t=TIMES, is_censored=EVENT).notes
    assert "the column is 'is_censored'" in note
    for words in (["alive", "dead"], [1.0, 2.0]):
        coded = np.array(words)[EVENT.astype(int)]
        with pytest.raises(UserError, match="name the value of an event by `positive`"):
            task("survival", ("t", "e"), t=TIMES, e=coded)
        made = task("survival", ("t", "e"), positive=words[1], t=TIMES, e=coded)
        assert np.array_equal(made.labels[:, 1], EVENT) and made.notes == ()


def with_images(checksums):
    return index_of().assign(
        checksum=checksums, grid_z=1, grid_y=64, grid_x=64, low=0.0, high=1.0, manifest=1, line=2
    )


def test_an_image_in_two_splits_or_with_two_labels_is_told():
    names = np.array([f"{i:08x}" for i in range(N)])
    plain = with_images(names)
    made = [make_task(plain, "mine", kind="classification", label="left")]
    assert list(odd_images(plain, made)) == []
    first, second = np.flatnonzero(SPLIT == "test")[[0, 2]]
    twice = names.copy()
    other = np.flatnonzero((SPLIT == "train") & (LEFT[first] == LEFT))[0]
    twice[first] = twice[other]
    (said,) = odd_images(with_images(twice), made)
    assert said.startswith("2 studies have the pixels of a study in another split")
    # Of one split: no leak, but one of the two labels is wrong.
    other = next(n for n in np.flatnonzero(SPLIT == "test") if LEFT[n] != LEFT[second])
    twice = names.copy()
    twice[other] = twice[second]
    (said,) = odd_images(with_images(twice), made)
    assert said == "mine: 1 images stand there several times with different labels."
