"""A kind of task from outside the package is measured like the package's own."""

import json

import pytest
from examples import example
from tiny import tiny_config, write_checkpoint, write_store

from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.run import evaluate

PLUGIN = example("count_kind.py")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The plug-in's file; what it registers is forgotten after the test."""
    path = tmp_path / "count_kind.py"
    path.write_text(PLUGIN)
    monkeypatch.setattr(KINDS, "_entries", dict(KINDS._entries))
    return path


def test_a_plugin_adds_a_kind_of_task(plugin, tmp_path):
    config = tiny_config(write_store(tmp_path / "store", n=48)).unlock()
    config.plugins = (str(plugin),)
    config.tasks = {
        "pixels_across": {
            "kind": "count",
            "label": "radius",
            "where": {"modality": "CXR"},
            "subgroups": {"left": {}},
        }
    }
    write_checkpoint(tmp_path / "run")
    table = evaluate(config.lock(), tmp_path / "run", tmp_path / "out")
    assert "within one" in table

    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["pixels_across"]
    for encoder in ("trained", "random", "pixels"):
        assert set(found[encoder]) >= {"within_one", "mae"}
        (low, high), value = (found[encoder]["within_one"][key] for key in ("ci95", "value"))
        # Where all are right, every resample says so, and there is no interval.
        assert (low, high) == (None, None) if value == 1 else 0 <= low <= value <= high <= 1
    assert {"within_one@train=25%", "within_one@train=100%"} <= set(found["trained"])
    comparisons = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert {c["metric"] for c in comparisons} == {"within_one"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "within one" in page
    assert "<h2>ROC curves</h2>" not in page
