r"""Boxes of pneumonia on radiographs, found by the released weights: FROC in five folds.

  mmv boxes $DATA/cxr.csv --boxes $DATA/cxr_boxes.csv --mask pneumonia --label Pneumonia \
      --free pneumonia=0 --out runs/boxes/cxr.csv
  mmv ingest runs/boxes/cxr.csv --store runs/boxes/store
  mmv evaluate --config experiments/eval_boxes.py --checkpoint chest-mini --workdir runs/boxes/mini

Studies without a finding of pneumonia have empty masks and count for false marks alone. Test is not
looked at.

Measured: docs/results.md, "Boxes of pneumonia".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    # seed: of the floor's random weights, and of the folds
    c = ConfigDict({"seed": 1, "exclude_overlap": False, "folds": 5})
    c.data = {"store": "runs/boxes/store"}
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 512, "rows": 8}
    c.encoders = {}
    c.weights = ("encoder",)
    c.tasks = {"pneumonia": {"kind": "localisation", "mask": "pneumonia"}}
    return c
