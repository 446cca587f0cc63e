r"""An encoder from phantoms in minutes on a laptop: thorax CTs and radiographs in mixed rows.

  make demo

or, on a store of your own:

  mmv pretrain --config experiments/demo.py --workdir runs/mine --config.data.store=stores/mine

The loss is masked reconstruction alone. experiments/objectives.py compares it with others on
radiographs.
Measured: docs/results.md, "The demo".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=250))
    c.mesh = dict(data=1, fsdp=1)
    c.data = dict(store="runs/demo/store", workers=0)
    c.rows = dict(length=512, prefix=512, segments=24, per_step=8, visible_share=0.25)
    # The largest crop of a radiograph is 8 x 8 patches, of a volume 8 x 4 x 4.
    c.crops = dict(
        planar=dict(globals=1, global_grid=(8, 128, 128), global_scale=(0.4, 1.0)),
        volume=dict(globals=1, global_grid=(64, 64, 64), global_scale=(0.4, 1.0)),
    )
    c.encoder = dict(size="mini", patch=(8, 16, 16), registers=1)
    c.objective = dict(
        mae=1.0, dino=0.0, ibot=0.0, koleo=0.0, prototypes=1024, hidden=512, bottleneck=128
    )
    c.objective.update(decoder_width=96, decoder_depth=2, decoder_heads=3)
    c.optimizer = dict(peak_lr=1.5e-3, at_rows=8, warmup=0.1, weight_decay=0.05)
    c.ema = dict(start=0.998, at_rows=8)
    c.checkpoint = dict(every=100, keep=2)
    c.health = dict(every=50, knn=dict(CXR="effusion", CT="effusion"), knn_every=125)
    return c
