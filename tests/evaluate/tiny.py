"""A tiny store of real blocks and a tiny checkpoint with random weights, for tests of the
evaluation.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mmv_jax.checkpoint import Checkpoints
from mmv_jax.evaluate.encoders import embed
from mmv_jax.evaluate.encoders.trained import fresh_params
from mmv_jax.models.sizes import make_encoder
from mmv_jax.store.layout import FORMAT, STORE_JSON, open_root
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study

KEY = "0123456789abcdef"


SPLITS = ("train", "train", "val", "test")


def write_store(path: Path, n: int = 48, splits: Sequence[str] = SPLITS) -> Path:
    """Two modalities, two studies a patient: a bright disc or ball whose radius is the label, whose
    presence on the left is another.
    """
    root, rng = open_root(path), np.random.default_rng(0)
    for ndim, shape, modality in ((2, (1, 48, 40), "CXR"), (3, (12, 24, 20), "CT")):
        part = PartWriter(root, f"part-{ndim}", ndim)
        for i in range(n):
            radius, left = rng.uniform(4, 8) if ndim == 2 else rng.uniform(3, 5), i % 2
            centre = np.array(
                [shape[0] // 2, shape[1] // 2 + rng.integers(-3, 4), shape[2] // 4 * (1 + 2 * left)]
            )
            squared = (
                sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre))
                if ndim == 3
                else None
            )
            squared = (
                squared
                if ndim == 3
                else sum((axis - c) ** 2 for axis, c in zip(np.indices(shape)[1:], centre[1:]))
            )
            mask = squared < radius**2
            voxels = np.where(mask, 300.0, -200.0 if ndim == 3 else 100.0) + 20 * rng.normal(
                size=shape
            )
            known = {
                "study": f"{modality}{i:04d}",
                "patient": f"{modality}-p{i // 2}",
                "line": i + 2,
                "manifest": modality,
                "split": splits[(i // 2) % len(splits)],
                "modality": modality,
                "label_left": float(left),
                "label_radius": radius,
                "label_source": f"{modality} phantoms",
            }
            spacing = (2.0, 1.5, 1.5) if ndim == 3 else (float("nan"), 4.0, 4.0)
            study = Study(
                np.round(voxels).astype(np.int16), spacing, ndim, "HU" if ndim == 3 else "raw"
            )
            part.add(study, {"disc_mask": mask.reshape(shape).astype(np.int16)}, known)
        part.close()
    root.write(
        STORE_JSON, json.dumps({"format": FORMAT, "key_fingerprint": KEY, "manifests": []})
    ).result()
    return path


def write_checkpoint(
    workdir: Path, pretraining: dict | None = None, seed: int = 0, **data: str
) -> Path:
    """An encoder that was never trained, as a run would have left it."""
    group = {"size": "nano", "patch": (4, 8, 8), "registers": 1, "attention": "dense"}
    crops = {"planar": {"global_grid": [1, 48, 48]}, "volume": {"global_grid": [12, 16, 16]}}
    config = {
        "encoder": group,
        "crops": crops,
        "data": {"store": "elsewhere", **data},
        "pretraining": pretraining,
    }
    with Checkpoints(workdir, config, every=1, keep=1) as checkpoints:
        checkpoints.save_if_due(
            1,
            {"encoder": fresh_params(make_encoder(**group), seed), "state": {"step": np.ones(1)}},
            now=True,
        )
    return workdir


def short_rows(monkeypatch) -> None:
    """Lets `mmv embed` take rows as long as these studies fill: attention here is dense, and rows
    of 4,096 tokens would be most of the work.
    """
    monkeypatch.setattr(embed, "ROWS", {"length": 128, "rows": 1})


def tiny_config(store: Path) -> ConfigDict:
    """Five tasks: planar and volumetric, of every kind."""
    c = ConfigDict({"seed": 1, "exclude_overlap": False})
    c.data = {"store": str(store)}
    c.view = {"planar": None, "volume": (12, 24, 24)}
    c.rows = {"length": 128, "rows": 4}
    c.encoders = {}
    c.few_shot = {"shares": (0.25, 1.0), "draws": 2}
    bands = {"radius": {"quantiles": 2}}
    c.tasks = {
        "left": {
            "kind": "classification",
            "label": "left",
            "where": {"source": "CXR phantoms"},
            "confounders": bands,
        },
        "left in CT": {
            "kind": "classification",
            "label": "left",
            "where": {"modality": "CT"},
            "pixels": {"grid": (6, 12, 12), "spacing_mm": 3.0},
            "local": "disc_mask",
        },
        "radius": {
            "kind": "regression",
            "label": "radius",
            "where": {"modality": "CXR"},
            "subgroups": {"left": {}},
        },
        "disc": {"kind": "segmentation", "mask": "disc_mask", "where": {"modality": "CXR"}},
        "ball": {"kind": "segmentation", "mask": "disc_mask", "where": {"modality": "CT"}},
    }
    return c.lock()
