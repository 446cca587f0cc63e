"""Cross-validation on train and val: every study once, by a probe that has not seen its patient."""

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict
from tiny import tiny_config, write_checkpoint, write_store

from mmv_jax.errors import UserError
from mmv_jax.evaluate.folds import check_folds, fold_of, pool_folds, split_folds
from mmv_jax.evaluate.measure import result_of_vector
from mmv_jax.evaluate.run import evaluate
from mmv_jax.evaluate.subgroups import _column_alone
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.evaluate.tasks.task import Task


def make_task(patients: int = 60) -> Task:
    rng = np.random.default_rng(0)
    # two studies a patient, a quarter of the patients in test
    split = np.repeat(rng.permutation(["train", "train", "val", "test"] * (patients // 4)), 2)
    return Task(
        name="left",
        kind="classification",
        studies=np.arange(2 * patients) + 7,
        split=split,
        patients=np.repeat([f"p{i}" for i in range(patients)], 2),
        labels=rng.integers(0, 2, 2 * patients).astype(float),
    )


def test_every_study_outside_test_is_measured_once_and_patients_stay_together():
    task = make_task()
    folds = split_folds(task, 5, seed=1)
    measured = [fold.studies[fold.split == "test"] for fold in folds]
    assert sorted(np.concatenate(measured)) == sorted(task.studies[task.split != "test"])
    for fold in folds:
        of_split = {s: set(fold.patients[fold.split == s]) for s in ("train", "val", "test")}
        assert not of_split["train"] & of_split["test"] and not of_split["val"] & of_split["test"]
        assert all(of_split.values())


def test_a_patients_fold_does_not_depend_on_the_task():
    patients = np.array([f"p{i}" for i in range(40)])
    whole, part = fold_of(patients, 5, seed=3), fold_of(patients[::3], 5, seed=3)
    np.testing.assert_array_equal(whole[::3], part)
    assert (fold_of(patients, 5, seed=4) != whole).any()


def test_pooled_predictions_stand_at_their_own_study():
    task = make_task()
    # each study's prediction is a function of the study: a wrong order would show
    own = {study: float(np.sin(study)) for study in task.studies.tolist()}
    results = []
    for fold in reversed(split_folds(task, 4, seed=1)):
        test = fold.studies[fold.split == "test"].tolist()
        results.append(
            result_of_vector("trained", np.array([own[s] for s in test]), "strength 1", fold)
        )
    (pooled,), (whole,) = pool_folds(results, [task], 4, seed=1)
    assert (whole.split == "test").all() and pooled.choice == "strength 1 in 4 of 4 folds"
    np.testing.assert_array_equal(pooled.predicted, [own[s] for s in whole.studies.tolist()])
    np.testing.assert_array_equal(pooled.truth, task.labels[task.split != "test"])
    assert pooled.metrics["auroc"].n == len(whole)


@pytest.mark.parametrize(
    "group, words",
    [
        ({"folds": 2}, "config.folds is 2.* at least 3"),
        ({"folds": 5, "few_shot": {"draws": 2}}, "config.few_shot is set"),
        ({"folds": 5, "weights": ("encoder", "student")}, "Name one of the weights"),
    ],
)
def test_what_folds_cannot_measure_is_refused(group, words):
    with pytest.raises(UserError, match=words):
        check_folds(ConfigDict(group))


def test_too_many_folds_are_one_sentence():
    with pytest.raises(UserError, match="config.folds is 40, which are too many here"):
        split_folds(make_task(16), 40, seed=1)


def test_an_evaluation_in_folds_never_reads_a_test_study(tmp_path):
    config = tiny_config(write_store(tmp_path / "store", 24))
    with config.unlocked():
        config.folds = 3
        del config.few_shot
        config.tasks = {name: config.tasks[name] for name in ("radius", "disc")}
    checkpoint = write_checkpoint(tmp_path / "run")
    evaluate(config, checkpoint, tmp_path / "out")
    index = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert set(index["split"]) == {"train", "val"}
    assert not index.duplicated(["task", "encoder", "study"]).any()
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # 24 studies of a modality, of which a quarter is test
    assert found["radius"]["trained"]["mae"]["n"] == 18
    assert found["disc"]["trained"]["dice"]["n"] == 18
    said = (tmp_path / "out" / "report.html").read_text()
    assert "in 3 folds by patient" in said and "18 studies of 9 patients" in said
    flow = json.loads((tmp_path / "out" / "protocol.json").read_text())["flow"]
    # 24 of the other modality and 6 of test are not read
    assert flow["tasks"]["radius"]["elsewhere"] == 30 and flow["in_any_task"] == {"in_folds": 18}
    assert flow["tasks"]["radius"]["unlabelled"] == 0


def test_folds_need_no_test_and_say_nothing_of_one(tmp_path):
    config = tiny_config(write_store(tmp_path / "store", 24, splits=("train",)))
    with config.unlocked():
        del config.few_shot
        config.tasks = {"left": config.tasks["left"]}
    checkpoint = write_checkpoint(tmp_path / "run")
    with pytest.raises(UserError, match="no study of split 'val'"):
        evaluate(config, checkpoint, tmp_path / "out")
    config.unlock()
    config.folds = 3
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a mean of no label
        told = evaluate(config, checkpoint, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    own = found["left"]["trained"]
    assert own["auroc"]["n"] == 24
    # Each study's group has the rate of the other folds, which is known.
    assert own["auroc@radius:alone"]["value"] is not None
    written = [told, *(path.read_text() for path in (tmp_path / "out").glob("*.[hjc]*"))]
    # A paired test and CLAIM's "annotation of the test set" are no split.
    allowed = "Test was not looked at|of the test set|no task has another test population"
    text = re.sub(rf"paired tests|{allowed}", "", " ".join(written))
    assert len(written) > 6 and not re.findall(r"\b[Tt]est\b.{0,60}", text)


def test_a_column_alone_is_told_from_the_other_folds():
    task, rng = make_task(), np.random.default_rng(3)
    fold = fold_of(task.patients, 4, seed=1)
    names = rng.permutation(np.repeat(["a", "b"], 60))
    whole = replace(task, split=np.full(len(task), "test"), folds=4, fold_of=fold)
    found = _column_alone(whole, names)
    for k, name in ((0, "a"), (3, "b")):
        others = task.labels[(fold != k) & (names == name)]
        assert set(found[(fold == k) & (names == name)]) == {others.mean()}


def test_with_folds_no_patient_of_pretraining_is_measured():
    task = replace(make_task(), folds=4)
    seen = frozenset(
        {task.patients[task.split == "train"][0], *task.patients[task.split == "test"]}
    )
    left = Overlap(seen).without(task)
    measured = {p for fold in split_folds(left, 4, seed=1) for p in fold.patients}
    assert not measured & seen and len(left.left_out) == 2


def test_lesions_are_located_in_folds_and_without(tmp_path):
    config = tiny_config(write_store(tmp_path / "store", 24))
    with config.unlocked():
        own = {"kind": "localisation", "mask": "disc_mask", "where": {"modality": "CXR"}}
        config.tasks = {"disc": own}
        config.few_shot = {"shares": (1.0,), "draws": 1}
    checkpoint = write_checkpoint(tmp_path / "run")
    told = evaluate(config, checkpoint, tmp_path / "once")
    found = json.loads((tmp_path / "once" / "metrics.json").read_text())["disc"]
    assert {"trained", "random", "pixels"} <= set(found) and "disc" in told
    # The disc is much brighter than what surrounds it, so pixels alone find it.
    assert found["pixels"]["froc"]["value"] > 0.9 and found["pixels"]["froc"]["n"] == 6
    with config.unlocked():
        config.folds = 3
        del config.few_shot
    evaluate(config, checkpoint, tmp_path / "folds")
    found = json.loads((tmp_path / "folds" / "metrics.json").read_text())["disc"]
    assert found["pixels"]["froc"]["value"] > 0.9 and found["pixels"]["froc"]["n"] == 18
