r"""An encoder of radiographs and CT that predicts an ImageNet network's features: a laptop run.

It is distilled from EfficientNet-lite0, which was trained on ImageNet with labels. So it is not
self-supervised, and wherever its figures stand, it is called distilled. The teacher runs once,
before training; no PyTorch is needed while the encoder trains.

  # without radiographs whose licence is non-commercial
  sed "/CC BY-NC/d; s#cxr_seg/#$DATA/cxr_seg/#g" $DATA/cxr_seg.csv > runs/chest/cxr_seg.csv
  mmv ingest $DATA/lidc.csv --unit HU --store runs/chest/store
  mmv ingest $DATA/cxr.csv runs/chest/cxr_seg.csv $DATA/ct.csv --store runs/chest/store
  # 384 pixels: the last feature map of a radiograph then has 12 x 12 places
  A="--package efficientnet-lite0 --licence Apache-2.0 --trained-on ImageNet-1k --patients none"
  mmv teach $A --side 384 --store runs/chest/store --where modality=CXR --out runs/chest/lite0_384
  mmv teach $A --side 224 --store runs/chest/store --where modality=CT --out runs/chest/lite0_224
  # two virtual devices use two cores better than one device with two threads
  JAX_NUM_CPU_DEVICES=2 mmv pretrain --config experiments/chest_distilled.py \
      --workdir runs/chest/distilled --config.mesh.fsdp=2
  mmv evaluate --config experiments/eval_chest_distilled.py --checkpoint runs/chest/distilled \
      --workdir runs/chest/evaluate

The released weights `chest-mini` had --config.steps=1400, which takes an hour.

Measured: docs/results.md, "Distilled from an ImageNet network".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=5000))
    c.mesh = dict(data=1, fsdp=1)
    c.data = dict(store="runs/chest/store", workers=1)
    c.data.splits = ("train", "val")  # test patients are never seen
    # Two folders of one teacher, with other studies each: few pixels suffice for small volumes.
    c.data.teachers = ("runs/chest/lite0_384", "runs/chest/lite0_224")
    c.data.mixture = {"CXR": 0.8, "CT": 0.2}  # shares of the crops
    c.rows = dict(length=512, prefix=512, segments=48, per_step=8, visible_share=0.25)
    # The largest crop of a radiograph is 8 x 8 patches; of a volume 6 x 3 x 3.
    c.crops = dict(
        planar=dict(globals=1, global_grid=(8, 128, 128), global_scale=(0.4, 1.0)),
        volume=dict(globals=1, global_grid=(48, 48, 48), global_scale=(0.5, 1.0)),
    )
    c.encoder = dict(size="mini", patch=(8, 16, 16), registers=1)
    c.objective = dict(mae=0.0, dino=0.0, ibot=0.0, koleo=0.0, distil=1.0)
    c.objective.distil_widths = (256, 256)
    # The rate is constant until the last fifth, so that the run can be prolonged from there.
    c.optimizer = dict(peak_lr=1.5e-3, at_rows=8, warmup=0.05, decay=0.2, weight_decay=0.05)
    c.ema = dict(start=0.998, at_rows=8, averages=(0.05, 0.02))
    c.checkpoint = dict(every=200, keep=2)
    c.health = dict(every=100, knn=dict(CXR="sex", CT="malignant"), knn_every=500)
    return c
