"""Store, checkpoint and results in a bucket: the same numbers as on a disk."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
from bucket import served
from tiny import KEY, short_rows, write_checkpoint, write_store

from mmv_jax.buckets import kvstore_spec, place
from mmv_jax.cli import main

SEEN = {"key_fingerprint": KEY, "patients": ["CXR-p3"]}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder of this machine and one in a bucket, each with a store and a run."""
    with served("gs"), pytest.MonkeyPatch.context() as patched:
        short_rows(patched)
        folders = tmp_path_factory.mktemp("disk"), place("gs://bucket/there")
        for folder in folders:
            write_store(folder / "store", 12)
            write_checkpoint(folder / "run", SEEN)
        yield folders


def on(folder: Path, words: str) -> None:
    assert main(words.replace("{}", str(folder)).split()) == 0


@pytest.mark.full
def test_an_evaluation_in_a_bucket_is_that_on_a_disk(both, capsys):
    words = "evaluate --store {}/store --checkpoint {}/run --label left"
    for folder in both:
        on(folder, words)
    here, there = (folder / "run" / "evaluate" for folder in both)
    for name in ("metrics.json", "comparisons.json"):
        assert json.loads((there / name).read_text()) == json.loads((here / name).read_text())
    names = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    assert set(there.below()) == names and "report.html" in names
    assert "report: gs://bucket/there/run/evaluate/report.html" in capsys.readouterr().out
    # What was encoded is read back, and the page is made again from its contents.
    on(both[1], words)
    page = (there / "report.html").read_bytes()
    (there / "report.html").unlink()
    on(both[1], "report {}/run/evaluate")
    assert (there / "report.html").read_bytes() == page


def test_features_and_patch_tokens_go_into_a_bucket(both):
    for folder in both:
        on(folder, "embed --checkpoint {}/run --store {}/store --out {}/out --tokens cls,patch")
    here, there = (folder / "out" for folder in both)
    tables = [
        pd.read_parquet(io.BytesIO((folder / "features.parquet").read_bytes()))
        for folder in (here, there)
    ]
    pd.testing.assert_frame_equal(*tables)
    arrays = []
    for folder in (here, there):
        spec = {"driver": "zarr3", "kvstore": kvstore_spec(folder / "patches.zarr")}
        arrays.append(ts.open(spec, open=True).result().read().result())
    np.testing.assert_array_equal(*arrays)
    on(
        both[1],
        "export --checkpoint {}/run --format safetensors --out " + str(here / "e.safetensors"),
    )
