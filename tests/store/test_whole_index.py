"""One index beside those of the parts: the same table, and no loss where it is damaged."""

import numpy as np
import pandas as pd
import pytest
from planted import read_npy, volumes, write_manifest

from mmv_jax.errors import UserError
from mmv_jax.store.index import read_index, read_whole_index, remove_whole_index
from mmv_jax.store.ingest import ingest
from mmv_jax.store.inspect import verify
from mmv_jax.store.layout import open_root
from mmv_jax.store.read import Store


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
