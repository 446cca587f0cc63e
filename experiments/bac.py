r"""Calcified arteries on mammograms: the segmentation model, fitted to breast phantoms.

experiments/bac_film.py starts from it, and experiments/bac_looks.py from that.

  mmv phantom runs/bac/phantoms --kind breast --studies 64 --seed 41 \
      --looks 0.5 --hard 0.3 --borders 0.5
  mmv ingest runs/bac/phantoms/manifest.csv --store runs/bac/store
  mmv fit-bac --config experiments/bac.py --workdir runs/bac/fit

Paper:    none has published pixel-level figures on public data; the thresholds of severity are
  those of arXiv 2503.14550.
Measured: docs/results.md, "Breast arterial calcification".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=8000, rows=2))
    # The workdir to start from: a pretrained encoder of the same shape, or another fit, whose head
    # is used too. Empty: fresh weights.
    c.init = ""
    # Women of the split "test" are not fitted to. `measure` is chosen, and the fit evaluated, on
    # phantoms of other seeds (experiments/eval_bac.py).
    c.data = dict(store="runs/bac/store", splits=("train", "val"))
    # Shares of tiles: around calcified arteries, around look-alikes, around false positives of the
    # model at the steps `mine_at`, and from anywhere in a breast.
    c.data.mix, c.data.mine_at = (0.35, 0.15, 0.3, 0.2), (4000, 6000)
    c.tiles = dict(tile=128, overlap=16, per_row=4)  # 12.8 mm, in pixels of 0.1 mm at the coarsest
    # A patch of 0.8 mm is as wide as an artery; the shortest wavelength is two patches, as
    # everywhere.
    c.encoder = dict(
        size="mini", width=96, depth=3, heads=3, patch=(1, 8, 8), registers=1, scale_mm=1.6
    )
    # Tokens tell how far they lie from the skin and the border, where no artery is calcified.
    c.head = dict(channels=24, position=0.1)
    c.optimizer = dict(peak_lr=1.5e-3, at_rows=2, warmup=0.05, weight_decay=0.05)
    c.checkpoint = dict(every=200, keep=2)
    # Rules of measuring. A pixel counts as calcified from `threshold` on. A breast has calcium only
    # if each of its views shows least_mm2 in groups of at least least_group_mm2: less, or only in
    # one view, may be a hair on a film. A breast's area is the mean of its views, which show the
    # same calcium twice; a woman's area is the sum over her breasts. Along
    # border_mm of the image's or a film's border nothing counts: light leaks in there.
    c.measure = dict(
        threshold=0.3,
        least_group_mm2=0.1,
        least_mm2=0.2,
        border_mm=3.0,
        of_views="mean",
        of_breasts="sum",
        severity_mm2=(0.0, 10.0, 25.0),
    )
    return c
