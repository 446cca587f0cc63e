r"""Segmentation of a pneumothorax: heads on frozen tokens, fine-tuning, and a supervised network.

The studies are radiographs of phantoms.

  mmv phantom runs/heads/phantoms --kind thorax-cxr --studies 960 --seed 31 --pixels 128 \
      --tube-tie 0
  mmv ingest runs/heads/phantoms/manifest.csv --store runs/heads/store
  mmv evaluate --config experiments/eval_heads.py --checkpoint runs/chest_small/pretrain \
      --workdir runs/heads/evaluate

Every fit is cached in WORKDIR/fitted, so that a stopped evaluation resumes.

Paper:    a head with attention between CLS and patch tokens improves every encoder, most of all on
          pneumothorax (arXiv 2504.16047); frozen encoders fail at it, and a supervised network
          matches fine-tuned ones (arXiv 2511.09742).
Needs the extras `torch` and `imagenet`.
Measured: docs/results.md, "Heads and fine-tuning".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    # seed: of random weights, and of every fit
    c = ConfigDict({"seed": 1, "exclude_overlap": False})
    c.data = {"store": "runs/heads/store"}
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 1024, "rows": 4}
    c.encoders = {"efficientnet": {"package": "efficientnet-lite0", "stand_in": False}}
    c.heads = ("linear", "multi-scale", "global-local")
    c.protocols = ("linear", "finetune", "scratch", "supervised")
    c.fit = {"epochs": 30, "patience": 6, "batch": 16, "seeds": 3}
    c.tasks = {
        "pneumothorax_mask": {"kind": "segmentation", "mask": "findings", "flags": 8},
        "pneumothorax": {"kind": "classification", "label": "pneumothorax"},
        "cardiothoracic_ratio": {"kind": "regression", "label": "cardiothoracic_ratio"},
    }
    return c
