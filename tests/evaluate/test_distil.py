"""From a teacher's features in a folder to an encoder that predicts them."""

import json
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from nano import drawn_state
from scipy.spatial.distance import cosine

from mmv_jax.data.crops import Crops, Geometry, whole_crops
from mmv_jax.data.occupancy import kept_tokens
from mmv_jax.data.resample import read_crop
from mmv_jax.data.teachers import Teacher, axis_weights
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.encoders.teach import teach
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.evaluate.tasks.scenes import tiles
from mmv_jax.objectives.distil import DistilTerm, cosine_distance
from mmv_jax.objectives.term import Work
from mmv_jax.parallel import make_mesh, on_mesh
from mmv_jax.store.layout import FORMAT, STORE_JSON, open_root
from mmv_jax.store.read import Store
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study
from mmv_jax.train.log import read_metrics
from mmv_jax.train.loop import make_parts, make_rows, pretrain
from mmv_jax.train.state import shapes_of_state
from mmv_jax.train.step import jit_step

CARD = {
    "name": "brightness",
    "preprocessing": "none",
    "licence": "MIT",
    "trained_on": "nothing",
    "patients": "none",
}


@dataclass(frozen=True)
class Brightness:
    """A teacher: mean, spread and corner of each patch, three numbers a token."""

    fingerprint: str = "brightness"

    def views(self, geometry):
        crops = whole_crops(geometry, {2: (1, 64, 64), 3: (32, 32, 32)}, (4, 8, 8))
        return crops, kept_tokens(geometry, crops)

    def encode(self, store, studies):
        geometry = Geometry.of(store.index)
        crops, kept = self.views(geometry[studies])
        for n, study in enumerate(studies.tolist()):
            voxels, _ = read_crop(store, geometry, study, crops[n])
            own = tiles(voxels, kept[n][tuple(map(slice, crops.tokens[n]))]).astype(np.float32)
            patches = np.stack([own.mean(axis=1), own.std(axis=1), own[:, 0]], axis=1)
            yield Encoded(study, patches.max(axis=0), patches, patches[None][:0])


def write_store(folder):
    root, rng = open_root(folder), np.random.default_rng(0)
    for ndim, shape, spacing in (
        (2, (1, 64, 64), (float("nan"), 3.0, 3.0)),
        (3, (16, 32, 32), (4.0, 3.0, 3.0)),
    ):
        part = PartWriter(root, f"part-{ndim}d", ndim)
        for i in range(6):
            z, y, x = np.indices(shape) / 32
            wave = np.sin(3 * y + i) + np.cos(4 * x - i) + z
            voxels = np.round(300 * wave + 20 * rng.normal(size=shape)).astype(np.int16)
            known = {"study": f"{ndim}{i:015x}", "patient": f"{ndim}{i:015x}", "line": i + 2}
            known |= {"manifest": 1, "split": "test" if i == 5 else "train"}
            unit, modality = ("raw", "CXR") if ndim == 2 else ("HU", "CT")
            part.add(Study(voxels, spacing, ndim, unit), {}, known | {"modality": modality})
        part.close()
    about = {"format": FORMAT, "key_fingerprint": "0123", "manifests": []}
    root.write(STORE_JSON, json.dumps(about).encode()).result()
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    write_store(folder / "store")
    said = teach(Brightness(), folder / "store", folder / "teacher", card=CARD, width=3)
    assert said.startswith("10 studies, ")
    return folder


class Wide(nn.Module):
    width: int = 8


def make_config(folder, **more) -> ConfigDict:
    c = ConfigDict({"seed": 0, "steps": 60})
    c.mesh = {"data": 8, "fsdp": 1}
    c.data = {"store": str(folder / "store"), "workers": 0, "teachers": (str(folder / "teacher"),)}
    c.rows = {"length": 96, "prefix": 96, "segments": 4, "per_step": 8, "visible_share": 0.25}
    views = {"globals": 1, "global_scale": (0.5, 1.0)}
    c.crops = {
        "planar": views | {"global_grid": (4, 48, 48)},
        "volume": views | {"global_grid": (16, 32, 32)},
    }
    c.encoder = {"size": "nano", "patch": (4, 8, 8), "registers": 1, "attention": "dense"}
    c.objective = {"distil": 1.0, "distil_widths": (3,)} | more
    c.optimizer = {"peak_lr": 3e-3, "at_rows": 8, "warmup": 0.1, "weight_decay": 0.05}
    c.ema = {"start": 0.99, "at_rows": 8}
    c.checkpoint = {"every": 100, "keep": 1}
    c.health = {"every": 100}
    return c


