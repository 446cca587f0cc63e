"""Two modalities of the same patients: pairs, subspaces, differences, maps and the page."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict
from tiny import KEY, write_checkpoint

from mmv_jax.commands.keys import load_for
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.attention import last_attention
from mmv_jax.evaluate.encoders.trained import restore
from mmv_jax.evaluate.pairs.compared import compare_ways, pairs_to_compare
from mmv_jax.evaluate.pairs.find import Factor, find_pairs, odd_pairs, read_factors
from mmv_jax.evaluate.pairs.measure import (
    ALL,
    ERASED,
    PRIVATE,
    RAW,
    SHARED,
    WRONG,
    measure_pairs,
    over_seeds,
)
from mmv_jax.evaluate.pairs.page import where_found
from mmv_jax.evaluate.pairs.spaces import PairFeatures
from mmv_jax.face.runs import evaluate
from mmv_jax.models.blocks import Combine
from mmv_jax.report.page import remake
from mmv_jax.store.layout import FORMAT, STORE_JSON, open_root
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study

NAMES = ("CXR", "CT")
SPLIT = np.array(["train"] * 200 + ["val"] * 60 + ["test"] * 60)


def planted(seed=0, noise=0.1, one_space=True):
    """Features of 320 pairs: two shared factors, and one in each modality alone."""
    rng = np.random.default_rng(seed)
    shared, first, second = rng.normal(size=(320, 2)), *rng.normal(size=(2, 320, 1))
    sides = [
        np.concatenate([shared, own, 0.5 * rng.normal(size=(320, 5))], axis=1)
        @ np.random.default_rng(8).normal(size=(8, 8))
        + offset
        + noise * rng.normal(size=(320, 8))
        for own, offset in ((first, 2.0), (second, -2.0))
    ]
    factors = [
        Factor("size", shared[:, 0] + 0.1 * rng.normal(size=320), "shared"),
        Factor("class", (shared[:, 1] > 0).astype(float), "shared"),
        Factor("film", first[:, 0], "first"),
        Factor("place", second[:, 0], "second"),
    ]
    return PairFeatures(*sides, one_space), factors


@pytest.fixture(scope="module")
def measured():
    features, factors = planted()
    return measure_pairs(features, SPLIT, NAMES, factors), factors


def test_factors_are_found_where_they_were_planted(measured):
    parts, factors = measured
    assert [where_found(parts, factor, NAMES)[1] for factor in factors] == ["good"] * 4
    # In the wrong place they are told of as such.
    moved = Factor("film", factors[2].values, "shared")
    assert where_found(parts, moved, NAMES) == ("CXR: private", "bad")
    assert parts["factor film", f"CT, {ALL}"].found.value < 0.2
    for leaf, lowest, highest in ((SHARED, 0.7, 1.0), (PRIVATE, -0.5, 0.2), (WRONG, -0.5, 0.9)):
        assert lowest < parts["factor size", f"CXR, {leaf}"].found.value < highest


def test_likeness_retrieval_and_modality_of_planted_features(measured):
    parts, _ = measured
    cka = parts["likeness", "debiased CKA"].found
    assert (
        cka.low < cka.value < cka.high and cka.low > parts["likeness", "its null, 95 %"].found.value
    )
    assert parts["shared subspace", "variates that val shows"].found.value == 2
    for task in ("CT from CXR", "CXR from CT"):
        chance = parts[task, "mAP, chance"].found.value
        assert parts[task, f"mAP, {SHARED}"].found.low > 5 * chance
        # The modality's offset hides the pair until it is removed.
        assert parts[task, f"mAP, {RAW}"].found.value < parts[task, f"mAP, {ERASED}"].found.value
    assert parts["modality", f"AUROC of a linear probe, {RAW}"].found.value == 1.0
    # The probe is left nothing, and predicts the same of all: an AUROC of 1/2, without an interval.
    erased = parts["modality", f"AUROC of a linear probe, {ERASED}"].found
    assert erased.value == 0.5 and np.isnan(erased.low)


def test_twins_have_no_common_space():
    features, factors = planted(one_space=False)
    parts = measure_pairs(features, SPLIT, NAMES, factors)
    assert ("CT from CXR", f"mAP, {SHARED}") in parts
    assert not [key for key in parts if RAW in key[1] or key[0] == "modality"]


def test_more_noise_is_told_as_a_difference_over_seeds():
    found = {
        name: [measure_pairs(planted(s, noise)[0], SPLIT, NAMES, planted(s)[1]) for s in range(2)]
        for name, noise in (("clean", 0.1), ("noisy", 2.0))
    }
    compared = compare_ways(found, pairs_to_compare((), list(found)))
    told = {c.key[1]: c for c in compared}
    assert told[f"mAP of both directions, {SHARED}"].words == "higher"
    assert all(c.better_by.low <= c.better_by.value <= c.better_by.high for c in compared)
    merged = over_seeds(found["clean"])["likeness", "debiased CKA"].found
    assert merged.fits == 2 and merged.sd > 0
    with pytest.raises(UserError, match="config.compare.*clean, noisy"):
        pairs_to_compare([("clean", "other")], list(found))
    for asked in ("clean", ("clean", "noisy"), [("clean", "clean")]):
        with pytest.raises(UserError, match="config.compare"):
            pairs_to_compare(asked, list(found))


def index_of(lines):
    columns = ("patient", "modality", "split", "label_size", "label_sex")
    return pd.DataFrame(lines, columns=columns)


def test_pairs_take_the_first_study_of_each_modality_and_count_the_others():
    index = index_of(
        [
            ("a", "CXR", "train", 1.0, "F"),
            ("a", "CXR", "train", 2.0, "F"),
            ("a", "CT", "train", 3.0, "F"),
            ("b", "CT", "test", 4.0, "M"),
            ("c", "CXR", "test", np.nan, "M"),
            ("c", "CT", "test", 5.0, "M"),
        ]
    )
    pairs = find_pairs(index, NAMES)
    assert pairs.studies.tolist() == [[0, 4], [2, 5]] and pairs.split.tolist() == ["train", "test"]
    assert pairs.flow["patients without CXR"] == 1 and pairs.flow["further studies of these"] == 1
    assert "2 patients have a CXR and a CT" in pairs.why_none
    size, sex = read_factors(index, pairs, {"shared": ("size",), "first": ("sex",)})
    assert size.values.tolist() == [3.0, 5.0]  # of the second modality, where it has one
    assert sex.values.tolist() == [0.0, 1.0] and sex.has_classes
    with pytest.raises(UserError, match="config.factors has 'both'.*shared, first, second"):
        read_factors(index, pairs, {"both": ("size",)})
    with pytest.raises(UserError, match="modality 'MR'.*CT, CXR"):
        find_pairs(index, ("CXR", "MR"))


def test_pairs_of_one_image_and_images_of_two_pairs_are_told():
    known = {"grid_z": 1, "grid_y": 64, "grid_x": 64, "low": 0.0, "high": 1.0}
    index = index_of([(p, m, "train", 1.0, "F") for p in "abcd" for m in NAMES]).assign(**known)
    plain, twice = (index.assign(checksum=list(each)) for each in ("01234567", "00234523"))
    pairs = find_pairs(index, NAMES)
    assert list(odd_pairs(plain, pairs)) == []
    # Both images of a are one, and those of d are those of b.
    same, several = odd_pairs(twice, pairs)
    assert same == "1 of 4 pairs have the same pixels on both sides."
    assert several.startswith("1 pairs have an image that another patient's pair has too")
    (size,) = read_factors(index, pairs, {"shared": "size"})  # a name without brackets
    assert size.name == "size"


def write_pairs(path: Path, patients=84, same=True) -> Path:
    """A disc and a ball of the same radius for each patient, or of patients of their own."""
    root, rng = open_root(path), np.random.default_rng(0)
    radii = rng.uniform(3, 5, patients)
    for ndim, shape, modality in ((2, (1, 24, 20), "CXR"), (3, (12, 24, 20), "CT")):
        part = PartWriter(root, f"part-{ndim}", ndim)
        for i in range(patients):
            z, y, x = np.indices(shape)
            away = (y - 12) ** 2 + (x - 10) ** 2 + ((z - 6) ** 2 if ndim == 3 else 0)
            voxels = np.where(away < radii[i] ** 2, 300.0, -200.0) + 20 * rng.normal(size=shape)
            known = {
                "study": f"{modality}{i:04d}",
                "patient": f"p{i}" if same else f"{modality}-p{i}",
                "line": i + 2,
                "manifest": modality,
                "split": ("train", "train", "val", "test")[i % 4],
                "modality": modality,
                "label_radius": radii[i],
            }
            spacing = (2.0, 1.5, 1.5) if ndim == 3 else (float("nan"), 4.0, 4.0)
            unit = "HU" if ndim == 3 else "raw"
            part.add(Study(np.round(voxels).astype(np.int16), spacing, ndim, unit), {}, known)
        part.close()
    told = {"format": FORMAT, "key_fingerprint": KEY, "manifests": []}
    root.write(STORE_JSON, json.dumps(told)).result()
    return path


def config_of(store: Path) -> ConfigDict:
    config = load_for("mmv evaluate", Path(__file__).parents[2] / "experiments/eval_pairs.py")
    config.data.store = str(store)
    config.rows = {"length": 128, "rows": 4}
    with config.unlocked():
        config.encoders = {}
        config.factors = {"shared": ("radius",)}
    return config


def test_the_evaluation_of_pairs_from_checkpoints_to_the_page(tmp_path):
    config, own = config_of(write_pairs(tmp_path / "store")), tmp_path / "out"
    runs = [str(write_checkpoint(tmp_path / f"run{n}", seed=n)) for n in range(2)]
    with config.unlocked():
        config.encoders.joint = {"checkpoint": tuple(runs)}
        config.encoders.alone = {"checkpoint": runs[0]}
        config.compare = [("joint", other) for other in ("twins", "alone", "random", "pixels")]
        config.encoders.twins = {
            "CXR": {"checkpoint": tuple(runs)},
            "CT": {"checkpoint": tuple(runs[::-1])},
        }
    told = evaluate(config, None, own)
    assert "joint minus twins" in told and "report:" in told
    metrics = json.loads((own / "metrics.json").read_text())
    assert set(metrics["means"]) == {"joint", "alone", "twins", "random", "pixels"}
    assert metrics["likeness"]["joint"]["debiased CKA"]["fits"] == 2
    assert set(metrics["modality"]) == {"joint", "alone", "random"}
    protocol = json.loads((own / "protocol.json").read_text())
    assert (
        len(protocol["claim_2024"]) == 44 and protocol["flow"]["pairs"]["patients with both"] == 84
    )
    page = (own / "report.html").read_text()
    for title in (
        "Retrieval",
        "Maps: features as colours",
        "Flow of studies",
        "Checklist of CLAIM",
    ):
        assert title in page
    assert remake(own).read_text() == page
    # The same command again reads the features and gives the same figures.
    evaluate(config, None, own)
    assert json.loads((own / "metrics.json").read_text()) == metrics


def test_a_store_without_pairs_says_what_is_not_possible(tmp_path):
    config = config_of(write_pairs(tmp_path / "store", same=False))
    told = evaluate(config, str(write_checkpoint(tmp_path / "run")), tmp_path / "out")
    assert "0 patients have a CXR and a CT study" in told and "not possible here" in told
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert set(metrics) == {"modality"} and set(metrics["modality"]) == {"trained", "random"}
    assert "not possible here" in (tmp_path / "out/report.html").read_text()


def test_without_an_encoder_or_with_unequal_twins_it_says_so(tmp_path):
    config, run = config_of(write_pairs(tmp_path / "store", 12)), write_checkpoint(tmp_path / "run")
    with pytest.raises(UserError, match="config.encoders is empty"):
        evaluate(config, None, tmp_path / "out")
    with config.unlocked():
        both = {"checkpoint": (str(run), str(run))}
        config.encoders.twins = {"CXR": both, "CT": {"checkpoint": str(run)}}
    with pytest.raises(UserError, match="2 encoders of CXR and 1 of CT"):
        evaluate(config, None, tmp_path / "out")
    config.pairs = ("CXR", "CXR")
    with pytest.raises(UserError, match="name two modalities"):
        evaluate(config, None, tmp_path / "out")


def test_attention_that_is_read_gives_the_block_that_was_computed(tmp_path):
    trained, _ = restore(write_checkpoint(tmp_path / "run"), {"length": 64, "rows": 1})
    encoder, params, rng = trained.encoder, trained.params, np.random.default_rng(0)
    ids = np.array([[1] * 20 + [2] * 30 + [0] * 14], np.int32)
    kinds = np.where(ids > 0, 100, 0).astype(np.int32)
    kinds[0, [0, 20]] = 1
    inputs = (
        rng.normal(size=(1, 64, int(np.prod(encoder.patch)))).astype(np.float32),
        40 * rng.normal(size=(1, 64, 3)).astype(np.float32),
        kinds,
        ids,
    )
    inputs = tuple(map(jnp.asarray, inputs))
    shares = np.asarray(last_attention(encoder, params, *inputs))
    np.testing.assert_allclose(shares.sum(axis=-1)[0, :, :50], 1.0, atol=1e-5)
    assert not shares[0, :, :20, 20:].any() and not shares[0, :, 50:].any()
    # The last block again, from these shares and the values of its own projection.
    out = encoder.apply({"params": params}, *inputs)
    stack = params["blocks"]["stack"]
    last = {name: _last(stack[name]) for name in ("project", "combine")}
    x = np.asarray(out["blocks"][-2], np.float64)
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + encoder.epsilon)
    norm, qkv = last["project"]["norm"], last["project"]["qkv"]
    values = (normed * norm["scale"] + norm["bias"]) @ qkv["kernel"] + qkv["bias"]
    values = values[..., 2 * encoder.width :].reshape(1, 64, encoder.heads, -1)
    found = np.einsum("bhlm,bmhk->blhk", shares, values).astype(np.float32)
    combine = Combine(encoder.mlp, encoder.layer_scale, encoder.dtype, epsilon=encoder.epsilon)
    inside = jnp.asarray(x, jnp.float32), jnp.asarray(found)
    again = combine.apply({"params": last["combine"]}, *inside, None)
    np.testing.assert_allclose(again[0, :50], out["blocks"][-1][0, :50], atol=1e-4)


def _last(tree):
    return (
        {k: _last(v) for k, v in tree.items()} if isinstance(tree, dict) else np.asarray(tree)[-1]
    )
