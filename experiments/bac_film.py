r"""Calcified arteries on mammograms, second part: the model of experiments/bac.py, fitted further.

Most of the women are now on scanned film.

  mmv phantom runs/bac/films --kind breast --studies 48 --seed 45 --film 0.7 \
      --looks 0.5 --hard 0.3 --borders 0.5
  mmv ingest runs/bac/films/manifest.csv --store runs/bac/film_store
  mmv fit-bac --config experiments/bac_film.py --workdir runs/bac/fit_film
  mmv bac FILES... --checkpoint runs/bac/fit_film --out runs/bac/out

Nearly half of the tiles lie around false positives of the model, from the first step on: dust and
hairs are small and have little weight in a loss. Fit the model in the same way to other mammograms,
such as your own: set `init`, a store, and fewer steps.
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
