"""An encoder from outside the package is measured beside the floors."""

import json

import pytest
from tiny import tiny_config, write_checkpoint, write_store

from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.source import EncoderSource
from mmv_jax.evaluate.encoders.table import SOURCES, load_encoder
from mmv_jax.evaluate.run import evaluate

# The brightness of each patch: its mean and its spread.
PLUGIN = """
import numpy as np
from dataclasses import dataclass

from mmv_jax.data.crops import Geometry, whole_crops
from mmv_jax.data.occupancy import kept_tokens
from mmv_jax.data.resample import read_crop
from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.encoders.source import EncoderSource
from mmv_jax.evaluate.encoders.table import SOURCES
from mmv_jax.evaluate.tasks.scenes import tiles


@dataclass(frozen=True)
class Brightness:
    side: int
    fingerprint: str = "brightness 1"

    def views(self, geometry):
        grids = {2: (1, self.side, self.side), 3: (self.side,) * 3}
        crops = whole_crops(geometry, grids, (4, 8, 8))
        return crops, kept_tokens(geometry, crops)

    def encode(self, store, studies):
        geometry = Geometry.of(store.index)
        crops, kept = self.views(geometry[studies])
        for n, study in enumerate(studies.tolist()):
            voxels, _ = read_crop(store, geometry, study, crops[n])
            own = tiles(voxels, kept[n][tuple(map(slice, crops.tokens[n]))]).astype(np.float32)
            patches = np.stack([own.mean(axis=1), own.std(axis=1)], axis=1)
            yield Encoded(study, patches.max(axis=0), patches, patches[None][:0])


SOURCES.register("brightness", EncoderSource(load=lambda group: Brightness(group["side"])))
"""


@pytest.fixture
def sources(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES._entries))
    return SOURCES


def test_a_plugin_adds_an_encoder(sources, tmp_path):
    (tmp_path / "brightness.py").write_text(PLUGIN)
    config = tiny_config(write_store(tmp_path / "store", n=24)).unlock()
    config.plugins = (str(tmp_path / "brightness.py"),)
    config.encoders = {"bright": {"package": "brightness", "side": 48, "stand_in": False}}
    config.tasks = {name: config.tasks[name] for name in ("radius", "disc")}
    del config.few_shot
    write_checkpoint(tmp_path / "run")
    evaluate(config.lock(), tmp_path / "run", tmp_path / "out")

    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {"trained", "random", "pixels", "bright"} <= set(found["radius"])
    assert 0 <= found["disc"]["bright"]["dice"]["value"] <= 1
    # A mean brightness is all that the size of a bright disc needs.
    assert found["radius"]["bright"]["r2"]["value"] > 0.5
    comparisons = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert ("trained", "bright") in {(c["first"], c["second"]) for c in comparisons}
    assert "bright" in (tmp_path / "out" / "report.html").read_text()


def test_a_missing_package_is_one_sentence(sources):
    def load(group):
        import a_package_that_is_nowhere  # noqa: F401

    sources.register("elsewhere", EncoderSource(load=load, install="mmv_jax[elsewhere]"))
    with pytest.raises(
        UserError, match=r"config.encoders.x: elsewhere needs .* pip install 'mmv_jax\[elsewhere\]'"
    ):
        load_encoder("x", {"package": "elsewhere", "stand_in": False})
