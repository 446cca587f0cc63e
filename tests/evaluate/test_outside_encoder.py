"""An encoder from outside the package is measured beside the floors."""

import json

import pytest
from examples import example
from tiny import tiny_config, write_checkpoint, write_store

from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.source import EncoderSource
from mmv_jax.evaluate.encoders.table import SOURCES, load_encoder
from mmv_jax.evaluate.run import evaluate

PLUGIN = example("brightness_encoder.py")


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