def test_weights_of_an_axis_are_means_of_large_and_interpolations_of_small_tokens():
    cells = {"cells": 4, "start": 0.0, "step": 2.0}  # their centres lie at 1, 3, 5, 7
    np.testing.assert_allclose(
        axis_weights(np.array([4.0]), 8.0, **cells), [[0.25, 0.25, 0.25, 0.25]]
    )
    ramp = np.array([1.0, 3.0, 5.0, 7.0])
    points = np.array([1.0, 2.2, 4.9, 6.5])
    found = axis_weights(points, 0.5, **cells) @ ramp
    np.testing.assert_allclose(found, np.interp(points, ramp, ramp))


def test_the_features_have_mean_0_and_mean_square_1_and_no_test_study_is_there(taught):
    teacher, store = Teacher.open(taught / "teacher"), Store.open(taught / "store")
    assert teacher.strangeness() is None
    tokens = teacher.tokens.astype(np.float32)
    np.testing.assert_allclose(tokens.mean(axis=0), 0, atol=5e-3)
    assert np.square(tokens).mean() == pytest.approx(1, abs=0.01)
    hidden = store.index["study"][store.index["split"] == "test"]
    assert not set(hidden) & set(teacher.lines)
    found, there, vector = teacher.targets(hidden.iloc[0], *_crop(store, 5))
    assert not there.any() and not found.any() and not vector.any()


def _crop(store, study):
    geometry = Geometry.of(store.index)
    crops, kept = Brightness().views(geometry[np.array([study])])
    return crops[0], kept[0][tuple(map(slice, crops.tokens[0]))]


@pytest.mark.parametrize("study", [0, 7])
def test_a_token_at_a_teachers_place_gets_its_features(taught, study):
    teacher, store = Teacher.open(taught / "teacher"), Store.open(taught / "store")
    crop, kept = _crop(store, study)
    name = store.index["study"].iloc[study]
    found, there, _ = teacher.targets(name, crop, kept)
    line = teacher.lines[name]
    first, count = teacher.places["first"][line], teacher.places["count"][line]
    assert there.all() and count == kept.sum()
    np.testing.assert_allclose(found, teacher.tokens[first : first + count], atol=2e-3)


def test_a_volumes_token_gets_the_mean_over_its_depth(taught):
    teacher, store = Teacher.open(taught / "teacher"), Store.open(taught / "store")
    crop, kept = _crop(store, 7)
    name, layers = store.index["study"].iloc[7], kept.shape[0]
    deep = Crops(crop.start_mm, crop.spacing_mm, crop.tokens, (4 * layers, 8, 8))
    whole = np.ones((1, *kept.shape[1:]), bool)
    found, there, _ = teacher.targets(name, deep, whole)
    line = teacher.lines[name]
    first, count = teacher.places["first"][line], teacher.places["count"][line]
    place = np.unravel_index(teacher.places["place"][first : first + count], kept.shape)
    grid = np.full((*kept.shape, 3), np.nan)
    grid[place] = teacher.tokens[first : first + count]
    full = ~np.isnan(grid[..., 0]).any(axis=0).ravel()
    np.testing.assert_allclose(found[full], grid.mean(axis=0).reshape(-1, 3)[full], atol=2e-3)
    assert there[full].all()


def test_the_distance_is_scipys():
    rng = np.random.default_rng(0)
    x, y, there = rng.normal(size=(2, 5, 7)), rng.normal(size=(2, 5, 7)), rng.random((2, 5)) < 0.7
    expected = np.mean([cosine(a, b) for a, b in zip(x[there], y[there], strict=True)])
    found = cosine_distance(jnp.float32(x), jnp.float32(y), jnp.asarray(there))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    nothing = jax.grad(lambda x: cosine_distance(x, jnp.float32(y), jnp.zeros((2, 5), bool)))
    assert not np.asarray(nothing(jnp.zeros((2, 5, 7)))).any()


