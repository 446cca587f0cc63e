r"""An encoder of radiographs and CT from scratch, with finer patches: a laptop run.

Masked reconstruction alone, as in experiments/chest_small.py. Patches of 8 voxels show four times
as many places, of which the encoder sees an eighth; a third of the hidden ones is decoded.

  # without radiographs whose licence is non-commercial
  sed "/CC BY-NC/d; s#cxr_seg/#$DATA/cxr_seg/#g" $DATA/cxr_seg.csv > runs/chest/cxr_seg.csv
  # the set is in Hounsfield units: its README says so, the manifest does not
  mmv ingest $DATA/lidc.csv --unit HU --store runs/chest/store
  mmv ingest $DATA/cxr.csv runs/chest/cxr_seg.csv $DATA/pneumoniamnist.csv \
      $DATA/adrenalmnist3d.csv $DATA/ct.csv --store runs/chest/store
  # two virtual devices use two cores better than one device with two threads
  JAX_NUM_CPU_DEVICES=2 mmv pretrain --config experiments/chest_best.py \
      --workdir runs/chest/best --config.mesh.fsdp=2
  mmv evaluate --config experiments/eval_chest_best.py --checkpoint runs/chest/best \
      --workdir runs/chest/best_worth

Measured: docs/results.md, "From scratch, with finer patches".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=10000))
    c.mesh = dict(data=1, fsdp=1)
    c.data = dict(store="runs/chest/store", workers=1)
    c.data.splits = ("train", "val")  # test patients are never seen
    # Shares of the crops. Thumbnails (PneumoniaMNIST) and shapes are many, but each teaches little.
    c.data.mixture_by = "label_source"
    c.data.mixture = {
        "NIH ChestX-ray14": 0.56,
        "unknown": 0.08,
        "PneumoniaMNIST": 0.08,
        "LIDC-IDRI": 0.16,
        "AdrenalMNIST3D": 0.12,
    }
    # A radiograph has up to 16 x 16 patches, a volume 6 x 6 x 6.
    c.rows = dict(
        length=1088, prefix=1088, segments=48, per_step=8, visible_share=0.125, visible_tokens=192
    )
    c.crops = dict(
        planar=dict(globals=1, global_grid=(8, 128, 128), global_scale=(0.4, 1.0)),
        volume=dict(globals=1, global_grid=(48, 48, 48), global_scale=(0.5, 1.0)),
    )
    c.encoder = dict(size="mini", patch=(8, 8, 8), registers=1)
    c.objective = dict(mae=1.0, dino=0.0, ibot=0.0, koleo=0.0, decode_share=0.33)
    c.objective.update(decoder_width=96, decoder_depth=2, decoder_heads=3)
    # The rate is constant until the last fifth, so that the run can be prolonged from there.
    c.optimizer = dict(peak_lr=1.5e-3, at_rows=8, warmup=0.05, decay=0.2, weight_decay=0.05)
    c.ema = dict(start=0.998, at_rows=8, averages=(0.05, 0.02))
    c.checkpoint = dict(every=200, keep=2)
    c.health = dict(every=100, knn=dict(CXR="sex", CT="malignant"), knn_every=1000)
    return c
