"""Exported weights and programs say elsewhere what the encoder of the checkpoint says."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import mmv_jax
from mmv_jax.checkpoint import Checkpoints
from mmv_jax.data.study_batches import study_batches
from mmv_jax.evaluate.encoders.trained import fresh_params
from mmv_jax.export.shipped import load_numpy
from mmv_jax.export.write import export
from mmv_jax.face.one_study import OneStudy
from mmv_jax.models.sizes import make_encoder
from mmv_jax.study import Study

INPUTS = ("patches", "coords_mm", "kinds", "segment_ids")
PATCH = (4, 8, 8)
GRIDS = {"planar": [4, 48, 48], "volume": [16, 32, 32]}
NETWORKS = {
    "nano": {"size": "nano", "registers": 1},
    "mini": {"size": "mini", "registers": 4},
    "other": {
        "size": "nano",
        "registers": 0,
        "mlp": "swiglu",
        "qk_norm": True,
        "attention_bias": False,
        "layer_scale": None,
        "scale_mm": 24.0,
    },
}


def studies() -> dict[str, Study]:
    """One of each unit; large ones are read from means of their voxels."""
    rng = np.random.default_rng(0)
    ct = rng.normal(0, 300, (40, 170, 180)).clip(-1000, 1500).astype(np.int16)
    ct[:, :60] = -1000
    film = rng.gamma(2.0, 900.0, (1, 1301, 1010)).astype(np.float32)
    film[:, :300] = 0
    ball = sum((axis - 12) ** 2 for axis in np.indices((25, 25, 25))) < 90
    return {
        "volume": Study(ct, (3.0, 1.1, 1.1), 3, "HU"),
        "planar": Study(film, (float("nan"), 0.3, 0.3), 2, "raw"),
        "small picture": Study(film[:, 280:320, :61], (float("nan"), 2.0, 1.5), 2, "raw"),
        "shape": Study(ball.astype(np.uint8), (2.0, 2.0, 2.0), 3, "shape"),
    }


@pytest.fixture(
    scope="module",
    params=["nano", pytest.param("mini", marks=pytest.mark.full), "other"],
)
def exported(request, tmp_path_factory):
    """A checkpoint of one network, its rows of tokens by study, and what it says of them."""
    return make(request.param, tmp_path_factory.mktemp("export"))


def make(name: str, folder: Path) -> tuple[Path, dict, dict]:
    """Writes a checkpoint and its safetensors into `folder`; returns rows and tokens by study."""
    group = NETWORKS[name] | {"patch": list(PATCH)}
    network = make_encoder(**group | {"patch": PATCH, "attention": "dense"})
    rng = np.random.default_rng(1)
    # every bias and scale counts: none is left at its first 0 or 1
    params = jax.tree.map(
        lambda x: x + (0.05 * rng.normal(size=x.shape)).astype(x.dtype),
        jax.device_get(fresh_params(network, seed=0)),
    )
    crops = {name: {"global_grid": grid} for name, grid in GRIDS.items()}
    # One network read background patches too; a config without the key has the default.
    data = {"tokens": "all"} if name == "other" else {}
    config = {"encoder": group, "rows": {"length": 256}, "crops": crops, "data": data}
    with Checkpoints(folder / "run", config, every=1, keep=1) as checkpoints:
        checkpoints.save_if_due(1, {"encoder": params, "state": {"step": np.int32(1)}})
    apply = jax.jit(lambda params, *row: network.apply({"params": params}, *row)["tokens"])
    rows, expected = {}, {}
    for name, study in studies().items():
        (batch,) = study_batches(
            OneStudy(study),
            [0],
            grids={2: tuple(GRIDS["planar"]), 3: tuple(GRIDS["volume"])},
            patch=PATCH,
            registers=group["registers"],
            length=256,
            rows=1,
            **data,
        )
        rows[name] = [np.asarray(batch[key]) for key in INPUTS]
        expected[name] = np.asarray(apply(params, *rows[name]))
    export(folder / "run", "safetensors", folder / "encoder.safetensors")
    return folder, rows, expected


def test_the_loader_in_numpy_says_the_same(exported):
    folder, rows, expected = exported
    weights, about = load_numpy.load(folder / "encoder.safetensors")
    for name, row in rows.items():
        found = load_numpy.encode(weights, about, *row)
        np.testing.assert_allclose(found, expected[name], atol=1e-5, err_msg=name)


def test_the_loader_in_pytorch_says_the_same(exported):
    torch = pytest.importorskip("torch", reason="extra torch")
    from mmv_jax.export.shipped import load_torch

    folder, rows, expected = exported
    weights, about = load_torch.load(folder / "encoder.safetensors")
    for name, row in rows.items():
        found = load_torch.encode(weights, about, *map(torch.from_numpy, row))
        np.testing.assert_allclose(found.numpy(), expected[name], atol=1e-5, err_msg=name)


def test_the_file_says_all_that_its_tensors_do_not(exported):
    folder, _, _ = exported
    _, about = load_numpy.load(folder / "encoder.safetensors")
    kept = mmv_jax.load_encoder(folder / "encoder.safetensors").network
    assert about["heads"] == kept.heads and about["rotary"]["scale_mm"] == kept.scale_mm
    assert about["rotary"]["base"] == kept.rope_base and about["norm_epsilon"] == 1e-6
    assert about["activation"] == ("silu-gated" if kept.mlp == "swiglu" else "gelu-tanh")
    for name in ("load_numpy.py", "load_torch.py", "encoder.safetensors.md"):
        assert (folder / name).is_file()


def test_the_copied_loader_runs_without_the_package(exported, tmp_path):
    folder, rows, expected = exported
    np.savez(tmp_path / "row.npz", *rows["volume"])
    code = (
        "import sys, numpy as np; from load_numpy import load, encode\n"
        "row = np.load(sys.argv[1]); tokens = encode(*load('encoder.safetensors'), *row.values())\n"
        "np.save(sys.argv[2], tokens); assert 'mmv_jax' not in sys.modules"
    )
    places = [str(tmp_path / "row.npz"), str(tmp_path / "tokens.npy")]
    subprocess.run([sys.executable, "-c", code, *places], cwd=folder, check=True)
    np.testing.assert_allclose(np.load(places[1]), expected["volume"], atol=1e-5)


def test_transformers_opens_the_folder_and_says_the_same(exported, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    folder, rows, expected = exported
    export(folder / "run", "huggingface", tmp_path / "encoder")
    options = {"trust_remote_code": True}
    model = transformers.AutoModel.from_pretrained(tmp_path / "encoder", **options).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "encoder", **options)
    for name, study in studies().items():
        voxels, spacing = (
            (study.voxels[0], study.spacing_mm[1:])
            if study.ndim == 2
            else (study.voxels, study.spacing_mm)
        )
        inputs = processor(voxels, spacing_mm=spacing, unit=study.unit)
        n = inputs["kinds"].shape[1]
        for key, ours in zip(INPUTS, rows[name]):
            np.testing.assert_allclose(inputs[key], ours[:, :n], atol=1e-5, err_msg=name)
        seen = model(**inputs)
        found = seen.last_hidden_state.detach().numpy()
        np.testing.assert_allclose(found, expected[name][:, :n], atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(seen.pooler_output.detach().numpy(), found[:, 0])


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # the converter's own, of parts that are not used here
def test_onnx_says_the_same_for_rows_of_any_length(exported):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, rows, expected = exported
    export(folder / "run", "onnx", folder / "encoder.onnx")
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    assert json.loads(session.get_modelmeta().custom_metadata_map["mmv_jax"])["step"] == 1
    for name, row in rows.items():
        for n in (row[0].shape[1], int((row[3] > 0).sum())):
            inputs = dict(zip(INPUTS, (x[:, :n] for x in row)))
            (found,) = session.run(None, inputs)
            np.testing.assert_allclose(found, expected[name][:, :n], atol=1e-5, err_msg=name)
