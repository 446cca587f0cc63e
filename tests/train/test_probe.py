"""The kNN probe of a run: each modality's label, told by neighbours, the same on one device and on
eight.
"""

import jax
import numpy as np
import pytest
from nano import nano_config

from mmv_jax.errors import UserError
from mmv_jax.metrics.features import knn_score
from mmv_jax.parallel import make_mesh, on_mesh, shard_params
from mmv_jax.store.read import Store
from mmv_jax.train import loop
from mmv_jax.train.probe import Probe

OPEN = Store.open


def labelled(store, missing=()):
    """The store with a label that is known of all studies but some; every second study is of
    val.
    """
    opened = OPEN(store)
    place = opened.index.groupby("modality").cumcount().to_numpy()
    opened.index["split"] = np.where(place % 2, "val", "train")
    opened.index["label_odd"] = np.where(np.isin(place, missing), np.nan, place // 2 % 2)
    return opened


def probe_of(opened, **labels):
    config = nano_config()
    encoder = loop.make_parts(config)[0].encoder
    return Probe(opened, encoder, labels, 128, {2: (4, 32, 32), 3: (8, 24, 24)}, {})


@pytest.fixture(scope="module")
def params(drawn):
    return jax.device_put(drawn[0][0]["encoder"])


def test_eight_devices_say_what_one_says(store, params):
    probe, found = probe_of(labelled(store), CXR="odd", CT="odd"), []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(2, 4)):
        placed = jax.device_put(params, shard_params(params, mesh))
        with on_mesh(mesh):
            found.append((probe.figures(placed, mesh), probe._encode(placed, np.arange(16), mesh)))
    assert set(found[0][0]) == {"knn_CXR", "knn_CT"}
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-5)


def test_a_study_has_the_mean_of_its_own_patch_tokens(store, params, monkeypatch):
    opened, mesh = labelled(store), make_mesh(devices=jax.devices()[:1])
    probe = probe_of(opened, CXR="odd")
    with on_mesh(mesh):
        together = probe._encode(params, np.arange(16), mesh)
        alone = np.concatenate(
            [probe._encode(params, np.array([study]), mesh) for study in range(16)]
        )
    np.testing.assert_allclose(together, alone, atol=1e-5)
    monkeypatch.setattr(Probe, "_encode", lambda self, params, studies, mesh: together[studies])
    lines = opened.index[opened.index["modality"] == "CXR"]
    train, val = (lines[lines["split"] == split] for split in ("train", "val"))
    expected = knn_score(
        *(x for part in (train, val) for x in (together[part.index], part["label_odd"].to_numpy()))
    )
    assert probe.figures(params, mesh) == {"knn_CXR": pytest.approx(expected)}


def test_what_cannot_be_told_is_left_out_and_said(store, params):
    opened = labelled(store, missing=(3, 7))
    assert probe_of(opened, CXR="sex").untold() == {"CXR": "the store has no label 'sex'"}
    assert probe_of(opened, MR="odd").untold() == {
        "MR": "'odd' has fewer than two values among the MR studies of train"
    }
    assert probe_of(opened, CT="odd").untold() == {
        "CT": "'odd' has fewer than two values among the CT studies of val"
    }
    assert probe_of(opened, CT="odd").figures(params, make_mesh(devices=jax.devices()[:1])) == {}


def test_a_probe_without_its_steps_is_refused(store, tmp_path):
    config = nano_config(store, mae=1.0)
    config.rows.per_step, config.mesh = 8, {"data": 2, "fsdp": 4}
    config.health = {"every": 2, "knn": {"CXR": "odd"}}
    with pytest.raises(UserError, match="knn is set, but config.health.knn_every is not"):
        loop.pretrain(config, tmp_path)
