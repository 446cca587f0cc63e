"""The supervised baselines at native resolution: patches, tiles, changes, and what they learn."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import write_store

from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.finetune import native, native_changes
from mmv_jax.evaluate.finetune.end_to_end import RECIPES
from mmv_jax.evaluate.finetune.learner import learn
from mmv_jax.evaluate.finetune.native import NativeOptions, NativeResNet, NativeUNet
from mmv_jax.evaluate.finetune.native_changes import change
from mmv_jax.evaluate.finetune.native_studies import (
    NativeStudies,
    draw_start,
    predict_whole,
    tile_count,
    tile_starts,
)
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.evaluate.variants import Variants, name_of
from mmv_jax.store.read import Store


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A store of discs and balls whose voxels are 4 mm, and 2 by 1.5 by 1.5 mm."""
    return Store.open(write_store(tmp_path_factory.mktemp("native") / "store", n=8))


def task_of(store, kind, modality):
    group = {"segmentation": {"mask": "disc_mask"}, "classification": {"label": "left"}}[kind]
    return make_task(store.index, kind, kind=kind, where={"modality": modality}, **group)


def test_on_their_own_spacing_studies_and_masks_are_as_stored(tiny):
    task = task_of(tiny, "segmentation", "CT")
    geometry, study = Geometry.of(tiny.index), int(task.studies[0])
    own = NativeStudies(tiny, geometry, task, (2.0, 1.5, 1.5))
    assert own.shape(study) == (12, 24, 20)
    stored = tiny.read_box(study, (0, 0, 0), (12, 24, 20))
    image = own.image(study, (-1, 0, 2), (4, 24, 20))
    # One slice before the study, and two columns after it, are background.
    assert (image[0] == image.min()).all() and (image[:, :, 18:] == image.min()).all()
    inside = own.inside(study, (-1, 0, 2), (4, 24, 20))
    assert not inside[0].any() and not inside[:, :, 18:].any() and inside[1:, :, :18].all()
    # The window of a CT is linear between its ends.
    window = np.polyfit(stored[:3, :, 2:].ravel(), image[1:, :, :18].ravel(), 1)
    assert np.abs(np.polyval(window, stored[:3, :, 2:]) - image[1:, :, :18]).max() < 1e-3
    mask = tiny.read_box(study, (0, 0, 0), (12, 24, 20), mask="disc_mask") == 1
    assert (own.truth(study, (0, 0, 0), (12, 24, 20)) == mask).all()
    assert {tuple(place) for place in own.places(study)} <= {tuple(v) for v in np.argwhere(mask)}
    # Scores are of the study's own voxels, also from a coarser grid of another spacing.
    coarse = NativeStudies(tiny, geometry, task, (4.0, 3.0, 2.0)).scene(study)
    truth, spread, spacing = coarse.scored(coarse.truth.astype(np.float32))
    assert spacing == (2.0, 1.5, 1.5) and (truth == mask).all()
    found = spread > 0.5
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.75


def test_a_third_of_the_patches_lies_around_the_structure_and_all_lie_in_the_study():
    rng, place = np.random.default_rng(0), np.array([[50, 60, 70]])
    starts = np.array([draw_start(rng, (100, 100, 100), (16, 16, 16), place) for _ in range(600)])
    around = (starts == place - 8).all(axis=1)
    assert 0.27 < around.mean() < 0.40
    assert starts.min() >= 0 and starts.max() <= 84
    assert starts[~around].min() < 5 and starts[~around].max() > 79
    # A study smaller than the patch lies in its middle.
    assert draw_start(rng, (1, 10, 20), (1, 16, 16), np.zeros((0, 3), int))[:2] == (0, -3)


@pytest.mark.parametrize("shape", [(1, 40, 64), (20, 16, 50), (7, 9, 11)], ids=str)
def test_tiles_cover_a_study_and_their_mean_is_that_of_a_voxelwise_function(shape):
    patch = (1 if shape[0] == 1 else 8, 16, 16)
    for overlap in (0.0, 0.5):
        seen = np.zeros(shape, int)
        for start in tile_starts(shape, patch, overlap):
            seen[tuple(slice(max(a, 0), a + b) for a, b in zip(start, patch))] += 1
        assert seen.min() >= 1
    assert len(tile_starts(shape, patch, 0.0)) == tile_count(shape, patch)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = predict_whole(lambda tiles: 2 * tiles - 1, image, patch, overlap=0.5, batch=3)
    assert np.abs(found - (2 * image - 1)).max() < 1e-5


