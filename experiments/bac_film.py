r"""Calcified arteries on mammograms, second part: the model of experiments/bac.py goes on with
women of whom most are on scanned film.

  mmv phantom runs/bac/films --kind breast --studies 48 --seed 25 --film 0.7
  mmv ingest runs/bac/films/manifest.csv --store runs/bac/film_store
  mmv fit-bac --config experiments/bac_film.py --workdir runs/bac/fit_film
  mmv bac FILES... --checkpoint runs/bac/fit_film --out runs/bac/out

Nearly half of the tiles lie around what the model takes for calcium, from the first step on: dust
and hairs are small, and weigh little in a loss. So a fit goes on with mammograms of another kind,
one's own for example: `init`, a store, fewer steps.
Measured: docs/results.md, "Breast arterial calcification".
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = runpy.run_path(str(Path(__file__).with_name("bac.py")))["get_config"]()
    c.update(init="runs/bac/fit", steps=4000)
    c.data.update(store="runs/bac/film_store", mix=(0.3, 0.1, 0.45, 0.15), mine_at=(0, 2000))
    c.optimizer.peak_lr = 1e-3
    return c
