r"""Calcified arteries on mammograms, third part: experiments/bac_film.py, fitted further.

The women have every look: plain, on film, and of five other detectors.

  mmv phantom runs/bac/looks --kind breast --studies 32 --seed 398 --bac 0.6 --film 0.2 \
      --looks 0.9 --hard 0.6 --borders 0.5
  mmv ingest runs/bac/phantoms/manifest.csv runs/bac/films/manifest.csv \
      runs/bac/looks/manifest.csv --store runs/bac/all_store
  mmv fit-bac --config experiments/bac_looks.py --workdir runs/bac/fit_looks
  mmv bac FILES... --checkpoint runs/bac/fit_looks --out runs/bac/out

The second part had no woman with a grainy look, and the model forgot it. The fit by itself finds
grainy calcium again, but takes more for it that is none. The mean of the weights before and after
keeps both.

Paper:    arXiv 2109.01903 (mean of weights before and after fine-tuning).
Measured: docs/results.md, "Breast arterial calcification".
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = runpy.run_path(str(Path(__file__).with_name("bac.py")))["get_config"]()
    c.update(init="runs/bac/fit_film", init_share=0.5, steps=2000)
    c.data.update(store="runs/bac/all_store", mix=(0.35, 0.1, 0.4, 0.15), mine_at=(0,))
    c.optimizer.peak_lr = 1e-3
    c.checkpoint.every = 100
    # The weights are those of "Weights of groups" in the report of experiments/eval_bac.py on the
    # women whom the rules were chosen on. A sum of expected areas is smaller than one of areas.
    c.measure.artery = (-2.56, 1.1, 4.68, -0.595, 0.705)
    c.measure.update(least_artery=0.2, least_mm2=0.15)
    return c
