"""A task in nnU-Net's folders: the script that the documentation shows."""

import importlib.util
import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from examples import FOLDER
from tiny import write_store

from mmv_jax.errors import UserError

CONFIG = """
from ml_collections import ConfigDict
def get_config():
    c = ConfigDict({"data": {"store": "STORE"}})
    c.tasks = {
        "ball": {"kind": "segmentation", "mask": "disc_mask", "where": {"modality": "CT"}},
        "left": {"kind": "classification", "label": "left"},
    }
    return c
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("nnunet_task", FOLDER / "nnunet_task.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exported(script, tmp_path_factory):
    """(words of the command, folder): the volumes of a tiny store, exported."""
    folder = tmp_path_factory.mktemp("nnunet")
    write_store(folder / "store", n=16)
    (folder / "config.py").write_text(CONFIG.replace("STORE", str(folder / "store")))
    words = ["--config", str(folder / "config.py"), "--task", "ball"]
    script.main(["export", *words, "--out", str(folder / "raw")])
    return words, folder


def test_the_folders_are_those_of_nnunet(exported):
    _, folder = exported
    raw, names = folder / "raw", {}
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        names[part] = {path.name.removesuffix(".nii.gz") for path in (raw / part).iterdir()}
    assert names["imagesTr"] == {f"{name}_0000" for name in names["labelsTr"]}
    assert not names["imagesTr"] & names["imagesTs"]
    (split,) = json.loads((raw / "splits_final.json").read_text())
    assert sorted(split["train"] + split["val"]) == sorted(names["labelsTr"])
    dataset = json.loads((raw / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "CT"} and dataset["labels"]["ball"] == 1
    assert dataset["numTraining"] == 12
    case = split["val"][0]
    image = nibabel.load(raw / "imagesTr" / f"{case}_0000.nii.gz")
    label = np.asarray(nibabel.load(raw / "labelsTr" / f"{case}.nii.gz").dataobj)
    assert image.shape == label.shape == (20, 24, 12)
    assert image.header.get_zooms() == (1.5, 1.5, 2.0)
    # A ball is brighter than what is around it.
    values = image.get_fdata()
    assert values[label == 1].min() > values[label == 0].max()


def test_masks_are_scored_on_the_truth_of_the_store_and_beside_an_evaluation(
    script, exported, capsys
):
    words, folder = exported
    masks = folder / "masks"
    masks.mkdir()
    store, task = script.read_task(script.load_config(folder / "config.py"), "ball")
    test = task.studies[task.split == "test"].tolist()
    truths = [script._labels(store, task, study) for study in test]
    # The last mask is empty, all others are the truth.
    for study, labels in zip(test, [*truths[:-1], 0 * truths[-1]]):
        path = masks / f"{store.index['study'].iloc[study]}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(labels.T, np.eye(4)), path)
    beside = folder / "evaluate"
    beside.mkdir()
    table = pd.DataFrame({"task": "ball", "encoder": "trained", "dice": np.full(len(test), 0.5)})
    table.to_parquet(beside / "predictions.parquet")
    more = ["--masks", str(masks), "--beside", str(beside), "--out", str(folder / "out")]
    script.main(["score", *words, *more])
    found = json.loads((folder / "out" / "metrics.json").read_text())["ball"]["nnunet"]["dice"]
    assert found["value"] == pytest.approx(1 - 1 / len(test))
    assert f"minus trained: +{0.5 - 1 / len(test):.3f}" in capsys.readouterr().out


def test_what_nnunet_cannot_learn_is_refused(script, exported, tmp_path):
    words, _ = exported
    with pytest.raises(UserError, match="must be a segmentation"):
        script.main(["export", *words[:-1], "left", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="no task 'heart'"):
        script.main(["export", *words[:-1], "heart", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="is missing"):
        script.main(["score", *words, "--masks", str(tmp_path), "--out", str(tmp_path)])