def test_a_batch_is_learnt(taught):
    config = make_config(taught)
    config.rows.per_step, config.optimizer.at_rows, config.steps = 2, 2, 30
    config.optimizer.peak_lr = 1e-2
    mesh = make_mesh(devices=jax.devices()[:1])
    objective, tx, ema = make_parts(config)
    rows = make_rows(Store.open(taught / "store"), config)
    shapes = shapes_of_state(objective, tx, rows.spec, mesh, seed=0)
    state = drawn_state(shapes)  # nothing is compiled for it
    step, batch, losses = jit_step(objective, tx, ema, shapes, mesh), rows.batch(0), []
    with on_mesh(mesh):
        for _ in range(config.steps):
            state, metrics = step(state, batch)
            losses.append(float(metrics["distil"]))
    assert np.mean(losses[-3:]) < 0.4 * losses[0]


@pytest.mark.full
def test_a_run_learns_what_the_teacher_says(taught, tmp_path):
    pretrain(make_config(taught), tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    assert np.mean([line["distil"] for line in lines[-5:]]) < 0.5 * lines[0]["distil"]
    assert {"distil_tokens_0", "distil_cls_0"} <= set(lines[-1])


def test_rows_hold_the_targets_of_every_teacher(taught):
    config = make_config(taught, distil_widths=(3, 3))
    config.data.teachers = (str(taught / "teacher"),) * 2
    rows = make_rows(Store.open(taught / "store"), config)
    batch = rows.batch(0)
    np.testing.assert_array_equal(batch["targets"][..., :3], batch["targets"][..., 3:])
    assert batch["targets_there"][batch["kinds"] == 100].mean() > 0.9
    assert not batch["targets_there"][batch["kinds"] != 100].any()
    config.objective.distil_widths = (4, 3)
    with pytest.raises(UserError, match=r"have \(3, 3\) features"):
        make_rows(Store.open(taught / "store"), config)


def test_features_that_are_not_normalised_are_told(taught, tmp_path):
    teacher = Teacher.open(taught / "teacher")
    for name in ("card.json", "places.npz", "cls.npy"):
        (tmp_path / name).write_bytes((taught / "teacher" / name).read_bytes())
    np.save(tmp_path / "tokens.npy", (5 * teacher.tokens + 3).astype(np.float16))
    assert "not normalised" in Teacher.open(tmp_path).strangeness()


def test_what_a_teacher_has_seen_counts_as_seen():
    carried = {"key_fingerprint": "k", "patients": ["a"]}
    told = {"pretraining": carried | {"teachers": [CARD]}}
    assert Overlap.of(told, "k").patients == frozenset("a")
    told["pretraining"]["teachers"][0] = CARD | {"patients": ["b"]}
    assert Overlap.of(told, "k").patients == frozenset("ab")
    told["pretraining"]["teachers"][0] = CARD | {"patients": "unknown"}
    assert "brightness" in Overlap.of(told, "k").reason


def test_a_term_without_widths_and_a_folder_without_card_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="distil_widths"):
        DistilTerm(Wide())
    with pytest.raises(UserError, match="card.json"):
        Teacher.open(tmp_path)


def test_what_the_head_costs():
    found = DistilTerm(Wide(), distil_widths=(3, 2)).flops(Work(2, 10, 5, 0, 0, segments=4))
    assert found["distil head"].forward == 2 * 2 * 14 * 8 * 5


def test_a_part_of_a_store_is_taught_and_an_unknown_value_is_refused(taught, tmp_path):
    ask = partial(teach, Brightness(), taught / "store", card=CARD, width=3)
    assert ask(tmp_path / "ct", only={"modality": ["CT"]}).startswith("5 studies, ")
    index = Store.open(taught / "store").index
    volumes = set(index["study"][(index["modality"] == "CT") & (index["split"] == "train")])
    assert set(Teacher.open(tmp_path / "ct").lines) == volumes
    with pytest.raises(UserError, match="no study has the value 'MR'. There is CT, CXR"):
        ask(tmp_path / "mr", only={"modality": ["MR"]})
