r"""Calcified arteries on mammograms: the segmentation model, fitted to breast phantoms.
experiments/bac_film.py goes on from it.

  mmv phantom runs/bac/phantoms --kind breast --studies 64 --seed 21
  mmv ingest runs/bac/phantoms/manifest.csv --store runs/bac/store
  mmv fit-bac --config experiments/bac.py --workdir runs/bac/fit

Paper:    none publishes its pixel-level figures on public data; severity by the thresholds of arXiv
  2503.14550.
Measured: docs/results.md, "Breast arterial calcification".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=8000, rows=2))
    # the workdir of a pretrained encoder of the same shape, or of another fit, whose head is gone
    # on from too; empty: fresh weights
    c.init = ""
    # Women of the split "test" are not fitted to; `measure` is chosen and the fit judged on
    # phantoms of other seeds (experiments/eval_bac.py).
    c.data = dict(store="runs/bac/store", splits=("train", "val"))
    # Tiles around calcified artery, what resembles it, what the model took for it at the steps
    # `mine_at`, and from anywhere in a breast.
    c.data.mix, c.data.mine_at = (0.35, 0.15, 0.3, 0.2), (4000, 6000)
    c.tiles = dict(tile=128, overlap=16, per_row=4)  # 12.8 mm, in pixels of 0.1 mm at the coarsest
    # A patch of 0.8 mm is as wide as an artery; the shortest wavelength is two patches, as
    # everywhere.
    c.encoder = dict(
        size="mini", width=96, depth=3, heads=3, patch=(1, 8, 8), registers=1, scale_mm=1.6
    )
    c.head = dict(channels=24)
    c.optimizer = dict(peak_lr=1.5e-3, at_rows=2, warmup=0.05, weight_decay=0.05)
    c.checkpoint = dict(every=200, keep=2)
    # How areas are measured: calcified from this probability on, in breasts each of whose views
    # shows least_mm2 in groups of at least least_group_mm2 (less by itself, or in one view alone,
    # may be a hair on a film); any other breast has none. A breast's area is the mean of its views
    # (they show the same calcium twice), a woman's the sum of hers.
    c.measure = dict(
        threshold=0.3,
        least_group_mm2=0.1,
        least_mm2=0.2,
        of_views="mean",
        of_breasts="sum",
        severity_mm2=(0.0, 10.0, 25.0),
    )
    return c
