"""The CT encoder: features of the published network, in the orientation that it was trained in."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import published_values as values
import pytest
from safetensors.numpy import save_file
from test_convert import ASKED

from mmv_jax.convert.write import convert_encoder
from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.study import Study

torch = pytest.importorskip("torch", reason="extra torch")
SMALL = {"size": [32, 64, 96], "spacing_mm": [3.0, 1.5, 1.5], "hu": [-1000, 1000]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The tiny network as Astra's whole checkpoint names it, converted."""
    at = tmp_path_factory.mktemp("ct")
    prefix = "visual_encoder.model.encode_image.i3_resnet."
    tensors = {prefix + name: x for name, x in values.checkpoint("i3resnet").items()}
    tensors[f"{prefix}contrastive_head.weight"] = np.zeros((2, 128, 1, 1, 1), np.float32)
    tensors["llm.weight"] = np.zeros(2, np.float32)
    save_file(tensors, at / "x.safetensors")
    (at / "preprocessor_config.json").write_text(json.dumps(SMALL))
    made = convert_encoder(at / "x.safetensors", at / "out", ASKED)
    assert made.card["layout"] == "i3resnet" and "llm.*" in made.card["not_used"]
    return at / "out"


@pytest.fixture(scope="module")
def encoder(folder):
    from mmv_jax.evaluate.encoders.table import load_encoder

    return load_encoder("merlin", {"package": "i3resnet", "folder": str(folder)})


def test_features_are_those_of_the_published_network(encoder):
    # As it is published: [B, 1, X, Y, Z], in which the network moves z to the front.
    picture = values.image(64, channels=1, depth=96).transpose(0, 1, 3, 4, 2)[:, :, :, :32]
    with torch.inference_mode():
        found = encoder.model(torch.from_numpy(picture.transpose(0, 1, 4, 2, 3).copy()))[0]
    expected = values.features("i3resnet")
    assert np.abs(expected).max() > 1  # else a tolerance would say little
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5, rtol=1e-5)


def test_a_study_is_turned_to_right_anterior_superior_and_its_features_back(encoder):
    image = np.random.default_rng(0).random((32, 64, 96)).astype(np.float32)
    found = encoder.read(image)
    # Voxel by voxel: x to the right, y to the front, z to the head.
    i, j, k = np.indices((96, 64, 32))
    turned = image[k, 63 - j, 95 - i]
    with torch.inference_mode():
        published = encoder.model(torch.from_numpy(turned[None, None]).permute(0, 1, 4, 2, 3))
    z, y, x = np.indices(found.shape[:3])
    expected = published[0].numpy()[:, z, 2 - x, 1 - y].transpose(1, 2, 3, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_air_is_around_a_study_and_slices_are_means(encoder):
    voxels = np.zeros((4, 2, 2), np.float32)
    voxels[:, 0, 0] = [-2000.0, 1000.0, 500.0, -500.0]
    inside = np.ones((4, 2, 2), bool)
    inside[:, 1, 1] = False
    found = encoder.image(voxels, inside)
    np.testing.assert_allclose(found[:, 0, 0], [0.5, 0.5])  # of 0 and 1, of 0.75 and 0.25
    np.testing.assert_allclose(found[:, 0, 1], 0.5)  # water
    assert (found[:, 1, 1] == 0).all()


class OneVolume:
    """A store of one CT, of constant 0 HU if none is given."""

    def __init__(self, unit="HU", voxels=None):
        self.voxels = voxels
        about = {"ndim": 3, "unit": unit, "occupancy": b"\xff" * 64}
        for axis, voxels, spacing in (("z", 20, 3.0), ("y", 30, 1.5), ("x", 40, 1.5)):
            about |= {f"grid_{axis}": voxels, f"spacing_{axis}": spacing}
        self.index = pd.DataFrame([about])

    def levels(self, i):
        return np.zeros((0, 3), np.int64)

    def read_box(self, i, start, shape, *, mask=None, level=0):
        return np.zeros(shape, np.float32)

    def read_study(self, i):
        return Study(self.voxels, (3.0, 1.5, 1.5), 3, "HU")


def test_every_study_is_read_at_the_spacing_of_training(encoder):
    (found,) = encoder.encode(OneVolume(), np.array([0]))
    # 60 x 45 x 60 mm of water, in the middle of 96 x 96 x 144 mm of air.
    image = np.zeros((32, 64, 96), np.float32)
    image[6:26, 17:47, 28:68] = 0.5
    grid = encoder.read(image)
    np.testing.assert_allclose(found.cls, grid.mean(axis=(0, 1, 2)), atol=1e-5)
    assert found.patches.shape == (2 * 2 * 3, 128) and found.early.shape == (0, 12, 128)
    np.testing.assert_allclose(found.patches, grid.reshape(-1, 128), atol=1e-5)
    with pytest.raises(UserError, match="Hounsfield"):
        next(encoder.encode(OneVolume("raw"), np.array([0])))


def test_the_chain_for_chests_is_that_of_astra(folder):
    """As `infer_one_ct.py` of Astra makes a chest: the box of what is above -1000 HU, resized by
    areas to the image, from -1000 to 200 HU. Here by PyTorch's own resizing.
    """
    from mmv_jax.evaluate.encoders.inflated import load_inflated

    encoder = load_inflated(folder, "chest")
    rng = np.random.default_rng(0)
    voxels = np.full((20, 30, 40), -1000.0, np.float32)
    voxels[2:19, 3:28, 4:39] = rng.uniform(-1200, 600, (17, 25, 35)).round()
    # The box has a corner in each of these.
    voxels[2, 3, 4] = voxels[18, 27, 38] = 0
    (found,) = encoder.encode(OneVolume(voxels=voxels.astype(np.int16)), np.array([0]))
    box = torch.from_numpy(voxels[2:19, 3:28, 4:39].copy())[None, None]
    image = torch.nn.functional.interpolate(box, size=(32, 64, 96), mode="area")
    grid = encoder.read(((image + 1000) / 1200).clamp(0, 1)[0, 0].numpy())
    np.testing.assert_allclose(found.cls, grid.mean(axis=(0, 1, 2)), atol=1e-5)
    # The other chain sees other images, and keeps its features apart.
    plain = load_inflated(folder)
    assert plain.fingerprint != encoder.fingerprint
    assert found.patches.shape == (2 * 2 * 3, 128)
    with pytest.raises(UserError, match="must be one of spacing, chest"):
        load_inflated(folder, "abdomen")


def test_areas_are_those_of_pytorch_where_a_box_grows_and_where_it_shrinks():
    from mmv_jax.evaluate.encoders.inflated import area

    x = np.random.default_rng(1).normal(-500, 300, (7, 50, 33)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x)[None, None], size=(16, 24, 33), mode="area"
    )
    np.testing.assert_allclose(area(x, (16, 24, 33)), expected[0, 0].numpy(), atol=1e-3)


