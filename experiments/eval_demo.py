r"""Evaluation of the demo's encoder on phantoms with known truth, planar and volumetric.

It is the last step of `make demo`.

  mmv evaluate --config experiments/eval_demo.py --checkpoint runs/demo/pretrain \
      --workdir runs/demo/evaluate

Measured: docs/results.md, "The demo".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    # seed: of the floor's random weights
    c = ConfigDict({"seed": 1, "exclude_overlap": False})
    c.data = {"store": "runs/demo/store"}
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 1024, "rows": 4}
    c.encoders = {}  # of others, by name: {"folder": a Hugging Face folder, "stand_in": False}
    # readouts to try for every encoder, floors included; val chooses one
    c.readout = {
        "blocks": (1, 3),
        "poolings": ("cls+mean", "mean+max+deviation", "cls+max", "pyramid"),
    }
    c.tasks = {}
    for modality in ("CXR", "CT"):
        where = {"modality": modality}
        name = modality.lower()
        for label in ("pneumothorax", "effusion", "nodule"):
            c.tasks[f"{name}_{label}"] = {"kind": "classification", "label": label, "where": where}
        c.tasks[f"{name}_cardiothoracic_ratio"] = {
            "kind": "regression",
            "label": "cardiothoracic_ratio",
            "where": where,
        }
        c.tasks[f"{name}_heart"] = {
            "kind": "segmentation",
            "mask": "anatomy",
            "values": (3,),
            "where": where,
        }
        c.tasks[f"{name}_lungs"] = {
            "kind": "segmentation",
            "mask": "anatomy",
            "values": (1, 2),
            "where": where,
        }
    return c
