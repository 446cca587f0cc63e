r"""All studies of a small chest collection, planar and volumetric, in mixed rows: a laptop run.

  mmv ingest DATA/cxr.csv DATA/cxr_seg.csv DATA/pneumoniamnist.csv DATA/adrenalmnist3d.csv \
      DATA/ct.csv --store runs/chest_small/store
  # the set is in Hounsfield units: its README says so, the manifest does not
  mmv ingest DATA/lidc.csv --unit HU --store runs/chest_small/store
  mmv pretrain --config experiments/chest_small.py --workdir runs/chest_small/pretrain
  mmv evaluate --config experiments/eval_chest_small.py --checkpoint runs/chest_small/pretrain \
      --workdir runs/chest_small/evaluate

The loss is masked reconstruction alone. experiments/objectives.py compares it with others on
radiographs.
Measured: docs/results.md, "All real studies together".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=6000))
    c.mesh = dict(data=1, fsdp=1)
    c.data = dict(store="runs/chest_small/store", workers=1)
    # Test patients are never seen. The mixture is of crops. Thumbnails (PneumoniaMNIST) and shapes
    # are many, but each teaches little.
    c.data.splits = ("train", "val")
    c.data.mixture_by = "label_source"
    c.data.mixture = {
        "NIH ChestX-ray14": 0.58,
        "unknown": 0.06,
        "PneumoniaMNIST": 0.08,
        "LIDC-IDRI": 0.16,
        "AdrenalMNIST3D": 0.12,
    }
    # A row of thumbnails would have more CLS and register tokens than the 168 places for them, so
    # thumbnails are spread over the rows.
    c.rows = dict(
        length=512, prefix=512, segments=48, per_step=8, visible_share=0.25, visible_tokens=168
    )
    # The largest crop of a radiograph is 8 x 8 patches; of a volume 6 x 3 x 3.
    c.crops = dict(
        planar=dict(globals=1, global_grid=(8, 128, 128), global_scale=(0.4, 1.0)),
        volume=dict(globals=1, global_grid=(48, 48, 48), global_scale=(0.5, 1.0)),
    )
    c.encoder = dict(size="mini", patch=(8, 16, 16), registers=1)
    c.objective = dict(
        mae=1.0, dino=0.0, ibot=0.0, koleo=0.0, prototypes=1024, hidden=512, bottleneck=128
    )
    c.objective.update(decoder_width=96, decoder_depth=2, decoder_heads=3)
    c.optimizer = dict(peak_lr=1.5e-3, at_rows=8, warmup=0.05, weight_decay=0.05)
    c.ema = dict(start=0.998, at_rows=8)
    c.checkpoint = dict(every=200, keep=2)
    c.health = dict(every=100, knn=dict(CXR="sex", CT="malignant"), knn_every=500)
    return c
