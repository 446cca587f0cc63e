"""`load_encoder` of an address: a run, a step and a file in a bucket on loopback."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from bucket import Bucket

import mmv_jax
from mmv_jax.checkpoint import Checkpoints
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.evaluate.encoders.trained import fresh_params
from mmv_jax.export.write import export
from mmv_jax.models.sizes import make_encoder

GROUP = {"size": "nano", "patch": [4, 8, 8], "registers": 1}
CROPS = {"planar": {"global_grid": [4, 64, 64]}, "volume": {"global_grid": [16, 32, 32]}}
CONFIG = {"encoder": GROUP, "rows": {"length": 256}, "crops": CROPS, "data": {}}
RUN = "gs://bucket/runs/chest"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A run of two steps, whose optimizer has a few numbers."""
    folder = tmp_path_factory.mktemp("run")
    network = make_encoder(**GROUP | {"patch": (4, 8, 8)})
    with Checkpoints(folder, CONFIG, every=1, keep=2) as checkpoints:
        for step in (9, 10):
            state = {"encoder": fresh_params(network, seed=step), "state": {"x": np.ones(7)}}
            checkpoints.save_if_due(step, state)
    export(folder, "safetensors", folder / "encoder.safetensors")
    return folder


@pytest.fixture
def bucket(workdir, monkeypatch) -> Iterator[Bucket]:
    """What a copy of the run to a bucket leaves there."""
    server = Bucket()
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
    for path in workdir.rglob("*"):
        if path.is_file():
            name = f"runs/chest/{path.relative_to(workdir)}"
            server.objects[name] = (1, path.read_bytes())
    yield server
    server.shutdown()
    server.server_close()


def leaves(encoder) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(encoder.params)]


@pytest.mark.parametrize("place", ["", "/", "/checkpoints/10", "/encoder.safetensors"])
def test_an_encoder_in_a_bucket_is_that_of_the_files(place, bucket, workdir):
    there, here = mmv_jax.load_encoder(RUN + place), mmv_jax.load_encoder(workdir)
    assert there.config["encoder"] == here.config["encoder"]
    for found, expected in zip(leaves(there), leaves(here), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not [name for name, _ in bucket.reads if "/state/" in name]


def test_an_earlier_step_and_a_damaged_newest_one(bucket, workdir):
    expected = leaves(mmv_jax.load_encoder(workdir / "checkpoints" / "9"))
    np.testing.assert_array_equal(
        leaves(mmv_jax.load_encoder(f"{RUN}/checkpoints/9"))[0], expected[0]
    )
    name = "runs/chest/checkpoints/10/encoder/manifest.ocdbt"
    bucket.objects[name] = (2, bucket.objects[name][1][:-1] + b"?")
    with pytest.warns(UserWarning, match=r"Checkpoint 10 of the bucket is not whole .encoder/"):
        found = leaves(mmv_jax.load_encoder(RUN))
    np.testing.assert_array_equal(found[0], expected[0])


def test_what_is_not_there_and_what_may_not_be_read_are_told_apart(bucket):
    for place in ("gs://bucket/nowhere", f"{RUN}/checkpoints/8", "gs://bucket"):
        with pytest.raises(UserError, match="there is nothing at gs://bucket.*Released weights"):
            mmv_jax.load_encoder(place)
    with pytest.raises(UserError, match="elsewhere://x/y cannot be read"):
        mmv_jax.load_encoder("elsewhere://x/y")
    bucket.forbids = True
    with pytest.raises(WorkFailed, match="PERMISSION_DENIED"):
        mmv_jax.load_encoder(RUN)


def test_released_weights_have_names(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("mmv_jax.released.WEIGHTS", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="This version has no released weights"):
        mmv_jax.load_encoder("small")
    (tmp_path / "small.safetensors").write_bytes((workdir / "encoder.safetensors").read_bytes())
    expected, found = leaves(mmv_jax.load_encoder(workdir)), leaves(mmv_jax.load_encoder("small"))
    np.testing.assert_array_equal(found[0], expected[0])
    with pytest.raises(UserError, match="nothing at smal. .*Released weights are: small"):
        mmv_jax.load_encoder("smal")
