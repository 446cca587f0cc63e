"""Checkpoints of true formats that are not what they seem: one sentence each, and no folder."""

import json

import numpy as np
import published_values as values
import pytest
from safetensors.numpy import load_file, save_file

from mmv_jax.convert.card import checked_names
from mmv_jax.convert.write import ConversionRequest, convert_encoder
from mmv_jax.errors import UserError

ASKED = ConversionRequest(licence="MIT", trained_on=["none"])


@pytest.fixture(scope="module")
def dinov2():
    return values.checkpoint("dinov2")


def converted(tensors, folder, asked=ASKED, **beside):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    for name, content in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    convert_encoder(folder, folder / "out", asked)
    return load_file(folder / "out" / "model.safetensors")


def changed(name, change):
    return lambda t: t | {name: np.ascontiguousarray(change(t[name]))}


WRONG = {
    "thirds": (changed("blocks.0.attn.qkv.weight", lambda x: x[:-1]), "qkv.* has the shape"),
    "a bias": (changed("blocks.1.attn.proj.bias", lambda x: x[:-1]), "proj.bias has the shape"),
    "a block": (
        changed("blocks.1.mlp.fc1.weight", lambda x: x[:, :-1]),
        "fc1.weight has the shape",
    ),
    "a token": (changed("cls_token", lambda x: x[..., :64]), "the model is 128 wide"),
    "grey": (changed("patch_embed.proj.weight", lambda x: x[:, :1]), "of three channels"),
    "flat": (changed("patch_embed.proj.weight", lambda x: x.reshape(len(x), -1)), "of three chan"),
    "oblong": (changed("patch_embed.proj.weight", lambda x: x[..., :7]), "square patches"),
    "quantised": (changed("norm.weight", lambda x: x.astype(np.int8)), "the type I8"),
}


@pytest.mark.parametrize("spoil, said", WRONG.values(), ids=WRONG.keys())
def test_a_tensor_that_does_not_fit_its_neighbours_is_named(spoil, said, dinov2, tmp_path):
    with pytest.raises(UserError, match=said) as told:
        converted(spoil(dinov2), tmp_path / "mine")
    assert str(told.value).startswith("mine, read as dinov2: ")
    assert not (tmp_path / "mine" / "out").exists()


def both(tensors, first, second):
    """Two copies in one dictionary; the norm of the first is one higher."""
    higher = {**tensors, "norm.weight": tensors["norm.weight"] + 1}
    return {
        **{f"{first}.{name}": x for name, x in higher.items()},
        **{f"{second}.{name}": x for name, x in tensors.items()},
    }


def test_the_teacher_is_taken_where_the_student_stands_in_the_same_dictionary(dinov2, tmp_path):
    whole = both(dinov2, "student.backbone", "teacher.backbone")
    norm = converted(whole, tmp_path / "mine")["layernorm.weight"]
    np.testing.assert_array_equal(norm, dinov2["norm.weight"])
    asked = ConversionRequest(licence="MIT", trained_on=["none"], weights="student")
    norm = converted(whole, tmp_path / "other", asked)["layernorm.weight"]
    np.testing.assert_array_equal(norm, dinov2["norm.weight"] + 1)


def test_of_two_copies_none_is_taken_by_chance(dinov2, tmp_path):
    whole = both(dinov2, "base_encoder", "momentum_encoder")
    with pytest.raises(UserError, match="--weights base_encoder or momentum_encoder"):
        converted(whole, tmp_path / "mine")


def test_the_average_of_a_training_counts_before_its_last_weights(dinov2, tmp_path):
    torch = pytest.importorskip("torch", reason="extra torch")
    plain = {name: torch.from_numpy(x) for name, x in dinov2.items()}
    for name in ("ema", "state_dict_ema"):
        kept = {"state_dict": {**plain, "norm.weight": plain["norm.weight"] + 1}, name: plain}
        torch.save(kept, tmp_path / f"{name}.pth")
        made = convert_encoder(tmp_path / f"{name}.pth", tmp_path / name, ASKED)
        assert (made.card["weights"], made.card["other_copies"]) == (name, "state_dict")


def test_files_that_are_no_weights_are_told(dinov2, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    with pytest.raises(UserError, match="model.safetensors is a pointer of Git LFS.*git lfs pull"):
        convert_encoder(folder, tmp_path / "out", ASKED)
    with pytest.raises(UserError, match="adapters .LoRA. lie here.*merge_and_unload"):
        converted(dinov2, folder, adapter_config={"peft_type": "LORA"})


def test_whole_weights_count_before_a_pickle_in_parts(dinov2, tmp_path):
    index = {"pytorch_model.bin.index": {"weight_map": {"a": "pytorch_model-00001-of-2.bin"}}}
    assert converted(dinov2, tmp_path / "mine", **index)


def test_means_that_a_folder_declares_count_before_those_of_the_layout(dinov2, tmp_path):
    timm = {"pretrained_cfg": {"mean": [0.5307] * 3, "std": [0.2583] * 3}}
    converted(dinov2, tmp_path / "mine", config=timm)
    seen = json.loads((tmp_path / "mine" / "out" / "preprocessor_config.json").read_text())
    assert (seen["image_mean"], seen["image_std"]) == ([0.5307] * 3, [0.2583] * 3)


def test_images_that_would_all_be_alike_are_refused(dinov2, tmp_path):
    for n, said in enumerate(({"rescale_factor": 1 / 65535}, {"image_std": [57.0] * 3})):
        with pytest.raises(UserError, match="a white pixel and a black one are 0.0"):
            converted(dinov2, tmp_path / str(n), preprocessor_config=said)


def test_words_for_training_data_are_words_in_any_case():
    assert checked_names(["Unknown"]) == ["unknown"] and checked_names([" NONE "]) == ["none"]
    with pytest.raises(UserError, match="--trained-on"):
        checked_names(["UNKNOWN", "MIMIC-CXR"])