def test_patches_of_a_chest_lie_where_the_body_does():
    from mmv_jax.evaluate.encoders.inflated import at_places

    grid = np.random.default_rng(2).normal(size=(2, 2, 3, 5)).astype(np.float32)
    own = [np.arange(2.0), np.arange(2.0), np.arange(3.0)]
    np.testing.assert_allclose(at_places(grid, own), grid)
    between = at_places(grid, [np.array([0.25]), np.array([-3.0]), np.array([9.0])])
    np.testing.assert_allclose(between[0, 0, 0], 0.75 * grid[0, 0, 2] + 0.25 * grid[1, 0, 2], 1e-5)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A tiny Inception-I3D of pytorch-i3d, converted, with the logits that it is published with."""
    at = tmp_path_factory.mktemp("i3d")
    tensors = values.checkpoint("i3d")
    logits = {"weight": np.zeros((400, 8, 1, 1, 1)), "bias": np.zeros(400)}
    tensors |= {f"logits.conv3d.{k}": x.astype(np.float32) for k, x in logits.items()}
    torch.save({name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}, at / "x.pt")
    made = convert_encoder(at / "x.pt", at / "out", ASKED)
    assert made.card["layout"] == "i3d" and "logits.conv3d.weight" in made.card["not_used"]
    return at


def test_inception_gives_the_features_of_the_published_network(inception):
    from mmv_jax.evaluate.encoders.table import load_encoder

    group = {"package": "i3d", "folder": str(inception / "out")}
    encoder = load_encoder("films", group)
    picture = values.image(64, channels=1, depth=32)[0, 0]
    expected = values.features("i3d")
    assert expected.shape[1:] == (4, 2, 2) and np.abs(expected).max() > 0.5
    # Slices as they are shown: not turned, as films have no front and no right.
    np.testing.assert_allclose(encoder.read(picture), expected.transpose(1, 2, 3, 0), atol=1e-5)
    assert encoder.network.stride == (8, 32, 32)


def test_a_network_of_optical_flow_is_refused(inception, tmp_path):
    tensors = values.checkpoint("i3d")
    name = "Conv3d_1a_7x7.conv3d.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][:, :2])
    save_file(tensors, tmp_path / "flow.safetensors")
    with pytest.raises(UserError, match="optical flow has two"):
        convert_encoder(tmp_path / "flow.safetensors", tmp_path / "out", ASKED)


def test_planar_studies_are_refused(encoder):
    geometry = Geometry(
        planar=np.array([True]),
        voxels=np.array([[1, 8, 8]]),
        spacing_mm=np.ones((1, 3)),
        extent_mm=np.array([[0.0, 8.0, 8.0]]),
        cells=np.zeros((1, 16), np.uint64),
    )
    with pytest.raises(UserError, match="volumes alone"):
        encoder.views(geometry)


def test_other_folders_are_one_clear_error(folder, tmp_path):
    from mmv_jax.evaluate.encoders.inflated import load_inflated

    with pytest.raises(UserError, match="no inflated network"):
        load_inflated(tmp_path)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SMALL | {"size": [32, 64, 60]}))
    with pytest.raises(UserError, match="do not fit"):
        load_inflated(tmp_path)
