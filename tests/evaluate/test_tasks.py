"""Tasks from an index: who is in them, with which truth, and what a user is told."""

import numpy as np
import pandas as pd
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.make import make_task


def index_of(n=12):
    """Four patients a split, in turn; half of the studies from each of two sources."""
    return pd.DataFrame(
        {
            "study": [f"s{i}" for i in range(n)],
            "patient": [f"p{i}" for i in range(n)],
            "split": np.resize(["train", "val", "test"], n),
            "modality": "CXR",
            "ndim": np.where(np.arange(n) < 3, 3, 2),
            "masks": np.where(np.arange(n) < 6, "anatomy_mask,findings_mask", ""),
            "label_source": np.where(np.arange(n) < 6, "A", "B"),
            "label_sex": [None, *np.resize(["F", "F", "F", "M", "M", "M"], n - 1)],
            "label_age": np.r_[np.nan, np.arange(1.0, n)],
            "label_view": "PA",
            "label_tube": np.resize(["yes", "yes", "", "no", "no", ""], n),
        }
    )


def test_studies_without_a_label_are_left_out():
    task = make_task(index_of(), "sex", kind="classification", label="sex", positive="M")
    assert task.studies.tolist() == list(range(1, 12))
    assert task.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    assert make_task(index_of(), "age", kind="regression", label="age").labels.tolist() == list(
        range(1, 12)
    )


def test_where_keeps_one_source_or_several():
    only = make_task(
        index_of(),
        "age",
        kind="regression",
        label="age",
        where={"source": "B", "modality": ["CXR", "CT"]},
    )
    assert only.studies.tolist() == list(range(6, 12))
    both = make_task(
        index_of(), "age", kind="regression", label="age", where={"source": ["A", "B"]}
    )
    assert len(both) == 11


def test_numbers_are_compared_as_numbers():
    index = index_of().assign(label_abnormal=np.resize([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], 12))
    assert (
        make_task(
            index, "abnormal", kind="classification", label="abnormal", positive=1
        ).labels.sum()
        == 6
    )


def test_a_segmentation_has_the_studies_with_its_mask_and_reads_values_or_flags():
    planar = index_of().assign(ndim=2)
    values = make_task(planar, "lungs", kind="segmentation", mask="anatomy_mask", values=(1, 2))
    flags = make_task(planar, "fluid", kind="segmentation", mask="findings_mask", flags=4)
    mask = np.array([[[0, 1, 2, 3, 4, 5, 12]]])
    assert values.studies.tolist() == list(range(6))
    assert values.structure(mask)[0, 0].tolist() == [False, True, True, False, False, False, False]
    assert flags.structure(mask)[0, 0].tolist() == [False, False, False, False, True, True, True]


def test_a_part_of_a_task_keeps_its_lines_together():
    task = make_task(index_of(), "sex", kind="classification", label="sex", positive="M")
    part = task[task.split == "test"]
    assert part.studies.tolist() == [2, 5, 8, 11]
    assert part.labels.tolist() == [0, 1, 0, 1]
    assert part.patients.tolist() == ["p2", "p5", "p8", "p11"]


MISTAKES = {
    "kind": ({"kind": "guess"}, "Use one of classification"),
    "label": ({"kind": "regression", "label": "weight"}, "age, sex"),
    "text as number": ({"kind": "regression", "label": "sex"}, "are no finite numbers"),
    "value": (
        {"kind": "classification", "label": "sex", "positive": "X"},
        r"positive is 'X', which no study has. 'sex' has the values F \(6\), M \(5\)",
    ),
    "text of numbers": (
        {"kind": "classification", "label": "age", "positive": "M"},
        "positive is 'M', but the store holds numbers",
    ),
    "text of numbers in where": (
        {"kind": "regression", "label": "age", "where": {"age": ["old"]}},
        "where.age is .'old'., but",
    ),
    "where": (
        {"kind": "regression", "label": "age", "where": {"source": "C"}},
        r"'C', which no study has. There are: A \(6\), B \(6\)",
    ),
    "column of where": (
        {"kind": "regression", "label": "age", "where": {"origin": "A"}},
        "no column 'origin'",
    ),
    "mask": ({"kind": "segmentation", "mask": "liver_mask"}, "liver_mask"),
    "both dimensionalities": (
        {"kind": "segmentation", "mask": "anatomy_mask"},
        "3 of 6 studies are planar, the others volumetric",
    ),
    "confounder": (
        {"kind": "regression", "label": "age", "confounders": {"view": {}}},
        "confounders",
    ),
    "empty confounder": (
        {"kind": "classification", "label": "sex", "positive": "M", "confounders": {"tube": {}}},
        "confounders.tube: no study of split .test. has a value",
    ),
}


@pytest.mark.parametrize("group, said", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_the_config_is_told(group, said):
    with pytest.raises(UserError, match=said) as told:
        make_task(index_of(), "mine", **group)
    assert "config.tasks.mine" in str(told.value)


def test_a_split_without_studies_is_told():
    with pytest.raises(UserError, match="no study of split 'val'"):
        make_task(
            index_of().replace({"split": {"val": "train"}}), "age", kind="regression", label="age"
        )


def test_a_task_says_whether_its_sides_may_be_exchanged():
    age = {"kind": "regression", "label": "age"}
    assert make_task(index_of(), "age", **age).mirror
    assert not make_task(index_of(), "age", **age, mirror=False).mirror
    with pytest.raises(UserError, match="config.tasks.age.mirror is 'no'"):
        make_task(index_of(), "age", **age, mirror="no")
