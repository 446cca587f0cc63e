"""Stores, checkpoints and configs that an earlier version wrote still open, and mean the same.

`tests/before` was written by version 0.1.0: a store of six phantom bodies (a radiograph and a CT of
each), a run of four steps on it, its config, a fit to mammograms, and what was read then.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from nano import loss_alone, on_one_device, share_step

from mmv_jax.bac.infer import Finder
from mmv_jax.config import load_config
from mmv_jax.data import wire
from mmv_jax.evaluate.encoders.embed import embed
from mmv_jax.store.inspect import verify
from mmv_jax.store.read import Store
from mmv_jax.train import loop

BEFORE = Path(__file__).parent / "before"


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((BEFORE / "expected.json").read_text())


@pytest.fixture
def before(tmp_path, monkeypatch) -> Path:
    """A copy of the folder, as the working directory: the config names its store by a relative
    path.
    """
    shutil.copytree(BEFORE, tmp_path / "before")
    monkeypatch.chdir(tmp_path / "before")
    return tmp_path / "before"


def test_a_store_of_before_opens(before, expected):
    store = Store.open(before / "store")
    assert store.index["study"].tolist() == expected["studies"]
    assert store.digest(range(len(store.index))) == expected["digest"]
    assert not verify(before / "store", lambda done, total: None)
    for i, masks in enumerate(expected["mask_sums"].values()):
        grid = tuple(int(n) for n in store.index.loc[i, ["grid_z", "grid_y", "grid_x"]])
        found = {name: int(store.read_box(i, (0, 0, 0), grid, mask=name).sum()) for name in masks}
        assert found == masks
    assert store.read_box(0, (0, 0, 0), tuple(expected["box_shape"])).sum() == expected["box_sum"]


def test_a_checkpoint_of_before_gives_the_same_features(before, expected):
    import pandas as pd

    embed(before / "run", str(before / "store"), before / "features")
    features = pd.read_parquet(before / "features" / "features.parquet")
    assert features["study"].tolist() == expected["studies"]
    np.testing.assert_allclose(np.stack(features["cls"]), expected["cls"], rtol=2e-4, atol=2e-4)


@pytest.fixture(params=["one device", "eight devices"])
def devices(request, monkeypatch):
    """Of a run of before: the eight that it had, or one. The tests share its step."""
    share_step(monkeypatch, f"before on {request.param}")
    if request.param == "one device":
        on_one_device(monkeypatch)


@pytest.fixture
def from_step_2(before, monkeypatch):
    """The config of the run of before, as it was after step 2 of 4."""
    # Rows travelled as float32 then; the rest of a run is as it was.
    monkeypatch.setattr(wire, "to_steps", lambda x: x * np.float32(wire.SCALE))
    lines = (before / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (before / "run" / "metrics.jsonl").write_text("".join(lines[:2]))
    return load_config(before / "config.py")


def test_a_run_of_before_goes_on_with_its_next_loss(before, from_step_2, expected, monkeypatch):
    """Its checkpoint is of step 2: the step after it has the loss that the run itself had."""
    on_one_device(monkeypatch)
    monkeypatch.setattr(loop, "jit_step", loss_alone)
    loop.pretrain(from_step_2, before / "run")
    np.testing.assert_allclose(losses_of(before / "run")[:3], expected["losses"][:3], rtol=1e-5)


@pytest.mark.full
def test_a_run_of_before_goes_on(before, from_step_2, expected, devices):
    loop.pretrain(from_step_2, before / "run")
    np.testing.assert_allclose(losses_of(before / "run"), expected["losses"], rtol=1e-5)


@pytest.mark.full
def test_a_config_of_before_gives_the_same_losses(before, expected, devices):
    config = load_config(before / "config.py")
    with config.unlocked():
        config.data.packing = "best_fit"
    loop.pretrain(config, before / "again")
    losses = losses_of(before / "again")
    # Intensities are rounded to 2^-13 on their way to the devices. The first loss shows how little
    # that is; the steps after it, at the learning rate of a test, make it grow.
    np.testing.assert_allclose(losses[0], expected["losses"][0], rtol=1e-5)
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-3)


def losses_of(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_fit_of_before_finds_the_same(before, expected):
    y, x = np.mgrid[:480, :400]
    view = np.where((x / 250.0) ** 2 + ((y - 240) / 225.0) ** 2 < 1, 900.0 + x + y, 0).astype(
        np.float32
    )
    found, _ = Finder.restore(before / "fit").probabilities(view, (0.1, 0.1))
    assert list(found.shape) == expected["bac"]["shape"]
    assert found.sum() == pytest.approx(expected["bac"]["sum"], rel=1e-4)
