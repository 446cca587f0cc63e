"""Labels and groups that are not what they look like: each is one sentence, and gives no figure."""

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from mmv_jax.commands.keys import load_for
from mmv_jax.errors import UserError
from mmv_jax.evaluate.fewshot import check_few
from mmv_jax.evaluate.from_labels import task_of
from mmv_jax.evaluate.run import chosen_tasks
from mmv_jax.evaluate.shifts import check_shifts
from mmv_jax.evaluate.tasks.make import make_task

N = 24
SPLIT = np.resize(["train", "val", "test"], N)
LEFT = np.arange(N) // 3 % 2


def index_of(**columns):
    """Studies of three splits with both classes of `left`, and further label columns."""
    known = {
        "study": [f"s{i}" for i in range(N)],
        "patient": [f"p{i}" for i in range(N)],
        "split": SPLIT,
        "modality": "CXR",
        "ndim": 2,
        "masks": "disc_mask",
        "label_left": LEFT * 1.0,
        "label_age": 40.0 + np.arange(N),
    }
    return pd.DataFrame(known | {f"label_{name}": x for name, x in columns.items()})


def task(index=None, kind="classification", **group):
    return make_task(index_of() if index is None else index, "mine", kind=kind, **group)


@pytest.mark.parametrize(
    "values, said",
    [
        (np.arange(N) // 3 % 3 * 1.0, r"0 \(9\), 1 \(9\), 2 \(6\)"),
        (LEFT + 1.0, r"1 \(12\), 2 \(12\)"),  # yes and no, or no and yes
        (np.where(LEFT, "True", "False"), r"False \(12\), True \(12\)"),
        (np.array(["1", "0", "1.0", "yes"])[np.arange(N) // 3 % 4], "yes"),
    ],
)
def test_values_that_nobody_called_negative_do_not_count_as_negative(values, said):
    index = index_of(x=values)
    with pytest.raises(
        UserError, match=f"config.tasks.mine: 'x' has the values .*{said}.*positive"
    ):
        task(index, label="x")
    with pytest.raises(UserError, match="which of them are positive"):
        task(index, "multilabel", label=("left", "x"))
    # Named, every other value is negative, but for other words of the same.
    named = values[0]
    if "yes" in values:
        with pytest.raises(UserError, match="studies have '(1.0|yes)', which would count as neg"):
            task(index, label="x", positive=named)
        named = ["1", "1.0", "yes"]
    found = task(index, label="x", positive=named).labels.sum()
    assert found == np.isin(values, named).sum()


@pytest.mark.parametrize("code", [-1.0, 9.0, 99.0])
def test_a_code_beside_two_classes_is_not_known_as_the_ingest_says(code):
    values = np.where(np.arange(N) % 5 == 0, code, LEFT)
    made = task(index_of(x=values), label="x")
    assert len(made) == (values != code).sum() and made.labels.sum() == (values == 1).sum()
    assert task_of("x", pd.Series(values)) == {"kind": "classification", "positive": 1.0}
    # As text too, beside words.
    words = np.where(values == code, f"{code:g}", np.where(LEFT, "yes", "no"))
    assert len(task(index_of(x=words), label="x", positive="yes")) == len(made)


def test_only_the_chosen_studies_say_what_a_column_holds():
    """Another source may write words where this one has numbers."""
    other = np.arange(N) >= 12
    index = index_of(x=np.where(other, "unsure", LEFT.astype(str)), site=np.where(other, "B", "A"))
    assert len(task(index, label="x", where={"site": "A"})) == 12
    with pytest.raises(UserError, match="unsure"):
        task(index, label="x")


def _with(value, split="train", others=5.0):
    return np.where(split == SPLIT, value, others + np.arange(N))


WRONG = {
    "infinite": ({"kind": "regression", "label": "x"}, _with(np.inf), "8 values of 'x' are no fin"),
    "constant": ({"kind": "regression", "label": "x"}, _with(3.0), "'train' have the same number"),
    "infinite time": (
        {"kind": "survival", "label": ("x", "left")},
        _with(np.inf, "test"),
        "no finite numbers",
    ),
    "negative time": (
        {"kind": "survival", "label": ("x", "left")},
        np.r_[-1.0, -1.0, np.ones(N - 2)],
        "2 studies have another 'x', 0 another 'left'",
    ),
    "three events": (
        {"kind": "survival", "label": ("age", "x")},
        np.resize([0.0, 1.0, 2.0], N),
        "0 studies have another 'age', 8 another 'x'",
    ),
    "a class less in test": (
        {"kind": "multiclass", "label": "x"},
        np.where(SPLIT == "test", np.where(LEFT, "a", "b"), np.where(LEFT, "a", "c")),
        "no study of split 'train' is of the class 'b'",
    ),
    "falling edges": (
        {"subgroups": {"age": {"edges": (60, 40)}}},
        None,
        "must be a list of rising",
    ),
    "one edge": ({"subgroups": {"age": {"edges": 50}}}, None, "must be a list of rising"),
    "one quantile": ({"confounders": {"age": {"quantiles": 1}}}, None, "a number from 2 on"),
    "both": ({"subgroups": {"age": {"edges": (50,), "quantiles": 2}}}, None, "Leave one"),
    "one band": ({"subgroups": {"age": {"edges": (200,)}}}, None, "one band, 'under 200'"),
    "a mistyped option": (
        {"subgroups": {"age": {"edge": (50,)}}},
        None,
        "subgroups.age.edge does not exist. Write a dict with edges",
    ),
    "columns in a list": ({"subgroups": ("age",)}, None, "subgroups is .'age',., but must be"),
    "where in a list": ({"where": ("modality", "CXR")}, None, "where is .* must be a dict"),
    "pixels": ({"pixels": {"grids": (1, 8, 8)}}, None, "pixels.grids does not exist"),
    "a number for a label": ({"label": 5}, None, "must be the name of a column"),
    "no label": ({"label": ""}, None, "label is missing"),
    "no mask": ({"kind": "segmentation"}, None, "mask is missing.* disc_mask"),
    "flags as text": (
        {"kind": "segmentation", "mask": "disc_mask", "flags": "8"},
        None,
        "flags is",
    ),
    "all flags": ({"kind": "segmentation", "mask": "m", "flags": True}, None, "True beside"),
    "values as text": ({"kind": "segmentation", "mask": "disc_mask", "values": "1"}, None, "whole"),
    "structures in a list": (
        {"kind": "segmentation", "mask": "disc_mask", "structures": ("a",)},
        None,
        "structures is",
    ),
    "a region that is none": ({"local": "lungs"}, None, "a value of 'left' and the mask 'lungs'"),
}


@pytest.mark.parametrize("group, column, said", WRONG.values(), ids=WRONG.keys())
def test_a_task_that_can_measure_nothing_is_one_sentence(group, column, said):
    index = index_of() if column is None else index_of(x=column)
    with pytest.raises(UserError, match=said) as told:
        task(index, **{"kind": "classification", "label": "left"} | group)
    assert str(told.value).startswith("config.tasks.mine")


def test_one_value_stands_for_a_list_of_one():
    one = task(kind="segmentation", mask="disc_mask", values=2, structures={"a": 1, "b": (2, 3)})
    assert one.structures == (("a", (1,)), ("b", (2, 3))) and one.values == (1, 2, 3)


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    c = ConfigDict({{"seed": 1, "exclude_overlap": False, "encoders": {{}}}})
    c.data, c.rows = {{"store": "s"}}, {{"length": 128, "rows": 2}}
    c.view = {{"planar": None, "volume": None}}
    c.tasks = {tasks}
    return c
"""


def test_a_task_without_a_kind_and_a_config_without_a_task_are_told(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CONFIG.format(tasks={"sex": {"label": "sex"}}))
    with pytest.raises(UserError, match="config.tasks.sex.kind .* is missing"):
        load_for("mmv evaluate", path)
    path.write_text(CONFIG.format(tasks={}))
    with pytest.raises(UserError, match="config.tasks is empty"):
        chosen_tasks(load_for("mmv evaluate", path))


def test_one_task_may_be_named_without_brackets():
    config = ConfigDict({"tasks": {"sex": {"kind": "x"}, "age": {"kind": "y"}}, "only": "sex"})
    assert chosen_tasks(config) == {"sex": {"kind": "x"}}


@pytest.mark.parametrize("shares", [(5, 10), (0.0,), (), 0.5, ("1 %",)])
def test_shares_are_no_percentages(shares):
    with pytest.raises(UserError, match="few_shot.shares is"):
        check_few({"shares": shares, "draws": 2})
    with pytest.raises(UserError, match="few_shot.draws is 0"):
        check_few({"shares": (0.5, 1), "draws": 0})


def test_few_shot_and_shifts_take_each_name_once():
    assert check_few({"shares": (0.5, 1, 0.5), "draws": 2}) == {"shares": (0.5, 1), "draws": 2}
    with pytest.raises(UserError, match="config.few_shot.draw does not exist"):
        check_few({"shares": (0.5,), "draw": 2})
    assert check_shifts("low dose") == check_shifts(("low dose",) * 2) == ("low dose",)
    for asked, said in ((5, "must be a list of names"), (("low",), "'low' is not known")):
        with pytest.raises(UserError, match=f"config.shifts.*{said}"):
            check_shifts(asked)
