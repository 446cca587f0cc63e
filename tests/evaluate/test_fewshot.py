"""Few-shot curves on features whose worth is known."""

import numpy as np
import pandas as pd
import pytest

from mmv_jax.evaluate.fewshot import few_shot
from mmv_jax.evaluate.tasks import make_task

N, SHARES = 800, (0.01, 0.05, 0.25)


def an_index(rng):
    label = (rng.uniform(size=N) < 0.2).astype(float)
    return pd.DataFrame({
        "study": [f"s{i}" for i in range(N)], "patient": [f"p{i // 2}" for i in range(N)], "modality": "CXR", "masks": "", "ndim": 2,
        "split": np.repeat(np.resize(["train", "train", "val", "test"], N // 2), 2), "label_finding": label, "label_age": rng.uniform(20, 90, N),
    })  # fmt: skip


@pytest.fixture(scope="module")
def studies():
    rng = np.random.default_rng(0)
    index = an_index(rng)
    x = rng.normal(size=(N, 24)).astype(np.float32)
    x[:, 0] += 2.5 * index["label_finding"]
    x[:, 1] += index["label_age"] / 20
    return index, x


@pytest.mark.parametrize("kind, label, better", [("classification", "finding", np.greater), ("regression", "age", np.less)])
def test_more_patients_are_better_and_the_curve_says_how_many(studies, kind, label, better):
    index, x = studies
    task = make_task(index, "t", kind=kind, label=label)
    curve = few_shot("trained", x[task.studies], task, shares=SHARES, draws=4)
    assert [p.patients for p in curve] == [2, 10, 50]
    assert better(curve[2].value.value, curve[0].value.value)
    assert curve[2].value.high - curve[2].value.low < curve[0].value.high - curve[0].value.low
    assert curve[1].key == f"{'auroc' if kind == 'classification' else 'mae'}@train=5%"


def test_two_patients_show_both_classes(studies):
    index, x = studies
    task = make_task(index, "t", kind="classification", label="finding")
    assert few_shot("trained", x[task.studies], task, shares=(0.01,), draws=5)[0].value.value > 0.6


def test_labels_of_test_and_of_patients_that_were_not_drawn_change_nothing(studies):
    index, x = studies
    task = make_task(index, "t", kind="classification", label="finding")
    other = index.copy()
    flipped = (other["split"] == "test").to_numpy()
    other.loc[flipped, "label_finding"] = 1 - other.loc[flipped, "label_finding"]
    turned = make_task(other, "t", kind="classification", label="finding")
    ours, theirs = (few_shot("e", x[t.studies], t, shares=(0.05,), draws=3)[0].value.value for t in (task, turned))
    assert ours == pytest.approx(1 - theirs)  # the same predictions, the other way round
