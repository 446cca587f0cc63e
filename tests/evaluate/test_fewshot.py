"""Few-shot curves on features whose worth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mmv_jax.evaluate import fewshot
from mmv_jax.evaluate.fewshot import few_shot, few_shot_masks
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.evaluate.tasks.scenes import Scene, tiles

N, SHARES = 800, (0.01, 0.05, 0.25)


def an_index(rng):
    label = (rng.uniform(size=N) < 0.2).astype(float)
    return pd.DataFrame(
        {
            "study": [f"s{i}" for i in range(N)],
            "patient": [f"p{i // 2}" for i in range(N)],
            "modality": "CXR",
            "masks": "",
            "ndim": 2,
            "split": np.repeat(np.resize(["train", "train", "val", "test"], N // 2), 2),
            "label_finding": label,
            "label_age": rng.uniform(20, 90, N),
        }
    )


@pytest.fixture(scope="module")
def studies():
    rng = np.random.default_rng(0)
    index = an_index(rng)
    x = rng.normal(size=(N, 24)).astype(np.float32)
    x[:, 0] += 2.5 * index["label_finding"]
    x[:, 1] += index["label_age"] / 20
    return index, x


@pytest.mark.parametrize(
    "kind, label, better",
    [("classification", "finding", np.greater), ("regression", "age", np.less)],
)
def test_more_patients_are_better_and_the_curve_says_how_many(studies, kind, label, better):
    index, x = studies
    task = make_task(index, "t", kind=kind, label=label)
    curve = few_shot("trained", x[task.studies], task, shares=SHARES, draws=4)
    # Of 200 patients of train and 100 of val, two of each at least.
    assert [(p.patients, p.val_patients) for p in curve] == [(4, 2), (15, 5), (75, 25)]
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
    ours, theirs = (
        few_shot("e", x[t.studies], t, shares=(0.05,), draws=3)[0].value.value
        for t in (task, turned)
    )
    assert ours == pytest.approx(1 - theirs)  # the same predictions, the other way round


@pytest.mark.parametrize("kind, label", [("classification", "finding"), ("regression", "age")])
def test_labels_of_val_beyond_the_share_choose_nothing(studies, monkeypatch, kind, label):
    """Five patients of val are drawn. With the labels of all others turned round no point changes,
    and with theirs one does.
    """
    index, x = studies
    task = make_task(index, "t", kind=kind, label=label)
    x, val = x[task.studies], task.split == "val"
    # Which patients show a class follows from labels; here it is drawn, so that the draw stays.
    plain = fewshot._orders
    monkeypatch.setattr(fewshot, "_orders", lambda patients, _, draws: plain(patients, (), draws))
    drawn = np.isin(task.patients, plain(task.patients[val], (), 1)[0][:5]) & val

    def curve(turned):
        labels = np.where(turned, task.labels.max() - task.labels, task.labels)
        return few_shot("e", x, replace(task, labels=labels), shares=(0.05,), draws=1)

    assert curve(val & ~drawn) == curve(np.zeros_like(val))
    assert curve(drawn) != curve(np.zeros_like(val))


@pytest.fixture(scope="module")
def outlined():
    """(task, scenes): boxes in every fourth patient's studies; a token is a noisy projection of its
    patch's mask.
    """
    rng, n, kept = np.random.default_rng(1), 160, np.ones((1, 3, 4), bool)
    index = (
        an_index(rng)
        .iloc[:n]
        .assign(
            split=np.repeat(np.resize(["train", "train", "val", "test"], n // 2), 2), masks="box"
        )
    )
    projection, scenes = rng.normal(size=(16, 60)), []
    for i in range(n):
        truth = np.zeros((1, 12, 16), bool)
        y, x = rng.integers(0, 6, 2)
        truth[:, y : y + 6, x : x + 7] = (i // 2) % 16 >= 12
        tokens = tiles(truth, kept) @ projection + 6 * rng.normal(size=(12, 60))
        scenes.append(Scene(tokens.astype(np.float32), kept, truth, 1.0))
    return make_task(index, "t", kind="segmentation", mask="box"), scenes


def test_more_patients_outline_better_and_the_first_one_has_the_structure(outlined):
    task, scenes = outlined
    curve = few_shot_masks("trained", {"all": scenes}, task, shares=(1.0, 0.01), draws=4)
    assert [(p.patients, p.val_patients) for p in curve] == [(4, 2), (60, 20)]
    assert 0.1 < curve[0].value.value < curve[1].value.value - 0.05
    assert (
        curve[1].value.n
        == sum(scene.truth.any() for scene, s in zip(scenes, task.split) if s == "test")
        > 0
    )
    assert curve[1].key == "dice@train=100%"


def test_masks_of_patients_that_were_not_drawn_change_nothing(outlined):
    """With two patients of train drawn and two of val, moving the masks of any other one leaves the
    curve as it is.
    """
    task, scenes = outlined
    plain = few_shot_masks("e", {"all": scenes}, task, shares=(0.01,), draws=1)
    same = {}
    for part in ("train", "val"):
        for patient in np.unique(task.patients[task.split == part]):
            moved = [
                replace(scene, truth=~scene.truth) if name == patient else scene
                for scene, name in zip(scenes, task.patients)
            ]
            curve = few_shot_masks("e", {"all": moved}, task, shares=(0.01,), draws=1)
            same.setdefault(part, []).append(curve == plain)
    assert sum(same["train"]) == len(same["train"]) - 2
    # Those two of val may choose the same penalty and threshold again.
    assert sum(same["val"]) >= len(same["val"]) - 2


def test_the_masks_of_test_choose_nothing(outlined, monkeypatch):
    """Moved, they change the scores and no prediction."""
    task, scenes = outlined
    moved = [
        replace(scene, truth=np.roll(scene.truth, 5, axis=2)) if s == "test" else scene
        for scene, s in zip(scenes, task.split)
    ]
    found = []
    monkeypatch.setattr(fewshot, "_dice", lambda values, scene, t: found.append(values > t) or 0.0)
    for given in (scenes, moved):
        few_shot_masks("e", {"all": given}, task, shares=(0.05,), draws=2)
    ours, theirs = found[: len(found) // 2], found[len(found) // 2 :]
    assert len(ours) == 2 * sum(
        scene.truth.any() for scene, s in zip(scenes, task.split) if s == "test"
    )
    assert all((a == b).all() for a, b in zip(ours, theirs))
