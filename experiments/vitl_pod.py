r"""ViT-L with all four objectives on a TPU v5p slice of 128 chips (4x4x8): a larger run than the
paper's.

  mmv pretrain --config experiments/vitl_pod.py --workdir runs/vitl \
      --config.data.store=stores/mimic_ctrate

Each chip of a group of 8 holds an eighth of the state. 16 groups share the rows, with 8 rows of
4096 tokens a chip.

Measured: nothing yet at this scale; tests/test_experiments.py lowers the step at full scale, and
  compiles a shrunk one.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict({"seed": 0, "steps": 400_000})
    c.mesh = {"data": 16, "fsdp": 8}
    c.topology = "v5p:4x4x8"  # what `mmv preflight` compiles for
    c.data = {"store": "stores/mimic_ctrate", "workers": 24, "packing": "fewest"}
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
        "size": "L",
        "patch": (8, 16, 16),
        "registers": 4,
        "drop_path": 0.3,
        "qk_norm": True,
        "dtype": "bfloat16",
        "remat": "products",
    }
    # Reconstruction reads a quarter of the prefix's tokens, an eighth of a row's: it costs little.
    c.objective = {
        "mae": 0.5,
        "dino": 1.0,
        "ibot": 1.0,
        "koleo": 0.1,
        "koleo_rows": 8,  # those of a chip of v5p:4x4x8
        "prototypes": 131_072,
        "hidden": 2048,
        "bottleneck": 384,
    }
    c.objective.update(decoder_width=512, decoder_depth=4, decoder_heads=8)
    c.optimizer = {"peak_lr": 8e-4, "at_rows": 1024, "warmup": 0.08, "weight_decay": 0.04}
    c.ema = {"start": 0.992, "at_rows": 1024}
    c.checkpoint = {"every": 1000, "keep": 3}
    c.health = {
        "every": 200,
        "knn": {"CXR": "pleural_effusion", "CT": "pleural_effusion"},
        "knn_every": 2000,
    }
    return c
