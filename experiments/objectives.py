r"""One objective on 1,000 radiographs, in 20 processor minutes: for comparing objectives.

The file is masked reconstruction as in experiments/chest_small.py. Another objective is a few words
on the command line. Each has the steps that 1,200 processor seconds give it on quiet cores, without
the compiling, so that a busy machine does not change what is compared.

  mmv ingest $DATA/cxr.csv --store runs/objectives/store
  run() {
    JAX_NUM_CPU_DEVICES=2 mmv pretrain --config experiments/objectives.py \
        --workdir runs/objectives/$1 --config.steps=$2 ${@:3}
  }
  O=--config.objective
  V=--config.crops.planar
  run mae 596
  run clean 604 $O.clean_targets=True $O.decode_share=0.33 $O.decoder_depth=6
  run can 649 $O.can=0.1 $V.globals=2
  run diet 383 $O.mae=0.0 $O.diet=1.0
  run latent 535 $O.mae=0.0 $O.latent=1.0
  run dino 332 $O.mae=0.0 $O.dino=1.0 $O.ibot=1.0 $O.koleo=0.1 $V.globals=2 $V.locals=4
  run mae_dino 224 $O.dino=0.1 $V.globals=2
  # the others are encoders of one evaluation, which measures the floors once
  E=--config.encoders
  mmv evaluate --config experiments/eval_objectives.py --checkpoint runs/objectives/mae \
      --workdir runs/worth $E.can.checkpoint=runs/objectives/can \
      $E.diet.checkpoint=runs/objectives/diet $E.dino.checkpoint=runs/objectives/dino

Measured: docs/results.md, "Seven objectives on 1,000 radiographs", up to three seeds. The seconds
of a step are those of two quiet cores of an AMD EPYC.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=596))
    # two virtual devices use two cores better than one device with two threads
    c.mesh = dict(data=1, fsdp=2)
    c.data = dict(store="runs/objectives/store", workers=0)
    c.data.splits = ("train", "val")  # test patients are never seen
    c.rows = dict(length=512, prefix=512, segments=24, per_step=8, visible_share=0.25)
    # The largest crop is 8 x 8 patches, a local one 4 x 4.
    c.crops = dict(
        planar=dict(globals=1, global_grid=(8, 128, 128), global_scale=(0.4, 1.0)),
        volume=dict(globals=1, global_grid=(48, 48, 48), global_scale=(0.5, 1.0)),
    )
    c.crops.planar.update(locals=0, local_grid=(8, 64, 64), local_scale=(0.1, 0.4))
    c.encoder = dict(size="mini", patch=(8, 16, 16), registers=1)
    c.objective = dict(mae=1.0, dino=0.0, ibot=0.0, koleo=0.0, can=0.0, diet=0.0, latent=0.0)
    c.objective.update(decoder_width=96, decoder_depth=2, decoder_heads=3)
    c.objective.update(prototypes=1024, hidden=512, bottleneck=128, diet_classes=1000)
    c.optimizer = dict(peak_lr=1.5e-3, at_rows=8, warmup=0.1, weight_decay=0.05)
    c.ema = dict(start=0.99, at_rows=8, averages=(0.05,))
    c.checkpoint = dict(every=100, keep=1)
    c.health = dict(every=50, knn=dict(CXR="sex"), knn_every=350)
    return c
