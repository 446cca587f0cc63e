"""Which studies an epoch shows, and how often."""

import numpy as np
from memory_store import STORE, make, memory, random_studies

from mmv_jax.data.mixture import mix


def test_the_mixture_sets_the_share_of_each_modality():
    studies = random_studies(40)
    store = memory([s for s in studies if s[2] == "CXR"] + [s for s in studies if s[2] == "CT"][:5])
    rows = make(store, mixture={"CXR": 0.5, "CT": 0.5})
    lines = rows.lines.studies(0)
    assert np.bincount(lines, minlength=25)[:20].tolist() == [1] * 20
    assert np.bincount(lines, minlength=25)[20:].tolist() == [4] * 5
    assert rows.batch(0)["study"].max() >= 20


def test_a_mixture_that_does_not_divide_shows_every_study_and_a_random_rest():
    modality = np.array(["A"] * 10 + ["B"] * 4)
    lines = mix(np.arange(14), modality, {"A": 0.5, "B": 0.5}, np.random.default_rng(0))
    counts = np.bincount(lines)
    assert counts[:10].tolist() == [1] * 10
    assert sorted(counts[10:]) == [2, 2, 3, 3]


def test_a_modality_that_is_left_out_is_not_shown():
    rows = make(mixture={"CT": 1.0})
    assert all((rows.batch(step)["study"] % 2 != 0).all() for step in range(3))
    assert set(rows.patients) == set(STORE.index["patient"][STORE.index["modality"] == "CT"])


def test_a_mixture_can_be_of_the_values_of_a_label():
    store = memory(random_studies(12))
    store.index["label_source"] = ["here", "there", None] * 4
    rows = make(store, mixture={"here": 0.5, "unknown": 0.5}, mixture_by="label_source")
    assert sorted(rows.lines.studies(0)) == [i for i in range(12) if i % 3 != 1]


def test_only_the_chosen_splits_are_trained_on():
    split = ["train"] * 10 + ["test"] * 10
    rows = make(memory(random_studies(20), split=split))
    assert max(rows.batch(step)["study"].max() for step in range(4)) < 10
    assert rows.patients == [f"{i:016x}" for i in range(5)]
