"""The smallest fit that has all parts."""

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from mmv_jax.bac import fit

MADE: list[Callable] = []


def share_step(monkeypatch) -> None:
    """Lets fits of `small_config` take one step, which is traced and compiled once."""
    make = fit.jit_fit_step

    def made(*given):
        if not MADE:
            MADE.append(make(*given))
        return MADE[0]

    monkeypatch.setattr(fit, "jit_fit_step", made)


def small_config(store: Path) -> ConfigDict:
    """A fit of three steps with a nano encoder and tiles of 32 pixels."""
    c = ConfigDict(dict(seed=0, steps=3, rows=1, init=""))
    c.data = dict(
        store=str(store), splits=("train", "val", "test"), mix=(0.4, 0.2, 0.2, 0.2), mine_at=(2,)
    )
    c.tiles = dict(tile=32, overlap=8, per_row=2)
    c.encoder = dict(size="nano", depth=1, patch=(1, 8, 8), registers=1, scale_mm=6.4)
    c.encoder.attention = "dense"  # compiled sooner than the other backends
    c.head = dict(channels=4)
    c.optimizer = dict(peak_lr=1e-3, at_rows=1, warmup=0.1, weight_decay=0.05)
    c.checkpoint = dict(every=2, keep=2)
    c.measure = dict(
        threshold=0.5,
        least_mm2=0.1,
        of_views="mean",
        of_breasts="sum",
        severity_mm2=(0.0, 10.0, 25.0),
    )
    return c
