"""Published checkpoints become folders whose features are those of the published module."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import published_values as values
import pytest
from safetensors.numpy import load_file, save_file

from mmv_jax.cli import main
from mmv_jax.convert.write import ConversionRequest, convert_encoder
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.named import declared_patients
from mmv_jax.models.public import PublicEncoder

ASKED = ConversionRequest(licence="MIT", trained_on=["none"])


def published(name: str, path: Path, **more: np.ndarray) -> Path:
    """The published checkpoint, in safetensors."""
    save_file({**values.checkpoint(name), **more}, path)
    return path


def seen_by_transformers(folder: Path, picture: np.ndarray) -> np.ndarray:
    """All tokens [n, D] that the folder's model gives of an image, without registers."""
    torch = pytest.importorskip("torch", reason="extra torch")
    pytest.importorskip("transformers", reason="extra torch")
    from mmv_jax.evaluate.encoders.huggingface import load_huggingface, split_tokens

    encoder = load_huggingface(folder)
    with torch.inference_mode():
        out = encoder.model(pixel_values=torch.from_numpy(picture))
        cls, grids = split_tokens(out, late=encoder.late)
    return np.concatenate([cls.numpy(), grids[-1].reshape(-1, grids.shape[-1]).numpy()])


@pytest.mark.parametrize(
    "name", ["dinov2", "dinov2-registers", "dinov2-gated", "dinov3", "dinov3-gated"]
)
def test_features_are_those_of_the_published_module(name, tmp_path):
    made = convert_encoder(published(name, tmp_path / "x.safetensors"), tmp_path / "out", ASKED)
    expected = values.features(name)
    side = json.loads((tmp_path / "out" / "config.json").read_text())["image_size"]
    side = side if name.startswith("dinov2") else 64
    found = seen_by_transformers(tmp_path / "out", values.image(side))
    assert np.abs(expected).max() > 1  # else a tolerance would say little
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    # Each tensor is told.
    told = made.card["mapped"] + made.card["not_used"]
    assert not made.card["not_used"] or name.startswith("dinov3")
    assert "patch_embed.proj.weight -> embeddings.patch_embeddings" in "\n".join(told)


def test_a_training_can_begin_from_a_converted_folder(tmp_path):
    convert_encoder(published("dinov2", tmp_path / "x.safetensors"), tmp_path / "out", ASKED)
    options = PublicEncoder.open(tmp_path / "out").options
    assert (options["width"], options["depth"], options["patch"]) == (128, 2, (None, 14, 14))


def test_blocks_in_chunks_and_prefixes_are_the_same_model(tmp_path):
    plain = values.checkpoint("dinov2")
    chunked = {
        "module.backbone."
        + name.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): x
        for name, x in plain.items()
    }
    save_file(chunked | {"module.dino_head.mlp.0.weight": np.zeros(3, np.float32)}, tmp_path / "y")
    (tmp_path / "y").rename(tmp_path / "y.safetensors")
    convert_encoder(published("dinov2", tmp_path / "x.safetensors"), tmp_path / "one", ASKED)
    made = convert_encoder(tmp_path / "y.safetensors", tmp_path / "two", ASKED)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)
    assert made.card["not_used"] == ["module.*"]


def test_the_preprocessing_beside_the_weights_counts_before_that_of_the_layout(tmp_path):
    said = {"size": {"height": 56, "width": 56}, "image_mean": [0.5307] * 3, "image_std": [0.2583]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    made = convert_encoder(published("dinov2", tmp_path / "x.safetensors"), tmp_path / "o", ASKED)
    assert json.loads((tmp_path / "o" / "preprocessor_config.json").read_text()) == said
    assert made.card["preprocessing"] == "of its preprocessor_config.json"


def _without(part):
    def spoil(tensors):
        return {name: x for name, x in tensors.items() if part not in name}

    return spoil


def _nan(tensors):
    return tensors | {"norm.bias": np.full(128, np.nan, np.float32)}


WRONG = {
    "another model's": (lambda t: {"conv1.weight": np.zeros(2, np.float32)}, "of no layout"),
    "a tensor more": (
        lambda t: t | {"blocks.0.attn.q_norm.weight": np.zeros(2, np.float32)},
        "another model",
    ),
    "no norm": (_without("norm.bias"), "not whole"),
    "a block too few": (_without("blocks.0.norm"), "not whole"),
    "no number": (_nan, "not finite"),
    "another grid": (lambda t: t | {"pos_embed": t["pos_embed"][:, :16]}, "not a square"),
}


@pytest.mark.parametrize("spoil, said", WRONG.values(), ids=WRONG.keys())
def test_a_foreign_checkpoint_is_one_clear_error_and_no_folder(spoil, said, tmp_path):
    save_file(spoil(values.checkpoint("dinov2")), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=said) as told:
        convert_encoder(tmp_path / "x.safetensors", tmp_path / "out", ASKED)
    assert str(told.value).startswith("x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_block_of_which_a_tensor_is_missing_is_refused(tmp_path):
    tensors = _without("blocks.1.norm1.bias")(values.checkpoint("dinov2"))
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"blocks.1.norm1.bias"):
        convert_encoder(tmp_path / "x.safetensors", tmp_path / "out", ASKED)


def test_the_command_tells_every_tensor_and_the_digest(tmp_path, capsys):
    source = str(published("dinov3", tmp_path / "x.safetensors"))
    words = ["--out", str(tmp_path / "out"), "--licence", "DINOv3 License", "--side", "64"]
    assert main(["convert-encoder", source, *words, "--trained-on", "LVD-1689M"]) == 0
    out = capsys.readouterr().out
    assert "blocks.*.attn.qkv.weight -> layer.*.attention.q_proj.weight" in out
    assert "rope_embed.periods -> not used" in out
    assert "x.safetensors: sha256 " in out and "trained on: LVD-1689M" in out
    card = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert card["layout"] == "dinov3" and len(card["files"]["x.safetensors"]) == 64
    assert str(tmp_path) not in json.dumps(card)
    # A second time the folder is there.
    assert main(["convert-encoder", source, *words, "--trained-on", "none"]) == 2
    words[1] = str(tmp_path / "other")
    assert main(["convert-encoder", source, *words, *["--trained-on", "none"] * 2]) == 2


def test_declared_data_sets_are_counted_as_seen(tmp_path):
    index = pd.DataFrame(
        {
            "patient": ["a", "b", "b", "c", "d"],
            "label_source": ["NIH ChestX-ray14", "CheXpert", "MIMIC-CXR", None, "RSNA"],
        }
    )

    def seen(*names):
        card = {"trained_on": list(names)}
        (tmp_path / "conversion.json").write_text(json.dumps(card))
        return declared_patients(tmp_path, index)

    assert seen("chestx-ray14", "Mimic CXR") == {"a", "b"}
    assert seen("none") == seen("unknown") == seen("PMC-15M") == set()
    assert declared_patients(tmp_path / "no card", index) == set()
    assert declared_patients(tmp_path, index.drop(columns="label_source")) == set()
    (tmp_path / "conversion.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        declared_patients(tmp_path, index)
