r"""The released weights on phantom CT that was taken otherwise: kernel, dose and scanner.

  mmv phantom runs/shifts/phantoms --kind thorax-ct --studies 200 --seed 31
  mmv ingest runs/shifts/phantoms/manifest.csv --store runs/shifts/store
  mmv evaluate --config experiments/eval_shifts.py --checkpoint chest-mini \
      --workdir runs/shifts/mini

Probes are fitted on studies as they are, and tested on shifted ones too.

Measured: docs/results.md, "Kernels, dose and scanners".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    # seed: of the floor's random weights
    c = ConfigDict({"seed": 1, "exclude_overlap": False})
    c.data = {"store": "runs/shifts/store"}
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 1024, "rows": 4}
    c.encoders = {}
    c.shifts = ("soft kernel", "sharp kernel", "low dose", "other scanner")
    c.tasks = {
        "effusion": {"kind": "classification", "label": "effusion"},
        "cardiothoracic_ratio": {"kind": "regression", "label": "cardiothoracic_ratio"},
        "lung_ml": {"kind": "regression", "label": "lung_ml"},
    }
    return c
