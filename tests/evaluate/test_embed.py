"""What `embed` leaves for others to read."""

import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tensorstore as ts
from tiny import short_rows, write_checkpoint, write_store

from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders import features
from mmv_jax.evaluate.encoders.embed import embed
from mmv_jax.store.read import Store


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    write_store(folder / "store", n=10)
    write_checkpoint(folder / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(features, "CHUNK", 3)  # several parts
        short_rows(patched)
        embed(folder / "run", folder / "store", folder / "out", tokens=("cls", "patch"))
    return folder


def test_the_table_has_a_row_a_study_with_its_labels(embedded):
    table, index = (
        pd.read_parquet(embedded / "out" / "features.parquet"),
        Store.open(embedded / "store").index,
    )
    assert table["study"].tolist() == index["study"].tolist()
    assert table["patient"].tolist() == index["patient"].tolist()
    assert table["manifest"].tolist() == index["manifest"].tolist()
    assert {"line", "split", "modality", "cls", "patch_mean", "left", "radius", "source"} <= set(
        table
    )
    assert {len(x) for x in table["cls"]} == {len(x) for x in table["patch_mean"]} == {64}


def test_the_patch_tokens_of_a_study_have_its_mean(embedded):
    table = pd.read_parquet(embedded / "out" / "features.parquet")
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(embedded / "out" / "patches.zarr")},
    }
    tokens = ts.open(spec, open=True).result().read().result()
    assert len(tokens) == table["patches"].sum()
    for _, line in table.iterrows():
        own = tokens[line["first_patch"] : line["first_patch"] + line["patches"]]
        np.testing.assert_allclose(own.mean(axis=0), line["patch_mean"], atol=1e-6)
        assert (
            len(line["patch_z"]) == len(line["patch_y"]) == len(line["patch_x"]) == line["patches"]
        )


def test_every_file_says_what_it_was_made_with(embedded):
    out = embedded / "out"
    kept = json.loads((out / "provenance.json").read_text())
    of_table = json.loads(pq.read_schema(out / "features.parquet").metadata[b"mmv_jax"])
    of_tokens = json.loads((out / "patches.zarr" / "zarr.json").read_text())["attributes"]
    assert kept == of_table == of_tokens["mmv_jax"]
    assert kept["checkpoint"] == "run" and kept["step"] == 1 and len(kept["digest"]) == 16
    assert kept["store"] == "store"
    assert kept["store_digest"] == Store.open(embedded / "store").digest(range(20))
    assert kept["config"] == {"tokens": ["cls", "patch"], "rows": {"length": 128, "rows": 1}}


@pytest.mark.parametrize("stopped", ["_chunks", "write_table"])  # before the tokens, and the table
def test_no_table_lies_beside_tokens_that_are_half_written(
    stopped, embedded, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    shutil.copytree(embedded / "out", out)
    short_rows(monkeypatch)
    call = partial(embed, embedded / "run", embedded / "store", out, tokens=("cls", "patch"))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"mmv_jax.evaluate.encoders.embed.{stopped}", stop)
        with pytest.raises(KeyboardInterrupt):
            call()
    assert not (out / "features.parquet").exists()
    call()
    tables = [pd.read_parquet(folder / "features.parquet") for folder in (embedded / "out", out)]
    pd.testing.assert_frame_equal(*tables)


def test_features_of_another_checkpoint_are_refused_and_stay(embedded, tmp_path):
    other, table = write_checkpoint(tmp_path / "other", seed=5), embedded / "out/features.parquet"
    before = table.read_bytes()
    with pytest.raises(UserError, match=r"holds the results of run, step 1 .* Give another --out"):
        embed(other, embedded / "store", embedded / "out")
    assert table.read_bytes() == before


def test_a_table_is_not_written_beside_tokens_that_it_does_not_name(embedded):
    table = embedded / "out/features.parquet"
    before = table.read_bytes()
    with pytest.raises(UserError, match="holds patches.zarr of an earlier call"):
        embed(embedded / "run", embedded / "store", embedded / "out")
    assert table.read_bytes() == before


def test_an_unknown_kind_of_tokens_is_told(embedded):
    with pytest.raises(UserError, match="registers"):
        embed(embedded / "run", embedded / "store", embedded / "out", tokens=("registers",))
