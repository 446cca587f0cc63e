"""Weights of public encoders: their features come out of the packed encoder."""

import importlib.util
import json
import shutil
import tracemalloc
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmv_jax.errors import UserError
from mmv_jax.models.channels import IMAGENET, channels
from mmv_jax.models.encoder import sample_table
from mmv_jax.models.public import PublicEncoder
from mmv_jax.models.public_files import Tensors
from mmv_jax.models.sizes import make_encoder
from mmv_jax.provenance import digest_of

FOLDERS = Path(__file__).with_name("public")
NAMES = sorted(path.name for path in FOLDERS.iterdir() if (path / "config.json").is_file())
DEPTH = 2  # voxels of a patch along z
GRID = 6  # patches of a side


def picture() -> np.ndarray:
    # The script is no module of the tests: it is found by its path.
    spec = importlib.util.spec_from_file_location("make", FOLDERS / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.image()


def planar_row(registers: int, grid: int = GRID, z: float = 0.0) -> tuple:
    """Patches, coordinates, kinds and segment ids of the picture as the only study of a row."""
    side = len(picture()) // grid
    tiles = (picture() * 2 - 1).reshape(grid, side, grid, side).swapaxes(1, 2)
    patches = np.broadcast_to(tiles[:, :, None], (grid, grid, DEPTH, side, side))
    patches = patches.reshape(grid * grid, -1)
    places = (np.arange(grid) + 0.5) / grid * 2 - 1
    coords = np.stack(np.meshgrid([z], places, places, indexing="ij"), -1).reshape(-1, 3)
    special = 1 + registers
    centre = np.tile([z, 0.0, 0.0], (special, 1))
    kinds = np.array([*range(1, special + 1), *[100] * len(patches)], np.int32)
    row = (
        np.pad(patches, ((special, 0), (0, 0))).astype(np.float32),
        np.concatenate([centre, coords]).astype(np.float32),
        kinds,
        np.ones_like(kinds),
    )
    return tuple(x[None] for x in row)


def packed(public: PublicEncoder, **options):
    """The encoder and its parameters, begun from the weights."""
    patch = (DEPTH, *public.options["patch"][1:])
    encoder = make_encoder(**{**public.options, "patch": patch, **options})
    learned = np.zeros((public.options["registers"] + 2, encoder.width), np.float32)
    params, lines, _ = public.parameters(patch, learned)
    return encoder, params, lines


@cache  # encoders with equal fields are one key
def jitted(encoder):
    return jax.jit(lambda params, *row: encoder.apply({"params": params}, *row)["tokens"][0])


def features(public: PublicEncoder, **options) -> np.ndarray:
    encoder, params, _ = packed(public, **options)
    return np.asarray(jitted(encoder)(params, *planar_row(encoder.registers)))


@pytest.mark.parametrize("name", NAMES)
def test_a_planar_study_has_the_features_of_the_original(name):
    found, expected = (
        features(PublicEncoder.open(FOLDERS / name)),
        np.load(FOLDERS / name / "features.npy"),
    )
    assert np.abs(expected).max() > 1  # else a tolerance of 1e-4 would say little
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_each_choice_of_a_folder_counts():
    public = PublicEncoder.open(FOLDERS / "dinov2")
    expected = np.load(FOLDERS / "dinov2" / "features.npy")
    for options in ({"mlp": "gelu"}, {"epsilon": 0.1}):
        assert np.abs(features(public, **options) - expected).max() > 2e-4


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_the_shape_of_a_fresh_encoder(name):
    public = PublicEncoder.open(FOLDERS / name)
    encoder, params, lines = packed(public)
    row = planar_row(encoder.registers)
    fresh = jax.eval_shape(encoder.init, jax.random.key(0), *row)["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, fresh)
    assert encoder.parameter_count() == sum(x.size for x in jax.tree.leaves(params))
    # Each tensor of the file is told, and one line stands for all blocks.
    assert any("layer.*" in line for line in lines) and len(lines) < 40
    unused = [line for line in lines if line.endswith("not used")]
    assert all("pooler" in line for line in unused)


@pytest.mark.parametrize("name", ["dinov2", "dinov3"])
def test_depth_counts_in_a_volume_alone(name):
    public = PublicEncoder.open(FOLDERS / name)
    encoder, params, _ = packed(public)

    def seen(*zs):
        parts = [planar_row(encoder.registers, z=z) for z in zs]
        row = [np.concatenate(x, axis=1) for x in zip(*parts)]
        return np.asarray(jitted(encoder)(params, *row))

    # One plane looks the same wherever it lies, as attention knows only differences of places ...
    if name == "dinov2":
        np.testing.assert_allclose(seen(0.0), seen(0.5), atol=1e-4)
    # ... and two planes are another study when they are farther apart.
    assert np.abs(seen(-0.2, 0.2) - seen(-0.6, 0.6)).max() > 1e-2


def test_a_table_is_read_between_its_cells():
    table = np.arange(6, dtype=np.float32)[:, None]  # rows 0 1 2 / 3 4 5
    at = [[0, -0.5, -2 / 3], [0, 0.5, 0], [9, 0, 0], [0, 0.25, 1 / 3], [0, 1, 1]]
    at = np.array([at], np.float32)
    sample = jax.jit(sample_table, static_argnums=1)
    found = sample(table, (2, 3), at)
    np.testing.assert_allclose(np.asarray(found)[0, :, 0], [0, 4, 2.5, 3.75, 5], atol=1e-5)
    np.testing.assert_allclose(sample(np.full((1, 1), 7, np.float32), (1, 1), at), 7.0)


def changed(tmp_path, name="dinov2", tensors=None, **config) -> Path:
    folder = tmp_path / "folder"
    shutil.copytree(FOLDERS / name, folder)
    about = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(about))
    if tensors is not None:
        kept = tensors(load_file(folder / "model.safetensors"))
        save_file(kept, folder / "model.safetensors")
    return folder


def test_a_model_inside_another_and_in_several_files(tmp_path):
    def wrapped(tensors):
        named = {f"dinov2.{name}": x for name, x in tensors.items()}
        return named | {"classifier.weight": np.zeros((2, 24), np.float32)}

    folder = changed(tmp_path, tensors=wrapped)
    public = PublicEncoder.open(folder)
    expected = features(public)
    np.testing.assert_array_equal(expected, features(PublicEncoder.open(FOLDERS / "dinov2")))
    assert "classifier.weight -> not used" in packed(public)[2]
    tensors = load_file(folder / "model.safetensors")
    halves = {"a.safetensors": sorted(tensors)[::2], "b.safetensors": sorted(tensors)[1::2]}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(features(PublicEncoder.open(folder)), expected)


def test_each_tensor_is_read_once_and_none_is_kept(monkeypatch, tmp_path):
    """Of a folder of 6 MiB at most the parameters and one tensor are in memory."""
    tensors = load_file(FOLDERS / "dinov2" / "model.safetensors")
    large = {name: x for name, x in tensors.items() if not name.startswith("encoder.layer.")}
    blocks = 12
    for n in range(blocks):
        for name, x in tensors.items():
            if name.startswith("encoder.layer.0."):
                large[name.replace("layer.0.", f"layer.{n}.")] = x
    wide = 2048  # of the MLP
    for name, x in large.items():
        if "mlp.fc1" in name:
            large[name] = np.resize(x, (wide, *x.shape[1:]))
        elif "mlp.fc2.weight" in name:
            large[name] = np.resize(x, (x.shape[0], wide))
    folder = changed(tmp_path, tensors=lambda _: large, num_hidden_layers=blocks)
    read, get = [], Tensors.__getitem__
    monkeypatch.setattr(
        Tensors, "__getitem__", lambda self, name: read.append(name) or get(self, name)
    )
    public = PublicEncoder.open(folder)
    assert not read and public.options["mlp_hidden"] == wide
    learned = np.zeros((2, 24), np.float32)
    tracemalloc.start()
    params, _, digest = public.parameters((DEPTH, 4, 4), learned)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(read) == sorted(large) and digest == digest_of(large)
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    assert held > size > 4 * 2**20  # else the bound would say little
    assert peak < 1.2 * size


def without(name):
    return lambda tensors: {key: x for key, x in tensors.items() if key != name}


def with_norm(values):
    return lambda tensors: tensors | {"layernorm.weight": values}


@pytest.mark.parametrize(
    "said, mean, std",
    [
        ({"image_mean": 0.5, "image_std": [0.1, 0.2, 0.5]}, (0.5,) * 3, (0.1, 0.2, 0.5)),
        ({"image_mean": None, "image_std": None}, *IMAGENET),
        ({"do_normalize": False, "image_mean": [9, 9, 9]}, (0.0,) * 3, (1.0,) * 3),
        # Bytes that become -1 to 1 by their factor and mean alone.
        (
            {"rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3},
            (0.5,) * 3,
            (0.5,) * 3,
        ),
        (
            {"do_rescale": False, "image_mean": [102] * 3, "image_std": [51] * 3},
            (0.4,) * 3,
            (0.2,) * 3,
        ),
    ],
)
def test_the_preprocessing_that_a_folder_asks_for(tmp_path, said, mean, std):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    found = channels(tmp_path)
    np.testing.assert_allclose(found, (mean, std), rtol=1e-6)


@pytest.mark.parametrize(
    "said",
    [
        {"image_mean": [0.5, 0.5]},
        {"image_std": [0, 1, 1]},
        {"image_mean": "x"},
        {"rescale_factor": 0},
    ],
)
def test_a_preprocessing_without_sense_is_refused(tmp_path, said):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="Means and deviations are numbers of three"):
        channels(tmp_path)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"model_type": "swin"}, "has the model_type swin.*dinov3_vit"),
        ({"hidden_act": "relu"}, "MLP .hidden_act 'relu'"),
        ({"name": "dinov3", "use_gated_mlp": True}, "is none of this encoder's"),
        ({"name": "dinov3_gated", "use_gated_mlp": False}, "MLP .hidden_act 'silu'"),
        ({"tensors": without("layernorm.bias")}, "no tensor layernorm.bias"),
        ({"hidden_size": 48}, "has the shape .* Its config.json is another model's"),
        ({"num_hidden_layers": 3}, "have 2 blocks, and its config.json says 3"),
        ({"num_hidden_layers": 1}, "have 2 blocks, and its config.json says 1"),
        (
            {"tensors": without("encoder.layer.1.attention.attention.query.bias")},
            "no tensor .*query",
        ),
        ({"num_hidden_layers": 0}, "says a depth of 0"),
        ({"patch_size": [4, 4]}, r"a patch_size of \[4, 4\]"),
        ({"layer_norm_eps": "1e-6"}, "layer_norm_eps of '1e-6'"),
        ({"tensors": with_norm(np.full(24, np.nan, np.float32))}, "layernorm.weight .* not finite"),
        ({"tensors": with_norm(np.ones(24, np.int8))}, "layernorm.weight .int8. is quantised"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        packed(PublicEncoder.open(changed(tmp_path, **change)))


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("config.json", None, "it has no config.json. Give the folder of a Hugging Face"),
        ("config.json", b"{", "its config.json is damaged"),
        ("config.json", b"[1]", "its config.json is damaged"),
        ("config.json", b'{"model_type": "vit"}', "its config.json does not say hidden_size"),
        ("model.safetensors", None, "Pickled weights .* are never read"),
        ("model.safetensors", b"cut", "model.safetensors cannot be read"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, name, content, says):
    folder = changed(tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        PublicEncoder.open(folder)
    with pytest.raises(UserError, match="it has no config.json"):
        PublicEncoder.open(tmp_path / "nowhere")
