"""The key of an ingest: who may read it, what it names, and that nothing written names anybody."""

import stat

import numpy as np
import pytest
from planted import read_npy, volumes, write_manifest

from mmv_jax.errors import UserError
from mmv_jax.readers.deidentify import Key
from mmv_jax.store.ingest import ingest
from mmv_jax.store.read import Store


def test_nothing_that_is_written_names_anybody(tmp_path, capfd):
    contents = [*volumes(3), b"broken", b"die", np.full((2, 2, 2), 1)]
    columns = {
        "remark": [f"SENTINEL remark {n}" for n in range(6)],
        "birthdate": ["19500101"] * 6,
        "view": ["PA"] * 6,
    }
    manifest = write_manifest(tmp_path / "SENTINEL-in", contents, "SENTINEL.csv", **columns)
    report = ingest([manifest], tmp_path / "out" / "store", workers=1, read_fn=read_npy)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 5
    printed = "".join(capfd.readouterr())
    for secret in ("SENTINEL", "19500101", str(tmp_path)):
        assert not [
            path.name
            for path in written
            if secret.encode() in path.read_bytes() or secret in str(path.relative_to(tmp_path))
        ]
        assert secret not in printed
    # told to the user, who named the file
    assert report.not_carried == {"SENTINEL.csv": ["remark", "birthdate"]}


def test_the_key_is_beside_the_store_and_for_its_owner_alone(tmp_path):
    ingest(
        [write_manifest(tmp_path / "in", volumes(2))],
        tmp_path / "store",
        engine="here",
        read_fn=read_npy,
    )
    assert stat.S_IMODE((tmp_path / "store.key").stat().st_mode) == 0o600
    secret = (tmp_path / "store.key").read_text().strip().encode()
    assert not [
        path
        for path in (tmp_path / "store").rglob("*")
        if path.is_file() and secret in path.read_bytes()
    ]


def test_one_patient_has_one_name_under_one_key_and_another_under_another(tmp_path):
    manifest = write_manifest(tmp_path / "in", volumes(2))
    for store, key in (("a", "shared.key"), ("b", "shared.key"), ("c", "other.key")):
        ingest(
            [manifest], tmp_path / store, key_path=tmp_path / key, engine="here", read_fn=read_npy
        )
    a, b, c = (set(Store.open(tmp_path / store).index["patient"]) for store in "abc")
    assert a == b
    assert not a & c


def test_another_key_is_refused(tmp_path):
    manifest = write_manifest(tmp_path / "in", volumes(2))
    ingest([manifest], tmp_path / "store", engine="here", read_fn=read_npy)
    Key.create(tmp_path / "other.key")
    with pytest.raises(UserError, match="names its studies by the key"):
        ingest(
            [manifest],
            tmp_path / "store",
            key_path=tmp_path / "other.key",
            engine="here",
            read_fn=read_npy,
        )
    (tmp_path / "store.key").unlink()
    with pytest.raises(UserError, match="key"):  # and a lost one is not made anew
        ingest([manifest], tmp_path / "store", engine="here", read_fn=read_npy)
    assert not (tmp_path / "store.key").exists()


def test_a_store_that_was_moved_asks_for_its_key_and_goes_on_with_it(tmp_path):
    path = write_manifest(tmp_path / "in", volumes(2))
    options = {"engine": "here", "read_fn": read_npy}
    ingest([path], tmp_path / "old", **options)
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(UserError, match="OLDNAME.key"):
        ingest([path], tmp_path / "new", **options)
    assert not (tmp_path / "new.key").exists()
    more = write_manifest(tmp_path / "in", volumes(3))
    report = ingest([more], tmp_path / "new", key_path=tmp_path / "old.key", **options)
    assert (report.already, report.ingested) == (2, 1)


def test_two_first_ingests_of_one_key_take_the_same(tmp_path, monkeypatch):
    path, create = write_manifest(tmp_path / "in", volumes(2)), Key.create
    made = []

    def late(where):
        made.append(create(where))  # another ingest makes it in this moment
        return create(where)

    monkeypatch.setattr(Key, "create", late)
    ingest([path], tmp_path / "store", key_path=tmp_path / "key", engine="here", read_fn=read_npy)
    assert Store.open(tmp_path / "store").key_fingerprint == made[0].fingerprint
    assert [p.name for p in tmp_path.iterdir() if ".part" in p.name] == []
