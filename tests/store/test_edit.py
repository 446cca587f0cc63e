"""Changes to a store that is there: corrected, removed, split and joined."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import read_npy, volumes, write_manifest

from mmv_jax.errors import UserError
from mmv_jax.store import edit
from mmv_jax.store.edit import deal_splits, merge, remove
from mmv_jax.store.ingest import ingest
from mmv_jax.store.inspect import verify
from mmv_jax.store.layout import open_root
from mmv_jax.store.read import Store

FINDING = [0, 1, 0, 1, 1, 0]


def taken_in(folder: Path, store: Path, contents: list, first: int = 0, **columns):
    path = write_manifest(folder, contents, first=first, **columns)
    return ingest(
        [path],
        store,
        engine="here",
        read_fn=read_npy,
        timeout_s=60.0,
        key_path=folder.parent / "key",
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with two stores of one key, of 4 and 2 studies, two of a patient each."""
    folder = tmp_path_factory.mktemp("made")
    taken_in(folder / "a", folder / "one", volumes(4), finding=FINDING[:4])
    taken_in(folder / "b", folder / "two", volumes(2, seed=1), first=4, finding=FINDING[4:])
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def voxels(store: Path) -> list[np.ndarray]:
    opened = Store.open(store)
    assert verify(store) == []
    return [opened.read_study(i).voxels for i in range(len(opened))]


def test_a_removed_study_is_gone_with_its_voxels(made, copy):
    path = write_manifest(copy / "gone", volumes(1), finding=[0])  # the first study alone
    before = voxels(copy / "one")
    said = remove(copy / "one", [path], copy / "key")
    assert "1 studies were removed" in said and "3 are left" in said
    np.testing.assert_array_equal(voxels(copy / "one"), before[1:])
    # zeros take no room, and no second index still names the study
    assert len(list((copy / "one" / "parts").rglob("index-*"))) == 1
    sizes = [
        sum(file.stat().st_size for file in store.rglob("c/*/*/*/*") if file.is_file())
        for store in (made / "one", copy / "one")
    ]
    assert sizes[1] < 0.85 * sizes[0]
    with pytest.raises(UserError, match="No study"):
        remove(copy / "one", [path], copy / "key")


def test_all_studies_of_a_patient_are_removed_and_can_come_again(copy):
    path = write_manifest(copy / "gone", volumes(1), finding=[0])
    assert "2 studies" in remove(copy / "one", [path], copy / "key", patients=True)
    assert len(Store.open(copy / "one")) == 2
    report = taken_in(copy / "a", copy / "one", volumes(4), finding=FINDING[:4])
    assert (report.ingested, report.already) == (2, 2)
    assert len(voxels(copy / "one")) == 4


