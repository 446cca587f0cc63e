"""Labels that can be learnt and are probably meant otherwise: each is told, and a cell leaves its
own study out and not the others.
"""

import re

import numpy as np
import pandas as pd
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.evaluate.tasks.odd_labels import odd_numbers

N = 60
RNG = np.random.default_rng(0)
PLAIN = RNG.uniform(12, 40, N).round(1)


def index_of(**columns):
    known = {
        "study": [f"s{i}" for i in range(N)],
        "patient": [f"p{i}" for i in range(N)],
        "split": np.resize(["train", "val", "test"], N),
        "modality": "CXR",
        "ndim": 2,
        "masks": "",
    }
    return pd.DataFrame(known | {f"label_{name}": x for name, x in columns.items()})


def task(kind, label="x", positive=None, **columns):
    return make_task(index_of(**columns), "mine", kind=kind, label=label, positive=positive)


def one(value, of=PLAIN, dtype=None):
    """The numbers, with one of them replaced."""
    changed = np.array(of, dtype)
    changed[7] = value
    return changed


ODD = {
    "cm and mm": (np.where(np.arange(N) % 3 == 0, PLAIN / 10, PLAIN), "9.4 times apart"),
    "ratio and per cent": (
        np.where(np.arange(N) < 20, 0.45 + PLAIN / 400, 45 + PLAIN / 4),
        "99 times apart with none between",
    ),
    "years and days": (
        np.where(np.arange(N) % 2 == 0, 40 + PLAIN, (40 + PLAIN) * 365),
        "times apart",
    ),
    "ten times": (one(250.0), "1 study is about .* above the others"),
    "a thousand times": (one(25_000.0), "1 study is about .* above the others"),
    "a hundredth": (one(0.2), "1 study is about .* below the others"),
    "-1": (np.where(np.arange(N) % 10 == 0, -1.0, PLAIN), r"-1 \(6 studies\) counts as a number"),
    "-999": (one(-999.0), r"-999 \(1 studies\) counts as a number"),
    "999": (np.where(np.arange(N) % 10 == 0, 999.0, PLAIN), r"999 \(6 studies\) counts as"),
    "study number": (RNG.permutation(N) + 1000.0, "a whole number of its own, without gaps"),
}


@pytest.mark.parametrize("numbers, said", ODD.values(), ids=list(ODD))
def test_numbers_of_two_units_codes_and_counts_are_told(numbers, said):
    (note,) = task("regression", x=numbers).notes
    assert note.startswith("mine: x: ")
    assert re.search(said, note)


USUAL = {
    "plain": PLAIN,
    "signed": RNG.normal(0, 1, N),
    "volumes over four decades": 10 ** RNG.uniform(-1, 3, N),
    "volumes, most of them none": np.where(np.arange(N) % 3 == 0, 10 ** RNG.uniform(0, 2, N), 0),
    "log-normal": np.exp(RNG.normal(2, 1.5, N)),
    "ages": RNG.integers(18, 91, N) * 1.0,
    "grades": RNG.integers(0, 5, N) * 1.0,
    "scores": RNG.integers(0, 2000, N) * 1.0,
}


@pytest.mark.parametrize("numbers", USUAL.values(), ids=list(USUAL))
def test_usual_numbers_are_told_nothing(numbers):
    assert list(odd_numbers(np.asarray(numbers))) == []


@pytest.mark.parametrize("cell", ["5 mm", "inf", "3,4"])
def test_one_cell_that_is_no_number_leaves_its_study_out(cell):
    made = task("regression", x=one(cell, PLAIN.astype(str), object))
    assert len(made) == N - 1 and 7 not in made.studies
    assert made.notes == ("mine: x: 1 studies have no value that can be used: left out.",)
    with pytest.raises(UserError, match="20 values of 'x' are no finite numbers"):
        task("regression", x=np.where(np.arange(N) < 20, cell, PLAIN.astype(str)))


def test_one_wrong_time_or_event_leaves_its_study_out():
    event = np.resize([1.0, 0.0], N)
    for times, events in ((one(0.0), event), (one(-3.0), event), (PLAIN, one(9.0, event))):
        made = task("survival", ["x", "e"], x=times, e=events)
        assert len(made) == N - 1 and 7 not in made.studies
        assert any("x, e: 1 studies have no value" in note for note in made.notes)
    with pytest.raises(UserError, match="20 studies have another 'x'"):
        task("survival", ["x", "e"], x=np.where(np.arange(N) < 20, 0, PLAIN), e=event)
    mixed = np.where(np.arange(N) % 2 == 0, 400 + PLAIN, (400 + PLAIN) / 30)
    assert "30 times apart" in task("survival", ["x", "e"], x=mixed, e=event).notes[0]


def test_a_class_of_one_study_is_left_out_and_a_class_that_a_split_lacks_is_named():
    classes = np.resize(np.repeat(["a", "b"], 3), N).astype(object)
    made = task("multiclass", x=one("rare", classes, object))
    assert made.labels.shape == (N - 1, 2) and made.classes == ("a", "b")
    assert made.notes == ("mine: x: 1 studies have no value that can be used: left out.",)
    few = np.where(np.isin(np.arange(N), (0, 3, 6, 9)), "rare", classes)  # of train alone
    with pytest.raises(UserError, match=r"split 'val' is of the class 'rare' \(4 studies in all\)"):
        task("multiclass", x=few)


def test_classes_that_differ_in_spelling_are_told():
    classes = np.resize(np.repeat(["PA", "AP", "pa"], 3), N)
    assert task("multiclass", x=classes).notes == (
        "mine: x: some classes differ in spelling alone (capitals or blanks).",
    )
    grades = np.resize(np.repeat([1.0, 2.0, 3.0], 3), N)
    made = task("multiclass", x=grades)
    assert made.classes == ("1", "2", "3") and made.notes == ()


def test_a_finding_that_is_the_same_in_a_split_is_named():
    other = np.resize(np.repeat([0.0, 1.0], 3), N)
    for same in (np.ones(N), np.where(np.arange(N) % 3 == 1, 0, other)):
        with pytest.raises(UserError, match="the finding 'x' is the same in all studies"):
            task("multilabel", ["y", "x"], x=same, y=other)


WORDS = {
    "capitals": (["yes", "no", "Yes"], "yes"),
    "blanks": (["yes", "no", "yes "], "yes"),
    "a number": (["yes", "no", "1", "0"], "yes"),
    "a letter": (["female", "male", "F", "M"], "female"),
    "a whole word": (["L", "R", "left", "right"], "L"),
    "of a list": (["present", "absent", "true"], ["present", "Present"]),
}


@pytest.mark.parametrize("words, positive", WORDS.values(), ids=list(WORDS))
def test_a_positive_in_two_codings_is_refused_until_both_are_named(words, positive):
    cells = np.resize(np.repeat(words, 3), N)
    with pytest.raises(UserError, match="which would count as negative. List all values"):
        task("classification", x=cells, positive=positive)
    if words[2] == "Yes":
        made = task("classification", x=cells, positive=["yes", "Yes"])
        assert made.labels.sum() == np.isin(cells, ["yes", "Yes"]).sum()


def test_words_that_differ_from_the_positive_count_as_negative():
    cells = np.resize(np.repeat(["nodule", "mass", "none seen"], 3), N)
    made = task("classification", x=cells, positive="nodule")
    assert made.labels.sum() == (cells == "nodule").sum()
    stages = np.resize(np.repeat(["1", "2", "3"], 3), N)
    assert task("classification", x=stages, positive="2").labels.sum() == (stages == "2").sum()
