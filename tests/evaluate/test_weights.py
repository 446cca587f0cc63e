"""Of several weights of one run, val chooses those that are evaluated."""

import numpy as np
from ml_collections import ConfigDict
from tiny import tiny_config, write_store

from mmv_jax.checkpoint import Checkpoints
from mmv_jax.evaluate.encoders.trained import fresh_params
from mmv_jax.evaluate.run import evaluate
from mmv_jax.models.sizes import make_encoder


def test_val_chooses_the_weights_and_the_report_tells(tmp_path):
    # The teacher's weights are all 0: whatever the student has drawn is better.
    group = {"size": "nano", "patch": (4, 8, 8), "registers": 1, "attention": "dense"}
    crops = {"planar": {"global_grid": [1, 48, 48]}, "volume": {"global_grid": [12, 16, 16]}}
    config = {"encoder": group, "crops": crops, "data": {"store": ""}, "pretraining": None}
    params = fresh_params(make_encoder(**group), 0)
    nothing = {
        **params,
        "embed": {
            **params["embed"],
            "patch": {name: np.zeros_like(leaf) for name, leaf in params["embed"]["patch"].items()},
        },
    }
    state = {"student": {"encoder": params}, "step": np.ones(1)}
    with Checkpoints(tmp_path / "run", config, every=1, keep=1) as checkpoints:
        checkpoints.save_if_due(1, {"encoder": nothing, "state": state}, now=True)
    asked: ConfigDict = tiny_config(write_store(tmp_path / "store", n=24)).unlock()
    asked.weights = ("encoder", "student")
    asked.tasks = {name: asked.tasks[name] for name in ("radius", "disc")}
    del asked.few_shot
    evaluate(asked.lock(), tmp_path / "run", tmp_path / "out")
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("weights: student; ") >= 2
    assert "weights: encoder; " not in report
