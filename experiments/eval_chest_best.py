r"""Evaluation of the encoder of experiments/chest_best.py in the ten tasks of eval_chest_small.

  mmv evaluate --config experiments/eval_chest_best.py --checkpoint runs/chest/best \
      --workdir runs/chest/best_worth

Every encoder, the floors included, has the readout that val chooses. Earlier checkpoints are
measured in folds of train and val, which leaves the test patients alone:

  mmv evaluate --config experiments/eval_chest_best.py --checkpoint runs/chest/best \
      --workdir runs/chest/best_folds --config.folds=5 --config.weights="('encoder',)"

Measured: docs/results.md, "From scratch, with finer patches".
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = runpy.run_path(str(Path(__file__).with_name("eval_chest_small.py")))["get_config"]()
    c.data.store = "runs/chest/store"
    c.folds = 0  # 5: in folds of train and val, without test
    c.weights = ("encoder", "average 2")  # val chooses one
    c.only = ()  # names of tasks; none: all
    # readouts to try for every encoder, floors included; val chooses one
    c.readout = {
        "blocks": (1, 3),
        "poolings": ("cls+mean", "mean+max+deviation", "cls+max", "pyramid"),
    }
    return c