def test_a_change_that_was_stopped_is_noticed_and_gone_on_with(copy, monkeypatch):
    path = write_manifest(copy / "gone", volumes(1), finding=[0])

    def stops(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(edit, "replace_index", stops)
    with pytest.raises(KeyboardInterrupt):
        remove(copy / "one", [path], copy / "key")
    monkeypatch.undo()
    for reads in (Store.open, lambda store: ingest([path], store, key_path=copy / "key")):
        with pytest.raises(UserError, match="mmv remove.*stopped"):
            reads(copy / "one")
    # Another change would end by taking the mark away, and a store of halves would pass for whole.
    for changes in (
        lambda store: deal_splits(store, (1, 1, 1)),
        lambda store: merge([store], copy / "joined"),
        lambda store: ingest([path], store, key_path=copy / "key", correct=True),
    ):
        with pytest.raises(UserError, match="mmv remove.*stopped"):
            changes(copy / "one")
    remove(copy / "one", [path], copy / "key")
    assert len(voxels(copy / "one")) == 3


def test_splits_are_dealt_by_patient_and_agree_between_stores(copy):
    for name in ("one", "two"):
        deal_splits(copy / name, (1, 1, 1), seed=3)
    index = Store.open(copy / "one").index
    assert (index.groupby("patient")["split"].nunique() == 1).all()
    once = index["split"].tolist()
    found = set()
    for seed in range(9):
        assert "Studies (patients)" in deal_splits(copy / "one", (1, 1, 1), seed=seed)
        found |= set(Store.open(copy / "one").index["split"])
    assert found == {"train", "val", "test"}
    deal_splits(copy / "one", (1, 1, 1), seed=3)
    assert Store.open(copy / "one").index["split"].tolist() == once
    with pytest.raises(UserError, match="--shares"):
        deal_splits(copy / "one", (1, 1))


def test_stores_of_one_key_are_joined(copy):
    said = merge([copy / "one", copy / "two", copy / "one"], copy / "both")
    assert "6 studies" in said and "4 were in more than one" in said
    joined = voxels(copy / "both")
    np.testing.assert_array_equal(joined, voxels(copy / "one") + voxels(copy / "two"))
    index = Store.open(copy / "both").index
    assert index["manifest"].tolist() == [1, 1, 1, 1, 2, 2]
    assert index["label_finding"].tolist() == FINDING
    with pytest.raises(UserError, match="is a store already"):
        merge([copy / "one"], copy / "both")
    # the joined store takes the manifests as its own
    report = taken_in(copy / "b", copy / "both", volumes(2, seed=1), first=4, finding=FINDING[4:])
    assert (report.ingested, report.already) == (0, 2)


def test_stores_that_do_not_go_together_are_not_joined(copy):
    shares = ((1, 0, 0), (0, 0, 1))
    for name, share in zip(("one", "two"), shares):
        deal_splits(copy / name, share)
    shutil.copytree(copy / "one", copy / "other")
    deal_splits(copy / "other", shares[1])
    with pytest.raises(UserError, match="2 patients.*mmv split"):
        merge([copy / "one", copy / "other"], copy / "both")
    about = json.loads((copy / "two" / "store.json").read_text())
    (copy / "two" / "store.json").write_text(json.dumps(about | {"key_fingerprint": "another"}))
    with pytest.raises(UserError, match="different keys"):
        merge([copy / "one", copy / "two"], copy / "both")
    with pytest.raises(UserError, match="is not a store"):
        remove(copy / "nowhere", [copy / "a" / "manifest.csv"])


def test_corrected_labels_splits_and_voxels_come_into_the_store(copy):
    path = write_manifest(copy / "a", volumes(4), finding=["yes", "no", "no", "yes"])
    table = pd.read_csv(path, dtype=str)
    table.loc[:1, "split"] = "test"  # the first patient moves
    np.save(copy / "a" / "m.npy", np.ones((4, 9, 10), np.int16))
    table.loc[2, "organ_mask"] = "m.npy"
    table.to_csv(path, index=False)
    options = {"workers": 1, "read_fn": read_npy, "timeout_s": 60.0, "key_path": copy / "key"}
    before = voxels(copy / "one")
    report = ingest([path], copy / "one", **options, correct=True)
    assert (report.corrected, report.ingested, report.refused.total()) == (4, 1, 0)
    index = Store.open(copy / "one").index
    assert index["label_finding"].tolist() == ["yes", "no", "no", "yes"]
    assert index["split"].tolist() == ["test", "test", "train", "train"]
    assert index["masks"].tolist() == ["", "", "organ", ""]
    np.testing.assert_array_equal(voxels(copy / "one"), before)
    again = ingest([path], copy / "one", **options)
    assert (again.already, again.told) == (4, {})
    assert (copy / "one" / "warnings.jsonl").read_text() == ""


def test_a_patient_does_not_move_while_a_study_stays_behind(copy):
    path = copy / "a" / "manifest.csv"
    table = pd.read_csv(path, dtype=str)
    table["split"] = "test"
    table.iloc[1:].to_csv(path, index=False)  # the first study of the first patient is not listed
    options = {"workers": 1, "read_fn": read_npy, "timeout_s": 60.0, "key_path": copy / "key"}
    report = ingest([path], copy / "one", **options, correct=True)
    assert report.refused == {"patient_across_splits": 1}
    assert Store.open(copy / "one").index["split"].tolist() == ["train", "train", "test", "test"]
    assert "unfinished" not in (copy / "one" / "store.json").read_text()
    assert open_root(copy / "one").read("quarantine.jsonl").result().value
