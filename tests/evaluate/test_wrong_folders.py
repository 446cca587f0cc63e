"""Folders of encoders whose files contradict each other: one sentence, and never a wrong vector."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from tiny import write_store

from mmv_jax.convert.write import ConversionRequest, convert_encoder
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.features import encode_studies
from mmv_jax.evaluate.encoders.named import declared_overlap
from mmv_jax.models.channels import channels, side_of
from mmv_jax.models.public import PublicEncoder
from mmv_jax.store.read import Store

torch = pytest.importorskip("torch", reason="extra torch")
transformers = pytest.importorskip("transformers", reason="extra torch")
from mmv_jax.evaluate.encoders.huggingface import load_huggingface  # noqa: E402

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "image_size": 32, "patch_size": 8}
SAID = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
ASKED = ConversionRequest(licence="MIT", trained_on=["none"])


def vit():
    return transformers.ViTModel(transformers.ViTConfig(**VIT))


def registers():
    own = {name: value for name, value in VIT.items() if name != "intermediate_size"}
    config = transformers.Dinov2WithRegistersConfig(**own, mlp_ratio=2)
    return transformers.Dinov2WithRegistersModel(config)


def masked():
    small = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2}
    small |= {"decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16}
    return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**VIT, **small))


def saved(folder, make=vit, *, config=None, tensors=None, said=SAID):
    torch.manual_seed(0)
    make().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | (config or {})))
    if tensors:
        weights = folder / "model.safetensors"
        save_file(tensors(load_file(weights)), weights, metadata={"format": "pt"})
    return folder


def begun(folder):
    """Parameters of a training that begins from the folder."""
    return PublicEncoder.open(folder).parameters((2, 8, 8), np.zeros((2, 16), np.float32))


def a_block_more(tensors):
    more = {n.replace("layer.1.", "layer.2."): x for n, x in tensors.items() if "layer.1." in n}
    return tensors | more


def adapters(tensors):
    return tensors | {"encoder.layer.0.lora_A.weight": np.zeros((4, 16), np.float32)}


# make, config, tensors, and whether training can tell it too
OTHERS = {
    "a block more": (vit, None, a_block_more, True),
    "biases": (vit, {"qkv_bias": False}, None, True),
    "adapters within": (vit, None, adapters, True),
    "registers": (registers, {"model_type": "dinov2"}, None, False),
}


@pytest.mark.parametrize("make, config, tensors, trains", OTHERS.values(), ids=OTHERS.keys())
def test_no_tensor_of_a_tower_is_left_out_in_silence(make, config, tensors, trains, tmp_path):
    folder = saved(tmp_path / "mine", make, config=config, tensors=tensors)
    with pytest.raises(UserError, match="mine: its config.json has no place for"):
        load_huggingface(folder)
    with pytest.raises(UserError, match="is none of this layout|config.json beside it says"):
        convert_encoder(folder, tmp_path / "out", ASKED)
    if trains:
        with pytest.raises(UserError, match="no place for|its weights have 3 blocks"):
            begun(folder)


CONFIGS = {"patch_size": 16, "image_size": 64, "num_hidden_layers": 1, "hidden_size": 32}


@pytest.mark.parametrize("key, value", CONFIGS.items())
def test_numbers_of_a_config_are_held_against_the_tensors(key, value, tmp_path):
    folder = saved(tmp_path / "mine", config={key: value})
    with pytest.raises(UserError, match=f"config.json beside it says {key} {value}"):
        convert_encoder(folder, tmp_path / "out", ASKED)


def test_a_masked_autoencoder_sees_all_patches_in_their_order(tmp_path):
    """Its own class hides three quarters of them in each pass, others each time."""
    encoder = load_huggingface(saved(tmp_path / "mine", masked))
    assert encoder.patch == 8
    image = np.random.default_rng(0).uniform(size=(1, 32, 32)).astype(np.float32)
    cls, grids = encoder.tokens(image)
    np.testing.assert_array_equal(cls, encoder.tokens(image)[0])
    whole = transformers.ViTMAEModel.from_pretrained(tmp_path / "mine", mask_ratio=0.0).eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(image)[:, None].expand(-1, 3, -1, -1) * 2 - 1
        expected = whole(pixel_values=pixels, noise=torch.arange(16.0)[None]).last_hidden_state
    np.testing.assert_allclose(cls, expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(grids[-1].reshape(1, 16, 16), expected[:, 1:], atol=1e-5)


def test_weights_in_eight_bits_and_features_that_are_no_numbers_are_refused(tmp_path):
    eight = saved(tmp_path / "a", tensors=lambda t: t | {"layernorm.bias": np.ones(16, np.int8)})
    with pytest.raises(UserError, match="values of the type I8"):
        load_huggingface(eight)
    nan = np.full(16, np.nan, np.float32)
    encoder = load_huggingface(saved(tmp_path / "b", tensors=lambda t: t | {"layernorm.bias": nan}))
    store, studies = Store.open(write_store(tmp_path / "store", n=2)), np.arange(2)
    with pytest.raises(UserError, match="features of 2 of 2 studies are not finite"):
        encode_studies(encoder, store, studies, with_tokens=studies, folder=tmp_path / "kept")
    assert not list((tmp_path / "kept").glob("*.npz"))


def test_features_that_are_alike_for_all_studies_are_noticed(tmp_path):
    store, studies = Store.open(write_store(tmp_path / "store", n=2)), np.arange(4)
    for name, scale, alike in (("blind", 0.0, True), ("seeing", 1.0, False)):
        weight = np.full(16, scale, np.float32)
        folder = saved(tmp_path / name, tensors=lambda t, w=weight: t | {"layernorm.weight": w})
        encoder = load_huggingface(folder)
        found = encode_studies(encoder, store, studies, with_tokens=studies, folder=tmp_path / "k")
        assert found.are_alike == alike


IMAGES = {
    "a list": ({"size": [32, 32]}, None),
    "an oblong": ({"size": {"height": 32, "width": 24}}, "says size .*Images here are square"),
    "nothing": ({"size": 0}, "says size 0"),
    "a side that it cannot take": ({"size": 64}, "takes no image of 64 × 64 pixels"),
    "a crop that it cannot take": ({"do_center_crop": True, "crop_size": 24}, "24 × 24"),
    "bytes": ({"do_rescale": False}, "510 apart.*do_rescale False"),
    "sixteen bits": ({"rescale_factor": 1 / 65535}, "0.00778 apart"),
    "means of bytes": ({"image_mean": [123.7] * 3, "image_std": [58.4] * 3}, "0.0171 apart"),
    "a word": ({"do_normalize": "false"}, "do_normalize 'false'"),
    "means of bytes for bytes": (
        {"image_mean": [123.7] * 3, "image_std": [58.4] * 3, "do_rescale": False},
        None,
    ),
    "no normalising": ({"do_normalize": False}, None),
}


@pytest.mark.parametrize("said, wrong", IMAGES.values(), ids=IMAGES.keys())
def test_images_that_a_model_cannot_have_seen_are_refused(said, wrong, tmp_path):
    folder = saved(tmp_path / "mine", said=SAID | said)
    if wrong is None:
        assert load_huggingface(folder).side == 32
        return
    with pytest.raises(UserError, match=wrong) as told:
        load_huggingface(folder)
    assert str(told.value).startswith("mine: ")


def test_one_channel_and_a_damaged_file_are_one_sentence(tmp_path):
    name = "embeddings.patch_embeddings.projection.weight"
    grey = {"tensors": lambda t: t | {name: t[name][:, :1].copy()}, "config": {"num_channels": 1}}
    folder = saved(tmp_path / "mine", **grey)
    with pytest.raises(UserError, match="three channels"):
        load_huggingface(folder)
    with pytest.raises(UserError, match="num_channels 1. Encoders of three channels"):
        PublicEncoder.open(folder)
    (folder / "preprocessor_config.json").write_text("{")
    for read in (channels, side_of):
        with pytest.raises(UserError, match="mine: its preprocessor_config.json is damaged"):
            read(folder)


def test_means_that_are_not_said_are_those_of_the_family_and_told(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip_vision_model"}))
    assert channels(tmp_path) == ((0.5,) * 3, (0.5,) * 3)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert channels(tmp_path)[0][0] == pytest.approx(0.4815, abs=1e-4)
    load_huggingface(saved(tmp_path / "mine", said={"size": 32}))
    assert "mine: no preprocessor_config.json says its means" in capsys.readouterr().err


def test_an_encoder_of_unknown_training_is_named_and_not_counted_as_unseen(tmp_path):
    index = pd.DataFrame({"patient": ["a", "b"], "label_source": ["NIH", "other"]})
    for trained_on, kept, counted in (
        (["NIH"], index, True),
        (["NIH"], index.drop(columns="label_source"), False),
        (["none"], index, True),
        (["unknown"], index, False),
    ):
        (tmp_path / "conversion.json").write_text(json.dumps({"trained_on": trained_on}))
        found = declared_overlap("theirs", tmp_path, kept)
        assert found.uncounted == (() if counted else ("theirs",))
        assert found.patients == ({"a"} if trained_on == ["NIH"] and counted else set())
    assert declared_overlap("bare", tmp_path / "none", index).uncounted == ("bare",)
