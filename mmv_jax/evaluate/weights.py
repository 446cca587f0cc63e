"""Choice of a run's weights on val: student, teacher or an average."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.features import encode_studies
from mmv_jax.evaluate.encoders.trained import TrainedEncoder, restore
from mmv_jax.evaluate.kinds.checked import probe
from mmv_jax.evaluate.kinds.segmentation import choose_probe
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import Result
from mmv_jax.evaluate.tasks.scenes import scenes
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.report.progress import progress
from mmv_jax.store.read import Store


def restore_all(config: ConfigDict, checkpoint: Path) -> tuple[dict[str, TrainedEncoder], dict]:
    """Restore the encoders of `config.weights` by name, with the checkpoint's config.

    Raises:
      UserError: no name is given, or the run kept no such weights.
    """
    asked = config.get("weights", ("encoder",))
    names = (asked,) if isinstance(asked, str) else tuple(asked)
    if not names:
        raise UserError("config.weights is empty. Name weights, such as ('encoder', 'student').")
    found: dict[str, TrainedEncoder] = {}
    carried: dict = {}
    for name in names:
        found[name], carried = restore(
            checkpoint, config.rows.to_dict(), config.view.to_dict(), weights=name
        )
    return found, carried


def choose_weights(
    encoders: Mapping[str, TrainedEncoder], tasks: Sequence[Task], store: Store, folder: Path
) -> str:
    """The name of the encoder with the best mean rank over the tasks, by linear probes on val.

    The first one wins a tie. Test studies are not encoded.

    Args:
      folder: for features.
    """
    if len(encoders) == 1:
        return next(iter(encoders))
    # Test studies are dropped here, so that no later line can read them.
    seen = [task[task.split != "test"] for task in tasks]
    scores = np.array(
        [
            _held_out(name, encoder, seen, store=store, folder=folder)
            for name, encoder in encoders.items()
        ]
    )
    # [E, E, T]: which encoder beats which in each task. Ranks are used,
    # since tasks have different scales.
    ranks = (scores[None] > scores[:, None]).sum(axis=1).mean(axis=1)
    return list(encoders)[int(np.argmin(ranks))]


def told_of(results: Sequence[Result], chosen: str, kept: Collection[str]) -> list[Result]:
    """The results; those of the trained encoder also name the weights that val chose, if it did."""
    if len(kept) == 1 and chosen == "encoder":
        return list(results)
    # Poolings and heads ("trained/cls", "trained+linear") have the same weights.
    return [
        replace(r, choice=f"weights: {chosen}; {r.choice}")
        if re.split("[/+]", r.encoder)[0] == "trained"
        else r
        for r in results
    ]


def _held_out(
    name: str, encoder: TrainedEncoder, tasks: Sequence[Task], *, store: Store, folder: Path
) -> list[float]:
    masks = [task.studies for task in tasks if KINDS[task.kind].is_mask]
    features = encode_studies(
        encoder,
        store,
        studies=np.unique(np.concatenate([task.studies for task in tasks])),
        # The empty array is for tasks without masks: `concatenate` refuses an empty list.
        with_tokens=np.unique(np.concatenate([np.zeros(0, int), *masks])),
        folder=folder,
        report=progress(f"{name}: encoded"),
    )
    found = []
    for task in tasks:
        if KINDS[task.kind].is_mask:
            geometry = Geometry.of(store.index)
            own = scenes(encoder, store, geometry=geometry, task=task, features=features)
            found.append(choose_probe(own, task.split).held_out)
        else:
            found.append(probe(features.pooled("both", task.studies), [task])[0].held_out)
    return found
