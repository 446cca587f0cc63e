r"""A tiny encoder from radiographs and CTs of the same phantom bodies, for comparing ways to train.

The file is the joint encoder. Each other way is a few words on the command line, and has the steps
that give it the FLOPs of the joint one. The twins share those of one joint encoder between them.

  mmv phantom runs/pairs/bodies --studies 240 --seed 21
  mmv ingest runs/pairs/bodies/manifest.csv --store runs/pairs/store
  run() {
    mmv pretrain --config experiments/pairs.py --workdir runs/pairs/$1 --sweep seed=0,1,2 \
        --config.steps=$2 ${@:3}
  }
  run joint 100
  run planar 50 --config.data.mixture="{'CXR': 1.0}"  # the twins
  run volume 50 --config.data.mixture="{'CT': 1.0}"
  run grid 100 --config.data.coordinates=grid --config.encoder.scale_mm=32.0
  run all 100 --config.data.tokens=all
  run dense 54 --config.rows.visible_share=0.75
  run padded 100 --config.rows.{length,prefix}=136 --config.rows.segments=1 \
      --config.rows.per_step=16 --config.{optimizer,ema}.at_rows=16  # as many tokens a step
  run alternating 100 --config.data.batches=alternating
  mmv evaluate --config experiments/eval_ways.py --workdir runs/pairs/ways

Measured: docs/results.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=100))
    c.mesh = dict(data=1, fsdp=1)
    c.data = dict(store="runs/pairs/store", workers=0, packing="best_fit")
    c.rows = dict(length=512, prefix=512, segments=12, per_step=4, visible_share=0.25)
    # The largest crop of a radiograph is 8 x 8 patches, of a volume 8 x 4 x 4.
    c.crops = dict(
        planar=dict(globals=1, global_grid=(8, 128, 128), global_scale=(0.4, 1.0)),
        volume=dict(globals=1, global_grid=(64, 64, 64), global_scale=(0.4, 1.0)),
    )
    c.encoder = dict(size="nano", width=96, depth=4, heads=3, patch=(8, 16, 16), registers=1)
    c.objective = dict(mae=1.0, decoder_width=64, decoder_depth=1, decoder_heads=2)
    c.optimizer = dict(peak_lr=1.5e-3, at_rows=4, warmup=0.1, weight_decay=0.05)
    c.ema = dict(start=0.99, at_rows=4)
    c.checkpoint = dict(every=100, keep=1)
    c.health = dict(every=50)
    return c