def test_masks_move_with_their_image_and_a_label_stays(monkeypatch):
    monkeypatch.setattr(native_changes, "SHARE", 1.0)
    monkeypatch.setattr(native_changes, "NOISE", 0.0)
    # A gamma would move the half between dark and bright.
    monkeypatch.setattr(native_changes, "change_intensity", lambda x, key: x)
    truth = np.zeros((6, 2, 32, 40), bool)
    truth[:, :, 6:14, 20:34] = True
    batch = {"voxels": jnp.asarray(truth, jnp.float32), "truth": jnp.asarray(truth)}
    out = change({**batch, "label": jnp.arange(6.0)}, jax.random.key(0), shift=0.1)
    assert out["truth"].dtype == bool and (out["label"] == jnp.arange(6.0)).all()
    assert all((out["truth"][n] != truth[n]).mean() > 0.02 for n in range(6))
    for n in range(6):
        low, high = out["voxels"][n].min(), out["voxels"][n].max()
        bright = (out["voxels"][n] - low) / (high - low) > 0.5
        assert (bright != out["truth"][n]).mean() < 0.02


def test_most_patches_are_neither_turned_nor_resized():
    x = jax.random.normal(jax.random.key(1), (40, 1, 8, 8))
    out = change({"voxels": x, "truth": x > 0}, jax.random.key(0), mirrored=False)
    same = (out["truth"] == (x > 0)).all(axis=(1, 2, 3))
    assert 0.4 < same.mean() < 0.9  # 0.8 * 0.8 of them


@pytest.mark.parametrize("modality", ["CXR", pytest.param("CT", marks=pytest.mark.full)])
def test_the_unet_outlines_a_phantom_that_it_has_seen(tiny, modality, monkeypatch):
    """Overfit at small width: train, val and test are one study."""
    task = task_of(tiny, "segmentation", modality)
    one = np.full(3, task.studies[0])
    task = replace(task[np.arange(3)], studies=one, split=np.array(["train", "val", "test"]))
    monkeypatch.setattr(native, "change", lambda batch, key, **_: batch)
    learner = NativeUNet(NativeOptions(features=4), tiny, Geometry.of(tiny.index), task=task)
    assert learner.plan.spacing_mm == ((1.0, 4.0, 4.0) if modality == "CXR" else (2.0, 1.5, 1.5))
    recipe = replace(RECIPES["native"], epochs=40, patience=40, batch=1, peak_lr=5e-3)
    found = learn(learner, recipe, 0, tested=True).answer
    assert found.dice[0] > 0.95
    assert np.isfinite(found.scores["hd95"]).all()


def test_the_resnet_learns_a_side_and_reads_test_last(tiny, monkeypatch):
    task = task_of(tiny, "classification", "CXR")
    read, plain = [], NativeStudies.image
    monkeypatch.setattr(
        NativeStudies,
        "image",
        lambda self, study, *box: read.append(study) or plain(self, study, *box),
    )
    learner = NativeResNet(NativeOptions(features=2), tiny, Geometry.of(tiny.index), task=task)
    recipe = replace(RECIPES["native"], epochs=2, patience=2, batch=4)
    fitted = learner.fit(recipe, 0)
    test = set(task.studies[task.split == "test"].tolist())
    assert not test & set(read)
    answer = learner.answer(fitted, 4)
    assert test <= set(read)
    assert answer.shape == (len(test),) and ((answer > 0) & (answer < 1)).all()
    assert learner.plan.grid == (1, 48, 40)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"width": 3}, "config.native.width does not exist"),
        ({"resnet": "resnet19"}, "must be one of 'resnet18', 'resnet50'"),
        ({"features": 0}, "whole number from 1"),
        ({"features": 2.5}, "whole number from 1"),
        ({"memory_gib": -1}, "a number above 0"),
        ({"memory_gib": float("nan")}, "a number above 0"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        NativeOptions.of(options)


def test_a_config_chooses_them_by_protocol(tiny, tmp_path):
    config = ConfigDict({"seed": 1, "protocols": ("native",), "native": {"resnet": "resnet50"}})
    task = task_of(tiny, "classification", "CXR")
    found = Variants.of(config, tmp_path, tasks=[], geometry=Geometry.of(tiny.index), trained=None)
    assert found.protocols == ("native",) and found.native == NativeOptions(resnet="resnet50")
    assert name_of("native", task) == "native-resnet"
    assert name_of("native", task_of(tiny, "segmentation", "CT")) == "native-unet"
