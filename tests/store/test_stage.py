"""A copy of a store on another disk: whole, gone on with where it was cut off, never of two."""

import pytest

from mmv_jax.errors import UserError
from mmv_jax.store.layout import STORE_JSON, open_root
from mmv_jax.store.stage import stage

OBJECTS = {"part-0/index.parquet": b"rows", "part-0/blocks/c/0": b"\x00" * 99, STORE_JSON: b"{}"}


def write(folder, objects=OBJECTS):
    for key, value in objects.items():
        open_root(folder).write(key, value).result()
    return str(folder)


def found(folder):
    root = open_root(folder)
    return {key.decode(): root.read(key).result().value for key in root.list().result()}


def test_a_copy_is_whole_and_is_not_made_twice(tmp_path):
    store, seen = write(tmp_path / "store"), []
    assert stage(store, tmp_path / "copy", lambda done, total: seen.append((done, total))) == 3
    assert found(tmp_path / "copy") == OBJECTS and seen == [(3, 3)]
    assert stage(store, tmp_path / "copy", lambda *_: None) == 0


def test_a_copy_that_was_cut_off_goes_on_and_is_no_store_before(tmp_path):
    store = write(tmp_path / "store")
    write(tmp_path / "copy", {"part-0/index.parquet": b"rows"})
    assert STORE_JSON not in found(tmp_path / "copy")
    assert stage(store, tmp_path / "copy", lambda *_: None) == 2
    assert found(tmp_path / "copy") == OBJECTS


def test_what_is_no_store_and_a_folder_with_another_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not a store"):
        stage(write(tmp_path / "x", {"a": b"b"}), tmp_path / "copy", lambda *_: None)
    write(tmp_path / "copy", {STORE_JSON: b'{"other": 1}'})
    with pytest.raises(UserError, match="another store"):
        stage(write(tmp_path / "store"), tmp_path / "copy", lambda *_: None)
