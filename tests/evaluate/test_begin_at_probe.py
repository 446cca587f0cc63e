"""Fine-tuning of numbers and classes begins at the probe of the frozen encoder."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from tiny import write_checkpoint, write_store

from mmv_jax.data.crops import Geometry
from mmv_jax.evaluate.encoders.huggingface import load_huggingface
from mmv_jax.evaluate.encoders.stand_ins import save_stand_in
from mmv_jax.evaluate.encoders.trained import restore
from mmv_jax.evaluate.finetune.end_to_end import RECIPES, EndToEnd
from mmv_jax.evaluate.finetune.learner import learn
from mmv_jax.evaluate.kinds.classification import STRENGTHS
from mmv_jax.evaluate.kinds.regression import PENALTIES
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.store.read import Store

pytest.importorskip("torch", reason="extra torch")
pytest.importorskip("transformers", reason="extra torch")
from mmv_jax.evaluate.finetune.huggingface import TowerLearner

# With a rate of 0 no epoch betters the start.
STILL = replace(RECIPES["finetune"], epochs=2, patience=2, batch=8, peak_lr=0.0)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_fine_tuning_begins_at_a_probe_of_the_encoder_as_it_was(tmp_path, kind):
    store = Store.open(write_store(tmp_path / "store", n=24))
    geometry = Geometry.of(store.index)
    write_checkpoint(tmp_path / "run")
    ours, _ = restore(tmp_path / "run", {"length": 128, "rows": 4}, {"planar": (1, 24, 24)})
    save_stand_in("dinov2", tmp_path / "vit")
    foreign = load_huggingface(tmp_path / "vit")
    label = {"classification": "left", "regression": "radius"}[kind]
    task = make_task(store.index, kind, kind=kind, label=label, where={"modality": "CXR"})
    for learner, encoder in (
        (TowerLearner(foreign, store, geometry, task), foreign),
        (EndToEnd("finetune", ours, store, geometry, task), ours),
    ):
        found = learn(learner, STILL, 0, tested=True)
        assert (found.epoch, found.epochs) == (0, 2)
        x = {e.study: (e.cls, e.patches.mean(axis=0)) for e in encoder.encode(store, task.studies)}
        if encoder is foreign:
            x = {study: tuple(map(normalised, parts)) for study, parts in x.items()}
        x = np.stack([np.concatenate(x[study]) for study in task.studies.tolist()])
        expected = probed_by_scikit_learn(kind, x, task)
        np.testing.assert_allclose(found.answer, expected, rtol=0.02, atol=0.02)


def normalised(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6)


def probed_by_scikit_learn(kind, x, task):
    """Answers for test of the probe that val chooses."""
    train, val, test = (task.split == part for part in ("train", "val", "test"))
    x = StandardScaler().fit(x[train]).transform(x)
    if kind == "regression":
        fits = [Ridge(alpha).fit(x[train], task.labels[train]) for alpha in PENALTIES]
        wrong = [np.abs(fit.predict(x[val]) - task.labels[val]).mean() for fit in fits]
        return fits[int(np.argmin(wrong))].predict(x[test])
    fits = [
        LogisticRegression(C=c, tol=1e-6, max_iter=10_000).fit(x[train], task.labels[train])
        for c in STRENGTHS
    ]
    wrong = [log_loss(task.labels[val], fit.predict_proba(x[val])[:, 1]) for fit in fits]
    return fits[int(np.argmin(wrong))].predict_proba(x[test])[:, 1]
