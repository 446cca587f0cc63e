"""Heads, fine-tuning and supervised baselines on a tiny store: what they learn, what they may not
touch, and what a second run does again.
"""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import tiny_config, write_checkpoint, write_store

from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate import variants
from mmv_jax.evaluate.encoders.trained import restore
from mmv_jax.evaluate.finetune import end_to_end as supervised
from mmv_jax.evaluate.finetune.end_to_end import RECIPES, EndToEnd, augment
from mmv_jax.evaluate.finetune.learner import Fit, learn
from mmv_jax.evaluate.kinds.segmentation import Segmented
from mmv_jax.evaluate.measure import as_json
from mmv_jax.evaluate.report.budgets import budget_metrics, budget_sections
from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.run import evaluate
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.evaluate.variants import Variants
from mmv_jax.store.read import Store

FIT = {"epochs": 1, "patience": 1, "batch": 8}
# What is asked of most fits here is not that they learn, nor what val chooses.
ONCE = FIT | {"seeds": 1, "rates": (1.0,), "layer_decays": (1.0,)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder, store, geometry, encoder): a store of discs and balls, and an encoder that was never
    trained.
    """
    folder = tmp_path_factory.mktemp("variants")
    store = Store.open(write_store(folder / "store", n=24))
    write_checkpoint(folder / "run")
    encoder, _ = restore(
        folder / "run", {"length": 128, "rows": 4}, {"planar": (1, 24, 24), "volume": (12, 24, 24)}
    )
    return folder, store, Geometry.of(store.index), encoder


def task_of(store, kind, modality="CXR"):
    group = {
        "segmentation": {"mask": "disc_mask"},
        "regression": {"label": "radius"},
        "classification": {"label": "left"},
    }[kind]
    return make_task(store.index, kind, kind=kind, where={"modality": modality}, **group)


@pytest.mark.full
def test_a_network_learns_to_outline_discs(tiny):
    _, store, geometry, encoder = tiny
    recipe = replace(RECIPES["supervised"], epochs=50, patience=50, batch=4)
    task = task_of(store, "segmentation")
    found = learn(
        EndToEnd("supervised", encoder, store, geometry, task=task), recipe, 0, tested=True
    )
    assert found.answer.dice.mean() > 0.7


@pytest.mark.parametrize(
    "protocol, kind, modality",
    [
        ("finetune", "classification", "CXR"),
        ("scratch", "regression", "CXR"),
        pytest.param("finetune", "segmentation", "CXR", marks=pytest.mark.full),
        pytest.param("finetune", "segmentation", "CT", marks=pytest.mark.full),
    ],
)
def test_test_studies_are_read_after_the_fit_and_never_before(
    tiny, monkeypatch, protocol, kind, modality
):
    _, store, geometry, encoder = tiny
    task = task_of(store, kind, modality)
    test = set(task.studies[task.split == "test"].tolist())
    fitted, read = [], []
    plain_fit, plain_read = supervised.fit, supervised.read_crop

    def watched_fit(*args, **named):
        fitted.append(plain_fit(*args, **named))
        return fitted[-1]

    def watched_read(store, geometry, study, crop):
        read.append((study, bool(fitted)))
        return plain_read(store, geometry, study, crop)

    monkeypatch.setattr(supervised, "fit", watched_fit)
    monkeypatch.setattr(supervised, "read_crop", watched_read)
    recipe = replace(RECIPES[protocol], **FIT)
    learner = EndToEnd(protocol, encoder, store, geometry, task=task)
    # A fit that only val judges never reads them.
    assert learn(learner, recipe, 0, tested=False).answer is None
    assert not test & {study for study, _ in read}
    fitted.clear()
    read.clear()
    learner = EndToEnd(protocol, encoder, store, geometry, task=task)
    found = learn(learner, recipe, 0, tested=True).answer
    assert {study for study, after in read if not after} == set(task.studies.tolist()) - test
    assert sorted(study for study, after in read if after) == sorted(test)
    assert len(found.dice if isinstance(found, Segmented) else found) == len(test)


def test_fine_tuning_begins_with_the_encoder_and_scratch_does_not(tiny, monkeypatch):
    _, store, geometry, encoder = tiny
    begun = []

    class Begun(Exception):
        pass

    def first_parameters(params, *rest, **named):
        begun.append(params)
        raise Begun

    monkeypatch.setattr(supervised, "fit", first_parameters)
    for protocol in ("finetune", "scratch"):
        task = task_of(store, "regression")
        learner = EndToEnd(protocol, encoder, store, geometry, task=task)
        with pytest.raises(Begun):
            learner.fit(RECIPES[protocol], seed=0)
    kernels = [begun[n]["encoder"]["embed"]["patch"]["kernel"] for n in range(2)]
    own = encoder.params["embed"]["patch"]["kernel"]
    assert np.array_equal(kernels[0], own)
    assert not np.array_equal(kernels[1], own)


def test_augmentation_moves_image_and_mask_together():
    rng = np.random.default_rng(0)
    truth = np.zeros((3, 1, 32, 32), bool)
    truth[:, :, 8:20, 8:20] = True
    noisy = truth + 0.01 * rng.normal(size=truth.shape)
    batch = {
        "voxels": jnp.asarray(noisy, jnp.float32),
        "truth": jnp.asarray(truth),
        "counted": jnp.ones(truth.shape, bool),
    }
    found = augment(batch, jax.random.key(0))
    for image, mask in zip(np.asarray(found["voxels"]), np.asarray(found["truth"])):
        assert np.array_equal(image > (image.max() + image.min()) / 2, mask)
    assert jnp.any(found["truth"] != truth)


def config_of(folder, **changed):
    c = tiny_config(folder / "store").copy_and_resolve_references().unlock()
    c.tasks = {name: c.tasks[name] for name in ("left", "disc")}
    c.view = {"planar": (1, 24, 24), "volume": (12, 24, 24)}
    c.fit = ONCE
    c.update(changed)
    return c


def test_heads_are_named_and_a_second_evaluation_fits_none_of_them_again(
    tiny, monkeypatch, tmp_path
):
    folder, *_ = tiny
    config = config_of(folder, heads=("linear",))
    del config.tasks["left"]
    evaluate(config, folder / "run", tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert {"trained+linear", "random+linear", "pixels+linear"} <= set(found["disc"])
    monkeypatch.setattr(variants, "learn", lambda *args, **named: pytest.fail("fitted again"))
    evaluate(config, folder / "run", tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    # another recipe is another result
    config.fit.epochs = 2
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        evaluate(config, folder / "run", tmp_path)


def test_seeds_have_a_mean_and_a_spread_and_a_stopped_evaluation_keeps_its_fits(
    tiny, monkeypatch, tmp_path
):
    folder, store, geometry, encoder = tiny
    config = config_of(folder, protocols=("scratch",))
    task, asked = task_of(store, "classification"), []
    learnt_from = int((task.split == "train").sum()) // 2
    config.fit = FIT | {"rates": (1.0, 4.0), "studies": learnt_from}
    test = task.labels[task.split == "test"]

    def quick(learner, recipe, seed, *, tested):
        """Two trials and three seeds; the first time, the fourth fit is killed."""
        asked.append((recipe.peak_lr, seed, tested))
        if len(asked) == 4:
            raise KeyboardInterrupt
        answer = 0.5 * test + np.random.default_rng(seed).uniform(size=len(test))
        return Fit(answer if tested else None, -recipe.peak_lr, epoch=3, epochs=5, seconds=0.5)

    def measured():
        asked_for = Variants.of(config, tmp_path, tasks=[task], geometry=geometry, trained=encoder)
        return asked_for.measure_protocols(
            encoder, {}, store=store, geometry=geometry, tasks=[task]
        )

    monkeypatch.setattr(variants, "learn", quick)
    with pytest.raises(KeyboardInterrupt):
        measured()
    (found,) = measured()
    usual = RECIPES["scratch"].peak_lr
    trials = [(usual, 1, False), (4 * usual, 1, False)]
    # The killed one is asked for again, the three before it are not.
    seeds = [(usual, seed, True) for seed in (2, 3, 3, 4)]
    assert asked == [*trials, *seeds]
    told = as_json([found])[task.name]["scratch-vit"]["auroc"]
    by_seed = [one.metrics["auroc"].value for one in found.fits]
    assert len(set(by_seed)) > 1
    assert told["fits"] == 3
    assert told["value"] == pytest.approx(np.mean(by_seed))
    assert told["sd"] == pytest.approx(np.std(by_seed, ddof=1))
    assert found.choice == f"learning rate {usual:g}; epoch 3 of 5"
    costs = {key: value.value for _, _, key, value in budget_metrics([found])}
    assert costs == {
        "fits": 5,
        "epochs": 25,
        "training_studies": learnt_from,
        "cpu_seconds": 2.5,
    }
    (section,) = budget_sections([found], Names())
    (line,) = section.tables[0].lines
    shown = [cell.text for cell in line]
    assert ", ".join(f"{value:.3f}" for value in by_seed) in shown
    epochs = "epoch 3 of 5, epoch 3 of 5, epoch 3 of 5"
    assert shown[-5:] == [epochs, f"{learnt_from}", "5", "25", "2 s"]


@pytest.mark.full
def test_a_whole_evaluation_names_the_variants_and_goes_on_where_it_stopped(tiny, monkeypatch):
    folder, *_ = tiny
    config = config_of(
        folder, heads=("linear", "global-local"), protocols=("linear", "finetune", "supervised")
    )
    evaluate(config, folder / "run", folder / "evaluate")
    found = json.loads((folder / "evaluate" / "metrics.json").read_text())
    for encoder in ("trained", "random", "pixels"):
        assert {f"{encoder}+linear", f"{encoder}+global-local"} <= set(found["disc"])
    assert {"trained+finetuned", "supervised-unet"} <= set(found["disc"])
    assert {"trained+finetuned", "supervised-cnn"} <= set(found["left"])
    assert set(found["left"]["trained+finetuned"]["auroc"]) >= {"value", "ci95", "n"}
    pairs = {
        (c["first"], c["second"])
        for c in json.loads((folder / "evaluate" / "comparisons.json").read_text())
    }
    assert {
        ("random+global-local", "random+linear"),
        ("trained+finetuned", "trained"),
        ("trained+finetuned", "supervised-unet"),
    } <= pairs

    monkeypatch.setattr(variants, "learn", lambda *args, **named: pytest.fail("fitted again"))
    evaluate(config, folder / "run", folder / "evaluate")
    assert json.loads((folder / "evaluate" / "metrics.json").read_text()) == found
    # another recipe is another result
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        evaluate(
            config_of(folder, heads=("linear",), fit=ONCE | {"epochs": 2}),
            folder / "run",
            folder / "evaluate",
        )


WRONG = {
    "config.heads: 'conv' is not known": {"heads": ("linear", "conv")},
    "config.heads is 'linear', but must be a list": {"heads": "linear"},
    "config.protocols: 'few-shot' is not known": {"protocols": ("few-shot",)},
    "config.fit.rate does not exist": {"fit": {"rate": 1}},
}


@pytest.mark.parametrize("message, changed", WRONG.items(), ids=WRONG.keys())
def test_a_config_that_asks_for_what_there_is_not_is_refused(tiny, message, changed):
    folder, store, geometry, encoder = tiny
    with pytest.raises(UserError, match=message):
        Variants.of(
            config_of(folder, **changed),
            folder,
            tasks=[task_of(store, "segmentation")],
            geometry=geometry,
            trained=encoder,
        )


def test_heads_without_a_segmentation_are_refused(tiny):
    folder, store, geometry, encoder = tiny
    with pytest.raises(UserError, match="no task is a segmentation"):
        Variants.of(
            ConfigDict({"seed": 0, "heads": ("linear",)}),
            folder,
            tasks=[task_of(store, "regression")],
            geometry=geometry,
            trained=encoder,
        )


def test_planar_and_volumetric_studies_cannot_be_learnt_in_one_grid(tiny):
    folder, store, geometry, encoder = tiny
    task = make_task(store.index, "both", kind="regression", label="radius")
    with pytest.raises(UserError, match="all planar or all volumetric"):
        Variants.of(
            ConfigDict({"seed": 0, "protocols": ("finetune",)}),
            folder,
            tasks=[task],
            geometry=geometry,
            trained=encoder,
        )
