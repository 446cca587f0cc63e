"""`mmv key`: the keyed names of a store beside one's own identifiers."""

import csv

import pytest
from planted import read_npy, volumes, write_manifest

from mmv_jax.cli import main
from mmv_jax.errors import UserError
from mmv_jax.readers.deidentify import Key
from mmv_jax.store.identifiers import COLUMNS, write_identifiers
from mmv_jax.store.ingest import ingest
from mmv_jax.store.read import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("key")
    manifest = write_manifest(folder / "in", volumes(3))
    ingest([manifest], folder / "store", engine="here", read_fn=read_npy)
    return folder, manifest


def test_each_study_of_the_store_gets_its_own_name_back(made, tmp_path, capsys):
    folder, manifest = made
    out = tmp_path / "names.csv"
    words = ["key", folder / "store", manifest, "--key", folder / "store.key", "--out", out]
    assert main(list(map(str, words))) == 0
    told = capsys.readouterr().out
    assert "3 of the store's 3 studies" in told and "SENTINEL" not in told
    lines, key = list(csv.DictReader(out.read_text().splitlines())), Key.load(folder / "store.key")
    index = Store.open(folder / "store").index
    assert tuple(lines[0]) == COLUMNS
    assert [line["study"] for line in lines] == index["study"].tolist()
    assert [int(line["manifest"]) for line in lines] == index["manifest"].tolist() == [1, 1, 1]
    for line in lines:
        assert line["study_id"].startswith("SENTINEL-study")
        assert key.hash("study", line["study_id"]) == line["study"]
        assert key.hash("patient", line["patient_id"]) == line["patient"]
    assert out.stat().st_mode & 0o077 == 0  # for its owner alone


def test_what_does_not_belong_together_is_refused_and_nothing_written(made, tmp_path):
    folder, manifest = made
    store, key = folder / "store", folder / "store.key"
    Key.create(tmp_path / "other.key")
    header, *lines = manifest.read_text().splitlines()
    strange = tmp_path / "strange.csv"
    strange.write_text("\n".join([header, *(x.replace("SENTINEL", "other") for x in lines)]))
    with pytest.raises(UserError, match="the store names its studies by the key"):
        write_identifiers(store, [manifest], tmp_path / "other.key", tmp_path / "out.csv")
    with pytest.raises(UserError, match="No study of these manifests"):
        write_identifiers(store, [strange], key, tmp_path / "out.csv")
    with pytest.raises(UserError, match="give the name of a file in a folder"):
        write_identifiers(store, [manifest], key, tmp_path / "absent" / "out.csv")
    assert not (tmp_path / "out.csv").exists()
