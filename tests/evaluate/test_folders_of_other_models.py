"""Folders whose config no tensor contradicts, and models without the features that are measured."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmv_jax.convert.write import ConversionRequest, convert_encoder
from mmv_jax.errors import UserError
from mmv_jax.models.channels import IMAGENET, channels
from mmv_jax.models.odd_folder import odd_folder
from mmv_jax.models.public import PublicEncoder

torch = pytest.importorskip("torch", reason="extra torch")
transformers = pytest.importorskip("transformers", reason="extra torch")
from mmv_jax.evaluate.encoders import stand_ins  # noqa: E402
from mmv_jax.evaluate.encoders.huggingface import load_group, load_huggingface  # noqa: E402

VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT |= {"intermediate_size": 16, "image_size": 16, "patch_size": 8}
SAID = {"size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
ASKED = ConversionRequest(licence="MIT", trained_on=["none"])
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    """A ViT as transformers saves it."""
    return saved(tmp_path / "mine", transformers.ViTModel(transformers.ViTConfig(**VIT)))


def saved(folder, model):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SAID))
    return folder


def say_in(folder, name="config.json", **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def replace_tensors(folder, change):
    made = change(load_file(folder / WEIGHTS))
    save_file(made, folder / WEIGHTS, metadata={"format": "pt"})


def converted(folder):
    return convert_encoder(folder, folder.parent / "out", ASKED)


READERS = (load_huggingface, PublicEncoder.open, converted)


@pytest.mark.parametrize(
    "numbers, said",
    [
        ({"num_attention_heads": 3}, "num_attention_heads 3, which is none|have another shape"),
        ({"layer_norm_eps": 1.0}, "layer_norm_eps 1.0. Published models have"),
    ],
)
def test_numbers_that_no_model_can_have_are_refused(folder, numbers, said):
    say_in(folder, **numbers)
    for read in READERS:
        with pytest.raises(UserError, match=said):
            read(folder)


def test_another_number_of_heads_than_published_is_told(tmp_path):
    """No tensor shows it, and every feature is another one."""

    def told(**about):
        return list(odd_folder(tmp_path, about))

    for width, heads, other in ((384, 6, 12), (768, 12, 16), (1536, 24, 12), (1280, 20, 10)):
        assert told(hidden_size=width, num_attention_heads=heads) == []
        (said,) = told(hidden_size=width, num_attention_heads=other)
        assert f"num_attention_heads {other}, and published" in said
    # A width that nobody published, a Swin, and a network without heads.
    assert told(hidden_size=96, num_attention_heads=4) == []
    assert told(hidden_size=768, num_heads=[1, 2]) == [] == told(hidden_sizes=[96])


def test_a_tensor_without_which_nothing_is_restored_is_missed_in_a_conversion(folder):
    replace_tensors(folder, lambda t: {n: x for n, x in t.items() if "position" not in n})
    with pytest.raises(UserError, match="embeddings.position_embeddings is missing"):
        converted(folder)
    assert not (folder.parent / "out").exists()


def test_weights_in_whole_numbers_are_refused(folder):
    replace_tensors(folder, lambda t: {n: (100 * x).astype(np.int32) for n, x in t.items()})
    with pytest.raises(UserError, match="values of the type I32"):
        load_huggingface(folder)
    with pytest.raises(UserError, match=r"\(int32\) is quantised"):
        PublicEncoder.open(folder).parameters((2, 8, 8), np.zeros((2, 16), np.float32))


def in_parts(folder):
    tensors = load_file(folder / WEIGHTS)
    where = {name: f"part-{n % 2}.safetensors" for n, name in enumerate(sorted(tensors))}
    for part in {*where.values()}:
        own = {name: x for name, x in tensors.items() if where[name] == part}
        save_file(own, folder / part, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_of_two_copies_all_readers_take_the_whole_file_and_tell(folder, capsys):
    in_parts(folder)
    replace_tensors(folder, lambda t: {name: 2 * x for name, x in t.items()})
    bias = load_huggingface(folder).model.state_dict()["layernorm.weight"].numpy()
    theirs = PublicEncoder.open(folder).tensors["layernorm.weight"]
    converted(folder)
    written = load_file(folder.parent / "out" / WEIGHTS)["layernorm.weight"]
    for found in (bias, theirs, written):
        np.testing.assert_array_equal(found, np.full(16, 2, np.float32))
    assert f"{WEIGHTS} is read, and not the files" in capsys.readouterr().err


def test_an_index_that_is_wrong_is_one_sentence(folder):
    in_parts(folder)
    (folder / WEIGHTS).unlink()
    (folder / "part-1.safetensors").unlink()
    for read in READERS:
        with pytest.raises(UserError, match="part-1.safetensors is missing, which its"):
            read(folder)
    (folder / INDEX).write_text('{"metadata": {}}')
    for read in READERS:
        with pytest.raises(UserError, match=f"{INDEX} is damaged"):
            read(folder)


def test_a_model_that_lies_there_twice_is_told(folder, capsys):
    replace_tensors(folder, lambda t: t | {f"ema.{name}": x + 1 for name, x in t.items()})
    load_huggingface(folder)
    assert "its weights hold the model twice. ema." in capsys.readouterr().err


def test_code_of_a_folder_is_not_even_asked_for(folder, monkeypatch):
    """transformers would ask at the terminal, and run it at a yes."""
    say_in(folder, model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModel": "mine.M"})
    (folder / "mine.py").write_text("raise SystemExit\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(UserError, match="mine: "):
        load_huggingface(folder)


def test_a_model_without_a_square_of_tokens_is_one_sentence(tmp_path):
    small = {"num_encoder_blocks": 1, "depths": [1], "sr_ratios": [1], "hidden_sizes": [8]}
    small |= {"patch_sizes": [3], "strides": [2], "num_attention_heads": [1], "mlp_ratios": [1]}
    config = transformers.SegformerConfig(**small)
    folder = saved(tmp_path / "mine", transformers.SegformerModel(config))
    with pytest.raises(UserError, match="the output of a segformer is no square of patch tokens"):
        load_huggingface(folder)


def test_a_side_in_a_list_is_a_side(folder):
    say_in(folder, image_size=[16, 16])
    (folder / "preprocessor_config.json").write_text("{}")
    assert load_huggingface(folder).side == 16
    say_in(folder, image_size=[16, 24])
    with pytest.raises(UserError, match="Images here are square|another shape"):
        load_huggingface(folder)


def test_means_in_another_order_are_told_and_an_offset_counts(folder):
    said, (mean, std) = "preprocessor_config.json", IMAGENET
    for own, words in (
        ((mean, std), ""),
        ((mean[::-1], std[::-1]), "from blue to red"),
        ((std, mean), "exchanged"),
    ):
        say_in(folder, said, image_mean=list(own[0]), image_std=list(own[1]))
        told = "".join(odd_folder(folder, {}))
        assert words in told and bool(words) == bool(told)
    # EfficientNet's images are from -1 to 1 before they are normalised.
    say_in(folder, said, image_mean=[0.5] * 3, image_std=[0.5] * 3, rescale_factor=1 / 127.5)
    say_in(folder, said, rescale_offset=True)
    found_mean, found_std = channels(folder)
    pixel = np.array([0.0, 0.25, 1.0])
    expected = (pixel * 255 / 127.5 - 1 - 0.5) / 0.5
    np.testing.assert_allclose((pixel - found_mean[0]) / found_std[0], expected)


def test_a_stand_in_of_another_family_or_half_of_one_is_not_taken(tmp_path, monkeypatch):
    """The config may name another family than when the stand-in was saved."""
    group = {"folder": str(tmp_path / "model"), "family": "dinov2", "stand_in": True}
    load_group(group)
    with pytest.raises(UserError, match="lies there is a dinov2, and the config asks for .*'vit'"):
        load_group(group | {"family": "vit"})
    killed = {**group, "folder": str(tmp_path / "killed")}

    def stop(folder):
        (folder / "config.json").parent.mkdir()
        raise KeyboardInterrupt

    class Killed:
        save_pretrained = staticmethod(stop)

    with monkeypatch.context() as patched:
        patched.setitem(stand_ins.FAMILIES, "dinov2", lambda _: Killed)
        with pytest.raises(KeyboardInterrupt):
            load_group(killed)
    assert load_group(killed).fingerprint == load_group(group).fingerprint
