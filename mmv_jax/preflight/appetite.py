"""Whether the hosts of a run make rows as fast as its step consumes them."""

import math
from dataclasses import dataclass

from ml_collections import ConfigDict

from mmv_jax.chips import Chip
from mmv_jax.train.flops import expected_filling, step_flops
from mmv_jax.train.loop import make_parts, make_views, row_shape

# Tokens of rows that one data worker makes in a second: `mmv bench input`, one core of an AMD EPYC,
# rows of experiments/vitb_mimic_ctrate.py (docs/performance.md).
WORKER_TOKENS_PER_S = 4_100.0
PUBLISHED_MFU = 0.25  # 22.9 % ViT-5-S on one H100, about 29 % ViT-g on 8


@dataclass(frozen=True)
class Appetite:
    """The rows that a host's devices consume, and the workers that make them.

    Attributes:
      hosts: of the run.
      rows_per_s: that a host's devices consume, at the stated utilisation.
      worker_rows_per_s: that one worker makes.
      measured: whether that was measured for this run, or is the figure of `WORKER_TOKENS_PER_S`.
      workers_needed: a host.
      workers: of the config.
      cores: vCPUs of a host; None where they are not known.
    """

    hosts: int
    rows_per_s: float
    worker_rows_per_s: float
    measured: bool
    workers_needed: int
    workers: int
    cores: int | None

    @property
    def keeps_up(self) -> bool:
        return self.workers >= self.workers_needed


def flops_of_step(config: ConfigDict) -> int:
    """FLOPs that a step of a config needs, over all devices; nothing is compiled."""
    shape = row_shape(config)
    filling = expected_filling(make_views(config.crops), shape)
    parts = step_flops(make_parts(config)[0], shape, config.rows.per_step, filling)
    return sum(part.model for part in parts.values())


def appetite(
    config: ConfigDict, chip: Chip, devices: int, *, step_s: float, worker_rows_per_s: float | None
) -> Appetite:
    """The appetite of a run whose step takes `step_s` seconds.

    Args:
      worker_rows_per_s: measured; None: `WORKER_TOKENS_PER_S`, by the length of a row.
    """
    hosts = -(-devices // chip.host_devices)
    rows_per_s = config.rows.per_step / step_s / hosts
    one = worker_rows_per_s or WORKER_TOKENS_PER_S / config.rows.length
    return Appetite(
        hosts=hosts,
        rows_per_s=rows_per_s,
        worker_rows_per_s=one,
        measured=worker_rows_per_s is not None,
        workers_needed=math.ceil(rows_per_s / one),
        workers=config.data.get("workers", 0),
        cores=chip.host_cores,
    )
