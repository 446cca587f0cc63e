r"""ViT-B on MIMIC-CXR and CT-RATE in mixed rows: the main run of MultiMedVision (arXiv 2605.09151),
on 64 chips of TPU v5p (4x4x4).

  mmv manifest mimic-cxr MIMIC --out mimic.csv
  mmv manifest ct-rate CTRATE --out ctrate.csv
  mmv ingest mimic.csv ctrate.csv --store stores/mimic_ctrate --engine ray
  mmv pretrain --config experiments/vitb_mimic_ctrate.py --workdir runs/vitb

Paper:    macro AUROC 0.82 MIMIC-CXR, 0.84 CheXpert, 0.85 CT-RATE (linear probe).
Measured: nothing yet at this scale; tests/test_experiments.py lowers the step at full scale, and
  compiles a shrunk one.

Values that the paper does not state are those of DINOv2 (arXiv 2304.07193, table 16). The learning
rate is for rows: a row holds about four studies.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict({"seed": 0, "steps": 250_000})
    c.mesh = {"data": 16, "fsdp": 4}
    c.topology = "v5p:4x4x4"  # what `mmv preflight` compiles for
    # Half of the crops are of radiographs. CT-RATE is the smaller collection, so its studies occur
    # several times in an epoch.
    c.data = {"store": "stores/mimic_ctrate", "workers": 12, "packing": "fewest"}
    c.data.mixture = {"CXR": 0.5, "CT": 0.5}
    c.rows = dict(length=4096, prefix=2048, segments=56, per_step=1024, visible_share=0.25)
    # The most tokens of a study: planar 2 x (196 + 5) + 8 x (36 + 5) = 730, volumetric
    # 2 x (800 + 5) + 8 x (64 + 5) = 2162.
    c.crops = {
        "planar": {
            "globals": 2,
            "global_grid": (8, 224, 224),
            "global_scale": (0.32, 1.0),
            "locals": 8,
            "local_grid": (8, 96, 96),
            "local_scale": (0.05, 0.32),
        },
        "volume": {
            "globals": 2,
            "global_grid": (64, 160, 160),
            "global_scale": (0.32, 1.0),
            "locals": 8,
            "local_grid": (32, 64, 64),
            "local_scale": (0.05, 0.32),
        },
    }
    c.encoder = {
        "size": "B",
        "patch": (8, 16, 16),
        "registers": 4,
        "drop_path": 0.1,
        "dtype": "bfloat16",
        "remat": "products",
    }
    # Self-distillation alone, as in the paper; experiments/vitl_pod.py adds reconstruction.
    c.objective = {
        "mae": 0.0,
        "dino": 1.0,
        "ibot": 1.0,
        "koleo": 0.1,
        "koleo_rows": 16,  # those of a chip
        "prototypes": 65_536,
        "hidden": 2048,
        "bottleneck": 256,
    }
    c.objective.update(decoder_width=384, decoder_depth=4, decoder_heads=6)
    c.optimizer = {"peak_lr": 2e-3, "at_rows": 1024, "warmup": 0.04, "weight_decay": 0.04}
    c.ema = {"start": 0.994, "at_rows": 1024}
    c.checkpoint = {"every": 1000, "keep": 3}
    c.health = {
        "every": 200,
        "knn": {"CXR": "pleural_effusion", "CT": "pleural_effusion"},
        "knn_every": 2000,
    }
    return c
