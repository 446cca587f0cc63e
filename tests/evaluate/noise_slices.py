"""Noise as slices of studies."""

import numpy as np
import torch

from mmv_jax.evaluate.finetune.slices import Slices


def batch_of(counts, side=32, seed=0):
    """Noise as studies of so many slices, that take two thirds of the width, and masks in it."""
    rng = np.random.default_rng(seed)
    shape = (sum(counts), side, side)
    counted = np.zeros(shape, bool)
    counted[:, :, : 2 * side // 3] = True
    images, truth = (
        rng.uniform(size=shape).astype(np.float32),
        (rng.uniform(size=shape) < 0.2) & counted,
    )
    return Slices(
        *(
            torch.from_numpy(images),
            list(counts),
            torch.from_numpy(counted),
            torch.from_numpy(truth),
        )
    )
