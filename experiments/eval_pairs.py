r"""Two modalities of the same phantom bodies: what they share, and which way to train is better.

The first lines of experiments/pairs.py have the commands that train the encoders.

  mmv evaluate --config experiments/eval_pairs.py --workdir runs/pairs/evaluate

or, of one encoder on a store of your own:

  mmv evaluate --config experiments/eval_pairs.py --checkpoint runs/mine --workdir runs/mine/pairs \
      --config.data.store=stores/mine --config.encoders="{}" --config.factors="{}"

Measured: docs/results.md.
"""

from ml_collections import ConfigDict

SEEDS = range(3)


def _runs(name: str) -> tuple[str, ...]:
    return tuple(f"runs/pairs/{name}/seed={seed}" for seed in SEEDS)


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
    c.encoders = {}
    for name in ("joint", "grid", "dense", "padded", "alternating"):
        c.encoders[name] = {"checkpoint": _runs(name)}
    c.encoders["twins"] = {
        "CXR": {"checkpoint": _runs("planar")},
        "CT": {"checkpoint": _runs("volume")},
    }
    c.compare = ()
    return c
