r"""One joint encoder against one encoder for each modality, trained longer than in eval_ways.

  mmv phantom runs/pairs/bodies --studies 240 --seed 21
  mmv ingest runs/pairs/bodies/manifest.csv --store runs/pairs/store
  run() {
    mmv pretrain --config experiments/pairs.py --workdir runs/pairs/long/$1 --sweep seed=0,1,2 \
        --config.steps=$2 ${@:3}
  }
  run joint 1200
  run planar 600 --config.data.mixture="{'CXR': 1.0}"  # the twins: half of the steps each
  run volume 600 --config.data.mixture="{'CT': 1.0}"
  mmv evaluate --config experiments/eval_joint.py --workdir runs/pairs/joint_or_twins

Paper:    "joint or separate" is the question of arXiv 2605.09151.
Measured: docs/results.md, "Which way to train".
"""

from ml_collections import ConfigDict

from mmv_jax.config import load_config

SEEDS = range(3)


def _runs(name: str) -> tuple[str, ...]:
    return tuple(f"runs/pairs/long/{name}/seed={seed}" for seed in SEEDS)


def get_config() -> ConfigDict:
    c = load_config("eval_pairs").unlock()
    c.encoders = {
        "joint": {"checkpoint": _runs("joint")},
        "twins": {"CXR": {"checkpoint": _runs("planar")}, "CT": {"checkpoint": _runs("volume")}},
    }
    c.compare = tuple(("joint", other) for other in ("twins", "random", "pixels"))
    return c
