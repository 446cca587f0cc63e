r"""Eight ways to train a tiny encoder on the same bodies, compared with three seeds each.

The first lines of experiments/pairs.py have the commands that train them.

  mmv evaluate --config experiments/eval_ways.py --workdir runs/pairs/ways

Measured: docs/results.md.
"""

from ml_collections import ConfigDict

from mmv_jax.config import load_config

SEEDS = range(3)


def _runs(name: str) -> tuple[str, ...]:
    return tuple(f"runs/pairs/{name}/seed={seed}" for seed in SEEDS)


def get_config() -> ConfigDict:
    c = load_config("eval_pairs").unlock()
    for name in ("joint", "grid", "all", "dense", "padded", "alternating"):
        c.encoders[name] = {"checkpoint": _runs(name)}
    c.encoders["twins"] = {
        "CXR": {"checkpoint": _runs("planar")},
        "CT": {"checkpoint": _runs("volume")},
    }
    others = ("twins", "grid", "all", "dense", "padded", "alternating", "random", "pixels")
    c.compare = tuple(("joint", other) for other in others)
    return c
