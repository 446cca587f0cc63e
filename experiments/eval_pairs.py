r"""Two modalities of the same phantom bodies: what an encoder makes of both.

  mmv phantom runs/pairs/bodies --studies 240 --seed 21
  mmv ingest runs/pairs/bodies/manifest.csv --store runs/pairs/store
  mmv evaluate --config experiments/eval_pairs.py --checkpoint chest-best --workdir runs/pairs/best
  mmv evaluate --config experiments/eval_pairs.py --checkpoint chest-mini --workdir runs/pairs/mini

A store of your own has no planted factors. Name labels of yours, or none:

  mmv evaluate --config experiments/eval_pairs.py --checkpoint runs/mine --workdir runs/mine/pairs \
      --config.data.store=stores/mine --config.factors.shared="('age',)" \
      --config.factors.first="()" --config.factors.second="()"

Measured: docs/results.md, "Two modalities of one body".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict({"seed": 1})
    c.data = {"store": "runs/pairs/store"}
    c.pairs = ("CXR", "CT")
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 1024, "rows": 4}
    c.factors = {
        "shared": ("heart_ml", "lung_ml", "effusion_ml", "pneumothorax_fraction", "age", "sex"),
        # of the radiograph alone: the steepness of its film curve, and a lead letter
        "first": ("film_gain", "lead_letter"),
        # of the CT alone: parallel beams do not show where along them a patient lies
        "second": ("scanner_y_mm",),
    }
    c.encoders = {}  # further ones by name: {"checkpoint": a run, or one for each seed}
    c.compare = ()  # pairs of names; none: the first with each of the others
    return c
