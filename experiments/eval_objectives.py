r"""The encoders of experiments/objectives.py on five findings of radiographs, test not looked at.

Probes are measured in five folds of the patients of train and val, and every encoder, the floors
included, has the readout that each fold's val chooses.

  mmv ingest $DATA/cxr.csv --store runs/objectives/store
  mmv evaluate --config experiments/eval_objectives.py --checkpoint chest-mini \
      --workdir runs/worth/mini

The first lines of experiments/objectives.py have the commands that train and evaluate the others.

Measured: docs/results.md, "The released weights in five folds".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    # seed: of the floor's random weights, and of the folds
    c = ConfigDict({"seed": 1, "exclude_overlap": False, "folds": 5})
    c.data = {"store": "runs/objectives/store"}
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 512, "rows": 8}
    c.encoders = {}
    c.weights = ("encoder",)
    c.only = ()  # names of tasks; none: all
    c.readout = {"blocks": (1, 3), "poolings": ("cls+mean", "mean+max+deviation")}
    c.tasks = {
        "sex": {"kind": "classification", "label": "sex", "positive": "M"},
        "age": {"kind": "regression", "label": "age"},
    }
    for label in ("pneumonia", "effusion", "edema"):
        c.tasks[label] = {"kind": "classification", "label": label}
    return c
