"""An exported encoder says what the encoder of the checkpoint says, and names nobody."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nano import drawn_weights
from safetensors import safe_open
from safetensors.numpy import load_file

from mmv_jax.checkpoint import Checkpoints
from mmv_jax.errors import UserError
from mmv_jax.export.shipped import load_numpy
from mmv_jax.export.write import export
from mmv_jax.face.encoder import load_encoder
from mmv_jax.models.kinds import CLS, PATCH
from mmv_jax.models.sizes import make_encoder
from mmv_jax.provenance import digest_of

GROUP = {"size": "nano", "patch": [2, 4, 4], "registers": 1}
LENGTH = 24


@pytest.fixture(scope="module")
def row():
    """Two rows of two crops each, and padding."""
    rng = np.random.default_rng(0)
    ids = np.tile(np.repeat([1, 2, 0], [10, 9, 5]), (2, 1)).astype(np.int32)
    kinds = np.where(ids > 0, PATCH, 0).astype(np.int32)
    kinds[:, [0, 10]] = CLS
    return tuple(
        map(
            jnp.asarray,
            (rng.normal(size=(2, LENGTH, 32)), rng.normal(size=(2, LENGTH, 3)), kinds, ids),
        )
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, row):
    folder = tmp_path_factory.mktemp("run")
    shapes = jax.eval_shape(make_encoder(**GROUP).init, jax.random.key(0), *row)
    params = drawn_weights(shapes["params"])
    config = {
        "encoder": GROUP,
        "rows": {"length": LENGTH},
        "crops": {},
        "pretraining": {
            "patients": ["00c0ffee00c0ffee"],
            "teachers": [{"name": "lite0", "trained_on": "ImageNet-1k", "licence": "MIT"}] * 2,
        },
    }
    with Checkpoints(folder, config, every=1, keep=1) as checkpoints:
        checkpoints.save_if_due(1, {"encoder": params, "state": {"step": np.int32(1)}})
    return folder, params


def test_safetensors_hold_every_parameter_and_the_config(checkpoint, tmp_path):
    folder, params = checkpoint
    assert "tensors" in export(folder, "safetensors", tmp_path / "encoder.safetensors")
    found = load_file(tmp_path / "encoder.safetensors")
    with safe_open(tmp_path / "encoder.safetensors", "numpy") as file:
        told = json.loads(file.metadata()["config"])
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert len(found) == len(leaves)
    for keys, value in leaves:
        np.testing.assert_array_equal(found[".".join(key.key for key in keys)], value)
    assert told["encoder"] == GROUP
    assert b"c0ffee" not in (tmp_path / "encoder.safetensors").read_bytes()


def test_weights_of_16_bits_are_half_the_size_and_each_loader_computes_in_32(checkpoint, tmp_path):
    folder, params = checkpoint
    whole, small = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    export(folder, "safetensors", whole)
    export(folder, "safetensors", small, half=True)
    assert {x.dtype for x in load_file(small).values()} == {np.dtype("float16")}
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    for load in (load_numpy.load, lambda path: (load_encoder(path).params, None)):
        tensors = jax.tree.leaves(load(small)[0])
        assert {x.dtype for x in tensors} == {np.dtype("float32")}
        # float16 has 11 bits, so rounding is off by at most 2^-11 of a value.
        for found, value in zip(tensors, jax.tree.leaves(load(whole)[0])):
            np.testing.assert_allclose(found, value, rtol=2**-11, atol=1e-7)
    with pytest.raises(UserError, match="--half is for --format safetensors, not stablehlo"):
        export(folder, "stablehlo", tmp_path / "x", half=True)


def test_stablehlo_runs_without_the_package_and_says_the_same(checkpoint, row, tmp_path):
    folder, params = checkpoint
    export(folder, "stablehlo", tmp_path / "encoder.stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "encoder.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    expected = make_encoder(**GROUP).apply({"params": params}, *row)["tokens"]
    np.testing.assert_allclose(program.call(*row), expected, atol=2e-5)
    one = [x[:1] for x in row]
    np.testing.assert_allclose(program.call(*one), expected[:1], atol=2e-5)
    assert b"c0ffee" not in (tmp_path / "encoder.stablehlo").read_bytes()


def test_what_cannot_be_written_is_said_first(checkpoint, tmp_path):
    with pytest.raises(UserError, match="'tflite'; choose one of safetensors, stablehlo"):
        export(checkpoint[0], "tflite", tmp_path / "x")
    with pytest.raises(UserError, match="its folder does not exist"):
        export(checkpoint[0], "safetensors", tmp_path / "absent" / "x")
    with pytest.raises(UserError, match="no finished checkpoint"):
        export(tmp_path, "safetensors", tmp_path / "x")
    with Checkpoints(
        tmp_path / "other", {"encoder": GROUP, "rows": 2}, every=1, keep=1
    ) as checkpoints:
        checkpoints.save_if_due(1, {"encoder": checkpoint[1], "state": {"step": np.int32(1)}})
    with pytest.raises(UserError, match="no checkpoint of `mmv pretrain`"):
        export(tmp_path / "other", "stablehlo", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_place_that_cannot_be_written_to_is_said_first(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    for kind, name, says in (
        ("huggingface", "full", "exists already. Give the name of a new folder"),
        ("huggingface", "full/mine.txt", "exists already"),
        ("safetensors", "full", "is a folder. Give the name of a file in it"),
        ("onnx", "full", "is a folder"),
    ):
        with pytest.raises(UserError, match=says):
            export(checkpoint[0], kind, tmp_path / name)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="may not be written to"):
        export(checkpoint[0], "safetensors", tmp_path / "x")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]


def test_a_card_is_written_with_each_export_and_names_the_weights(checkpoint, tmp_path):
    export(checkpoint[0], "safetensors", tmp_path / "encoder.safetensors")
    export(checkpoint[0], "stablehlo", tmp_path / "encoder.stablehlo")
    export(checkpoint[0], "huggingface", tmp_path / "folder")
    with safe_open(tmp_path / "encoder.safetensors", "numpy") as file:
        record = json.loads(file.metadata()["mmv_jax"])
    assert record["digest"] == digest_of(load_file(tmp_path / "encoder.safetensors"))
    assert record["step"] == 1 and record["versions"]["jax"] and record["date"]
    cards = ("encoder.safetensors.md", "encoder.stablehlo.md", "folder/README.md")
    for card in (tmp_path / name for name in cards):
        text = card.read_text()
        assert record["digest"] in text and "step 1" in text and "no medical device" in text
        assert "c0ffee" not in text
        # Two folders of one teacher are one line.
        assert "| distilled from | lite0, trained on ImageNet-1k, licence MIT |" in text
