"""One index beside those of the parts: the same table, and no loss where it is damaged."""

import numpy as np
import pandas as pd
import pytest
from planted import read_npy, volumes, write_manifest

from mmv_jax.errors import UserError
from mmv_jax.store.edit import deal_splits, merge, remove
from mmv_jax.store.index import Corrupt, read_index, read_whole_index, remove_whole_index
from mmv_jax.store.ingest import ingest
from mmv_jax.store.inspect import verify
from mmv_jax.store.layout import open_root, remove_part
from mmv_jax.store.read import Store, read_about, write_about


@pytest.fixture
def two_ingests(tmp_path):
    """A store whose second manifest has other columns than its first."""
    manifests = [
        write_manifest(tmp_path / name, volumes(3, shape), first=first, **columns)
        for name, shape, first, columns in (
            ("a", (1, 20, 30), 0, {"age": ["30", "", "41"], "view": ["AP", "PA", "AP"]}),
            ("b", (4, 9, 10), 3, {"score": ["1.5", "2", ""]}),
        )
    ]
    for manifest in manifests:
        ingest([manifest], tmp_path / "store", engine="here", read_fn=read_npy)
    return tmp_path / "store"


def test_one_index_says_what_those_of_the_parts_say(two_ingests, monkeypatch):
    root = open_root(two_ingests)
    with monkeypatch.context() as patch:
        patch.setattr("mmv_jax.store.index.read_index", None)  # is not asked
        at_once = read_whole_index(root)
    remove_whole_index(root)
    pd.testing.assert_frame_equal(at_once, read_index(root))
    assert at_once["label_view"].tolist() == ["AP", "PA", "AP", None, None, None]


def test_a_damaged_or_missing_index_of_all_parts_is_no_loss(two_ingests):
    before = Store.open(two_ingests)
    (whole,) = (two_ingests / "index").iterdir()
    whole.write_bytes(whole.read_bytes()[:-9] + b"SENTINELS")
    assert Store.open(two_ingests).digest(range(6)) == before.digest(range(6))
    whole.unlink()
    assert Store.open(two_ingests).digest(range(6)) == before.digest(range(6))


def test_parts_that_are_closed_are_opened_again(two_ingests, monkeypatch):
    monkeypatch.setattr("mmv_jax.store.read.OPEN_PARTS", 1)
    store = Store.open(two_ingests)
    first = [store.read_study(i).voxels for i in range(6)]
    for i in (5, 0, 4, 1):
        np.testing.assert_array_equal(store.read_study(i).voxels, first[i])
        assert len(store._arrays) == 1


def test_the_index_of_all_parts_is_gone_while_an_ingest_writes_and_stays_where_one_is_refused(
    two_ingests, tmp_path
):
    (tmp_path / "bad.csv").write_text("nothing\n1\n")
    with pytest.raises(UserError):
        ingest([tmp_path / "bad.csv"], two_ingests, engine="here", read_fn=read_npy)
    assert list((two_ingests / "index").iterdir())
    manifest = write_manifest(tmp_path / "c", volumes(2), first=6)
    left = []
    ingest(
        [manifest],
        two_ingests,
        engine="here",
        read_fn=read_npy,
        progress=lambda *_: left.append([*two_ingests.glob("index/*")]),
    )
    assert left
    assert not any(left)
    assert len(Store.open(two_ingests)) == 8


def test_a_damaged_index_of_a_part_is_found_by_verify(two_ingests):
    path = next(two_ingests.glob("parts/*/index-*.parquet"))
    path.write_bytes(path.read_bytes()[:-9] + b"SENTINELS")
    assert len(Store.open(two_ingests)) == 6
    assert [fault for fault in verify(two_ingests) if "index of part" in fault]


def test_a_part_that_is_gone_with_its_index_is_told(two_ingests, tmp_path):
    root = open_root(two_ingests)
    remove_whole_index(root)
    assert len(Store.open(two_ingests)) == 6
    part = Store.open(two_ingests).index["part"].iloc[0]
    remove_part(root, part)
    gone = "has 3 of its 6 studies: parts of it are gone"
    changes = {
        "open": lambda: Store.open(two_ingests),
        "split": lambda: deal_splits(two_ingests, (8, 1, 1)),
        "merge": lambda: merge([two_ingests], tmp_path / "joined"),
        "remove": lambda: remove(two_ingests, [tmp_path / "b/manifest.csv"]),
    }
    for change in changes.values():
        with pytest.raises(Corrupt, match=gone):
            change()
    options = {"engine": "here", "read_fn": read_npy}
    report = ingest([tmp_path / "a/manifest.csv"], two_ingests, **options)
    assert (report.lost, report.ingested) == (3, 3)
    assert "3 studies of the store were gone" in str(report)
    assert len(Store.open(two_ingests)) == 6


def test_a_store_of_an_earlier_version_does_not_say_how_many_it_had(two_ingests):
    root = open_root(two_ingests)
    about = read_about(root)
    assert about.pop("studies") == 6
    write_about(root, about)
    remove_whole_index(root)
    remove_part(root, Store.open(two_ingests).index["part"].iloc[0])
    assert len(Store.open(two_ingests)) == 3


def test_a_count_follows_what_is_taken_out_and_joined(two_ingests, tmp_path):
    remove(two_ingests, [tmp_path / "b/manifest.csv"])
    remove_whole_index(open_root(two_ingests))
    assert len(Store.open(two_ingests)) == 3
    merge([two_ingests], tmp_path / "joined")
    assert read_about(open_root(tmp_path / "joined"))["studies"] == 3
