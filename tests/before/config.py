"""The config of the run in this folder, as it was written before the rooms were moved."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict({"seed": 0, "steps": 4})
    c.mesh = {"data": 8, "fsdp": 1}
    c.data = {"store": "store", "workers": 0}
    c.rows = {"length": 128, "prefix": 96, "segments": 12, "per_step": 8, "visible_share": 0.25}
    views = {"globals": 2, "global_scale": (0.4, 1.0), "locals": 1, "local_scale": (0.05, 0.4), "local_grid": (4, 16, 16)}
    c.crops = {"planar": views | {"global_grid": (4, 32, 32)}, "volume": views | {"global_grid": (8, 24, 24)}}
    c.encoder = {"size": "nano", "width": 24, "patch": (4, 8, 8), "registers": 1}
    c.objective = {"mae": 1.0, "dino": 1.0, "ibot": 1.0, "koleo": 0.1}
    c.objective.update({"prototypes": 16, "hidden": 16, "bottleneck": 8, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 1})
    c.optimizer = {"peak_lr": 3e-3, "at_rows": 2, "warmup": 0.1, "weight_decay": 0.05}
    c.ema = {"start": 0.99, "at_rows": 2}
    c.checkpoint = {"every": 2, "keep": 2}
    c.health = {"every": 10}
    return c
