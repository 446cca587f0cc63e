"""What `embed` leaves for others to read."""

import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
from tiny import write_checkpoint, write_store

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
        embed(folder / "run", folder / "store", folder / "out", tokens=("cls", "patch"))
    return folder


def test_the_table_has_a_row_a_study_with_its_labels(embedded):
    table, index = (
        pd.read_parquet(embedded / "out" / "features.parquet"),
        Store.open(embedded / "store").index,
    )
    assert table["study"].tolist() == index["study"].tolist()
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


def test_an_unknown_kind_of_tokens_is_told(embedded):
    with pytest.raises(UserError, match="registers"):
        embed(embedded / "run", embedded / "store", embedded / "out", tokens=("registers",))
