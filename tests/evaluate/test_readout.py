"""Readouts: what is read of an encoder, and which one val chooses."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import tiny_config, write_checkpoint, write_store

from mmv_jax.errors import UserError
from mmv_jax.evaluate.choose import Candidate, choose
from mmv_jax.evaluate.encoders.readout import PLACES, Readout, pool, standardise_tokens, summarise
from mmv_jax.evaluate.encoders.trained import restore
from mmv_jax.evaluate.finetune.attentive import attentive_vectors
from mmv_jax.evaluate.run import evaluate
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.store.read import Store


def make_task(labels: np.ndarray, kind: str = "classification") -> Task:
    n = len(labels)
    split = np.resize(np.array(["train", "train", "val", "test"]), n)
    names = np.array([f"p{i}" for i in range(n)])
    return Task("t", kind, np.arange(n), split, names, labels=labels.astype(float))


def test_a_summary_is_what_its_parts_say():
    rng = np.random.default_rng(0)
    kept = np.ones((2, 3, 4), bool)
    kept[0, 0, 0] = kept[1, 2, 3] = False
    levels = rng.normal(size=(2, 1 + kept.sum(), 5))
    found = summarise(levels, kept)
    tokens, places = levels[:, 1:], np.argwhere(kept)
    np.testing.assert_allclose(found[:, 0], levels[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], tokens.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found[:, 2], tokens.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found[:, 3], tokens.std(axis=1), rtol=1e-5)
    # The middle one of three rows belongs to the lower half: its centre is not beyond the middle.
    for number, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
        own = (places[:, 0] == z) & ((places[:, 1] > 1) == y) & ((places[:, 2] > 1) == x)
        np.testing.assert_allclose(found[:, 4 + number], tokens[:, own].mean(axis=1), atol=1e-6)


def test_a_planar_pyramid_has_four_cells_and_an_empty_cell_is_the_mean():
    kept = np.array([[[True, True], [True, False]]])
    levels = np.arange(8.0).reshape(1, 4, 2)
    found = summarise(levels, kept)
    np.testing.assert_allclose(found[0, 7], levels[0, 1:].mean(axis=0))
    assert pool(found[None], 1, ("pyramid",)).shape == (1, 8)
    assert pool(np.repeat(found, 3, axis=0)[None], 2, ("cls", "max")).shape == (1, 8)
    assert PLACES["pyramid"] == tuple(range(4, 12))


def test_val_chooses_the_readout_that_tells_the_label_and_never_reads_test_labels():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 160)
    noise = rng.normal(size=(160, 4))
    tells = noise + 2 * labels[:, None] * np.array([1, 0, 0, 0])
    task = make_task(labels)
    tried = [Candidate("noise", False, lambda i: noise), Candidate("tells", True, lambda i: tells)]
    (chosen,) = choose([task], tried)
    assert chosen.name == "tells"
    hidden = np.where(task.split == "test", 1 - labels, labels)
    (again,) = choose([make_task(hidden)], tried)
    assert again.probed.held_out == chosen.probed.held_out
    np.testing.assert_array_equal(again.probed.predicted, chosen.probed.predicted)


def test_attentive_queries_find_the_token_that_counts():
    # One token of eight is bright where the label is 1; a mean would hide it among loud others.
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 240)
    tokens = [rng.normal(size=(rng.integers(6, 9), 6)) for _ in labels]
    for x, label in zip(tokens, labels):
        x[rng.integers(len(x)), :2] = (6.0, 3.0 * (2 * label - 1))
    task = make_task(labels)
    pooled = attentive_vectors(tokens, task, seed=0)
    mean = np.stack([x.mean(axis=0) for x in tokens])
    candidates = [Candidate(w, False, lambda i, x=x: x) for w, x in (("m", mean), ("a", pooled))]
    (learnt,) = choose([task], candidates[1:])
    (plain,) = choose([task], candidates[:1])
    assert learnt.probed.held_out > plain.probed.held_out + 0.1


@pytest.mark.parametrize(
    "group, words",
    [
        ({"blocks": (5,)}, "whole numbers, 1 to 4"),
        ({"poolings": ("cls+median",)}, "has 'median'"),
        ({"poolings": "cls"}, "Use lists"),
        ({"layers": (1,)}, "Use lists"),
    ],
)
def test_a_wrong_readout_is_one_sentence(group, words):
    with pytest.raises(UserError, match=words):
        Readout.of(ConfigDict({"readout": group}))


def test_without_a_readout_nothing_is_chosen():
    assert Readout.of(ConfigDict({})) is None


def test_the_blocks_before_the_last_are_the_encoders_own(tmp_path):
    store = Store.open(write_store(tmp_path / "store", n=4))
    write_checkpoint(tmp_path / "run")
    trained, _ = restore(tmp_path / "run", {"length": 128, "rows": 4})
    (batch,) = trained.whole.batches(store, np.arange(2))
    inputs = (jnp.asarray(batch[name]) for name in ("patches", "coords_mm", "kinds", "segment_ids"))
    blocks = trained.encoder.apply({"params": trained.params}, *inputs)["blocks"]
    for e in trained.encode(store, np.arange(2)):
        row, s = np.argwhere(batch["study"] == e.study)[0]
        first = blocks[0, row, batch["cls_index"][row, s]]
        np.testing.assert_allclose(e.before[0, 0], standardise_tokens(np.array(first)), atol=1e-5)
        assert e.before.shape == (1, 1 + len(e.patches), 64)


def test_one_readout_for_all_encoders_is_chosen_and_told(tmp_path):
    config = tiny_config(write_store(tmp_path / "store", n=24)).unlock()
    config.readout = {"blocks": (1, 3), "poolings": ("cls+mean", "max+pyramid", "mean+local")}
    config.tasks = {name: config.tasks[name] for name in ("left in CT", "radius", "disc")}
    del config.few_shot
    write_checkpoint(tmp_path / "run")
    evaluate(config.lock(), tmp_path / "run", tmp_path / "out")

    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for task, metric in (("left in CT", "auroc"), ("radius", "mae"), ("disc", "dice")):
        for encoder in ("trained", "random", "pixels"):
            assert found[task][encoder][metric]["n"] == 6
    report = (tmp_path / "out" / "report.html").read_text()
    told = report.count("last block, ") + report.count("last 2 blocks, ")
    told += report.count("components of the study; ")
    assert told >= 3 * 3 - 1  # the pixels' mask probe has nothing to choose
