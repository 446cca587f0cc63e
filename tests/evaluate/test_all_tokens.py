"""An encoder that was trained on all tokens reads all tokens of whole studies too."""

import numpy as np
import pytest
from tiny import write_checkpoint

import mmv_jax
from mmv_jax.data.crops import Geometry
from mmv_jax.evaluate.encoders.trained import restore
from mmv_jax.face.one_study import OneStudy
from mmv_jax.study import Study

# A bright square in a quarter of a dark film: its other patches are background.
FILM = np.zeros((48, 48), np.float32)
FILM[:24, :24] = np.random.default_rng(0).uniform(500, 1000, (24, 24))


@pytest.mark.parametrize("data", ({}, {"tokens": "all"}), ids=str)
def test_whole_studies_have_the_tokens_of_training(tmp_path, data):
    run = write_checkpoint(tmp_path / "run", **data)
    trained, _ = restore(run, {"length": 64, "rows": 1})
    store = OneStudy(Study(FILM[None], (float("nan"), 4.0, 4.0), 2, "raw"))
    crops, kept = trained.views(Geometry.of(store.index))
    (seen,) = trained.encode(store, np.array([0]))
    assert len(seen.patches) == kept.sum()
    assert kept.all() if data else kept.sum() < kept.size == crops.tokens.prod()
    # The Python face reads the same.
    encoded = mmv_jax.load_encoder(run).encode(FILM, spacing_mm=4.0, unit="raw")
    np.testing.assert_allclose(encoded.patches, seen.patches, atol=1e-5)
