"""Towers of open_clip, timm, Ark+ and transformers: features are those of the published modules."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import published_values as values
import pytest
from safetensors.numpy import save_file
from test_convert import ASKED, published, seen_by_transformers

from mmv_jax.convert.write import convert_encoder
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.huggingface import load_huggingface

torch = pytest.importorskip("torch", reason="extra torch")
transformers = pytest.importorskip("transformers", reason="extra torch")

# As microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 has it, without its text.
BIOMEDCLIP = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}
LAION = {
    "model_cfg": {"vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8}},
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
}
SIGLIP = {
    "model_cfg": {"vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224"}},
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
}
BESIDE = {"biomedclip": BIOMEDCLIP, "open-clip": LAION, "timm-siglip": SIGLIP, "swin": None}


def folder_of(name: str, folder: Path) -> Path:
    folder.mkdir()
    published(name, folder / "weights.safetensors")
    if BESIDE[name] is not None:
        (folder / "open_clip_config.json").write_text(json.dumps(BESIDE[name]))
    return folder


@pytest.mark.parametrize("name", BESIDE)
def test_features_are_those_of_the_published_module(name, tmp_path):
    side = 64 if name == "swin" else 32
    asked = replace(ASKED, side=64) if name == "swin" else ASKED
    made = convert_encoder(folder_of(name, tmp_path / "in"), tmp_path / "out", asked)
    expected = values.features(name)
    found = seen_by_transformers(tmp_path / "out", values.image(side))
    assert np.abs(expected).max() > 1  # else a tolerance would say little
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    if BESIDE[name] is not None:
        assert made.preprocessing["image_mean"] == BESIDE[name]["preprocess_cfg"]["mean"]


def ark(tmp_path: Path) -> Path:
    """The tiny Swin as Ark+ saves it: of timm 0.5.4, parallel, with heads, student and teacher."""
    teacher = {}
    for name, value in values.checkpoint("swin").items():
        # Before timm 0.6 a stage ends with the halving of its grid.
        old = name.replace("layers.1.downsample", "layers.0.downsample")
        teacher[f"module.{old}"] = torch.from_numpy(value)
    for n in (0, 1):
        windows = 16 >> 2 * n
        teacher[f"module.layers.{n}.blocks.1.attn_mask"] = torch.zeros(windows, 16, 16)
    teacher["module.omni_heads.0.weight"] = torch.zeros(14, 48)
    teacher["module.projector.weight"] = torch.zeros(48, 48)
    student = {name: torch.zeros_like(value) for name, value in teacher.items()}
    linear = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.3, momentum=0.9)
    state = {"epoch": 199, "lossMIN": [np.float64(0.1)], "state_dict": student, "teacher": teacher}
    state |= {"optimizer": optimizer.state_dict(), "scheduler": {"last_epoch": 3}}
    torch.save(state, tmp_path / "Ark.pth.tar")
    return tmp_path / "Ark.pth.tar"


def test_the_teacher_of_ark_is_taken_from_its_pickle(tmp_path):
    made = convert_encoder(ark(tmp_path), tmp_path / "out", ASKED)
    found = seen_by_transformers(tmp_path / "out", values.image(64))
    np.testing.assert_allclose(found, values.features("swin"), atol=1e-5, rtol=1e-5)
    assert (made.card["layout"], made.card["weights"]) == ("swin", "teacher")
    assert "state_dict" in made.card["other_copies"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_size"] == 64
    assert "omni_heads.*.weight" in made.card["not_used"]
    # The other copy, by its name.
    student = convert_encoder(
        tmp_path / "Ark.pth.tar", tmp_path / "two", replace(ASKED, weights="state_dict")
    )
    assert student.card["weights"] == "state_dict"
    with pytest.raises(UserError, match="no weights 'ema'"):
        convert_encoder(tmp_path / "Ark.pth.tar", tmp_path / "three", replace(ASKED, weights="ema"))


TOWER = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {key: TOWER[key] for key in list(TOWER)[:4]} | {"vocab_size": 10}


@pytest.mark.parametrize("kind", ["Siglip", "CLIP"])
def test_a_pickled_model_of_two_towers_gives_its_vision_tower(kind, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(text_config=TEXT, vision_config=TOWER)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    # The names of MedSigLIP and XraySigLIP: those of transformers 4.
    names = {f"vision_model.{name}": x for name, x in model.vision_model.state_dict().items()} | {
        f"text_model.{name}": x for name, x in model.text_model.state_dict().items()
    }
    torch.save(names | {"logit_scale": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": kind.lower(), "vision_config": TOWER})
    )
    said = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    made = convert_encoder(tmp_path, tmp_path / "out", ASKED)
    picture = torch.from_numpy(values.image(32))
    with torch.no_grad():
        out = model.vision_model(pixel_values=picture)
    found = seen_by_transformers(tmp_path / "out", picture.numpy())
    # The pooled output has passed the last norm, and is not the CLS token before it.
    np.testing.assert_allclose(found[:1], out.pooler_output.numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1:], out.last_hidden_state[0, -16:].numpy(), atol=1e-5)
    assert "text_model.*" in made.card["not_used"]


def test_images_that_are_not_known_are_asked_for(tmp_path):
    published("biomedclip", tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="open_clip_config.json"):
        convert_encoder(tmp_path / "x.safetensors", tmp_path / "out", ASKED)


def test_a_part_of_the_tower_that_transformers_has_not_is_refused(tmp_path):
    folder = folder_of("open-clip", tmp_path / "in")
    said = json.loads((folder / "open_clip_config.json").read_text())
    said["model_cfg"]["vision_cfg"]["no_ln_pre"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="no_ln_pre"):
        convert_encoder(folder, tmp_path / "out", ASKED)


@pytest.mark.parametrize("name, said", [("swin", "windows"), ("biomedclip", "table of positions")])
def test_a_side_that_the_model_cannot_have_is_refused(name, said, tmp_path):
    folder = folder_of(name, tmp_path / "in")
    with pytest.raises(UserError, match=said):
        convert_encoder(folder, tmp_path / "out", replace(ASKED, side=40))


def test_a_swin_without_its_halving_is_not_whole(tmp_path):
    tensors = values.checkpoint("swin")
    tensors = {name: x for name, x in tensors.items() if "downsample.norm.bias" not in name}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"layers.1.downsample.norm.bias is missing"):
        convert_encoder(tmp_path / "x.safetensors", tmp_path / "out", ASKED)


PUBLIC = Path(__file__).parents[1] / "models" / "public"


@pytest.mark.parametrize("name", ["dinov2", "dinov3"])
def test_a_model_that_transformers_pickled_keeps_its_names(name, tmp_path):
    from safetensors.torch import load_file

    (tmp_path / "in").mkdir()
    weights = load_file(PUBLIC / name / "model.safetensors")
    # As a classifier would have it, beside code that is not taken along.
    pickled = {f"model.{key}": value for key, value in weights.items()}
    torch.save(pickled | {"classifier.weight": torch.ones(2)}, tmp_path / "in" / "x.bin")
    about = json.loads((PUBLIC / name / "config.json").read_text())
    (tmp_path / "in" / "config.json").write_text(json.dumps(about | {"auto_map": {"": "x.py"}}))
    with pytest.raises(UserError, match="preprocessor_config.json must lie beside"):
        convert_encoder(tmp_path / "in", tmp_path / "out", ASKED)
    said = (PUBLIC / name / "preprocessor_config.json").read_text()
    (tmp_path / "in" / "preprocessor_config.json").write_text(said)
    made = convert_encoder(tmp_path / "in", tmp_path / "out", ASKED)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == about["model_type"] and not {"auto_map", "dtype"} & set(config)
    assert "classifier.*" in made.card["not_used"]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key].float()) for key in found)
    seen_by_transformers(tmp_path / "out", values.image(24))
    # A folder that keeps 16 bits is read in 32 as well, as images are.
    assert load_huggingface(PUBLIC / name).model.dtype == torch.float32


def in_shards(tensors, folder: Path) -> None:
    """Two safetensors files and their index, as transformers saves a large model."""
    names = list(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": []}
    parts["model-00002-of-00002.safetensors"] = names[1::2]
    for file, own in parts.items():
        save_file({name: tensors[name].numpy() for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


LANGUAGE = {"hidden_size": 4096, "num_attention_heads": 32, "layer_norm_eps": 1e-5}
SEEN = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 32}


def test_the_whole_of_chexagent_8b_gives_its_blip2_tower(tmp_path):
    """Beside the tower: Q-Former, projection and language model, whose config has other heads."""
    torch.manual_seed(0)
    model = transformers.Blip2VisionModel(transformers.Blip2VisionConfig(**TOWER)).eval()
    with torch.no_grad():
        # All of it counts, also what begins at 0 or 1.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    whole = {f"vision_model.{name}": x for name, x in model.state_dict().items()}
    whole |= {
        "qformer.encoder.layer.0.attention.attention.query.weight": torch.zeros(8, 8),
        "query_tokens": torch.zeros(1, 128, 8),
        "language_projection.weight": torch.zeros(8, 8),
        "language_model.model.layers.0.self_attn.q_proj.weight": torch.zeros(8, 8),
    }
    in_shards(whole, tmp_path)
    config = {"model_type": "chexagent", "vision_config": TOWER, "text_config": LANGUAGE}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SEEN))
    made = convert_encoder(tmp_path, tmp_path / "out", ASKED)
    assert made.card["layout"] == "blip2"
    assert {"language_model.*", "qformer.*"} <= set(made.card["not_used"])
    picture = torch.from_numpy(values.image(32))
    with torch.no_grad():
        expected = model(pixel_values=picture).last_hidden_state[0].numpy()
    found = seen_by_transformers(tmp_path / "out", picture.numpy())
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_the_whole_of_chexagent_2_gives_its_siglip_tower(tmp_path):
    """The tower lies deep in a language model, whose config says nothing of it: heads follow from
    the width, and are not those of the language model.
    """
    torch.manual_seed(0)
    tower = TOWER | {"hidden_size": 128, "num_attention_heads": 2}
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**tower)).eval()
    inner = getattr(model, "vision_model", model)
    whole = {f"model.visual.model.vision_model.{n}": x for n, x in inner.state_dict().items()}
    whole |= {
        "model.visual.attn_pool.query": torch.zeros(8, 8),
        "model.layers.0.self_attn.q_proj.weight": torch.zeros(8, 8),
        "lm_head.weight": torch.zeros(8, 8),
    }
    in_shards(whole, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chexagent", **LANGUAGE}))
    made = convert_encoder(tmp_path, tmp_path / "out", ASKED)
    assert made.card["layout"] == "transformers-tower"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_attention_heads"], config["layer_norm_eps"]) == (2, 1e-6)
    picture = torch.from_numpy(values.image(32))
    with torch.no_grad():
        out = model(pixel_values=picture)
    found = seen_by_transformers(tmp_path / "out", picture.numpy())
    np.testing.assert_allclose(found[:1], out.pooler_output.numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1:], out.last_hidden_state[0].numpy(), atol=1e-5)
