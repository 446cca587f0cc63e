"""The grid of a ResNet that sees whole studies: as fine as the studies, or as the memory allows.

Axes: N studies; every triple is (z, y, x).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mmv_jax.models.resnet import SMALLEST_HALVED, ResNetLayout
from mmv_jax.models.unet_plan import FEWEST, REFERENCE, REFERENCE_GIB

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class ResNetPlan:
    """The grid of all studies of a task, and studies a step."""

    spacing_mm: tuple[float, float, float]
    grid: Triple
    batch: int


def plan_resnet(
    spacing_mm: Float[np.ndarray, "N 3"],
    extent_mm: Float[np.ndarray, "M 3"],
    layout: ResNetLayout,
    *,
    width: int = 64,
    memory_gib: float = 8.0,
) -> ResNetPlan:
    """The median spacing and a grid that holds every study, all planar or all volumetric.

    Where two studies do not fit into the memory, all voxels become larger by one factor.

    Args:
      spacing_mm: of the training studies.
      extent_mm: of all studies; z of a planar one is its spacing, 1.
      memory_gib: of the device.

    Example:
      >>> from mmv_jax.models.resnet import RESNETS
      >>> radiographs = np.array([[1.0, 0.35, 0.35]]), np.array([[1.0, 350.0, 350.0]])
      >>> plan_resnet(*radiographs, RESNETS["resnet18"])
      ResNetPlan(spacing_mm=(1.0, 0.35, 0.35), grid=(1, 1000, 1000), batch=17)
    """
    planar = bool((extent_mm[:, 0] <= 1).all())
    median, widest = np.median(spacing_mm, axis=0), extent_mm.max(axis=0)
    per_patch, patches = REFERENCE[planar]
    # The same count of numbers as for a U-Net, so that one `memory_gib` serves both.
    budget = per_patch * patches * memory_gib / REFERENCE_GIB
    factor = 1.0
    while True:
        spacing = median * (np.array([1, factor, factor]) if planar else factor)
        grid = np.maximum(np.rint(widest / spacing), 1).astype(int)
        elements = outputs(grid, layout, width)
        if FEWEST * elements <= budget or grid.max() < 2 * SMALLEST_HALVED:
            break
        # Small steps, so that little memory is left unused.
        factor *= 1.05
    z, y, x = grid.tolist()
    a, b, c = spacing.tolist()
    return ResNetPlan((a, b, c), (z, y, x), max(int(budget // elements), FEWEST))


def outputs(grid: np.ndarray, layout: ResNetLayout, width: int) -> int:
    """Numbers that the convolutions of one study put out."""

    def halved(size: np.ndarray) -> np.ndarray:
        # As `resnet.halving`: a strided axis of n voxels has n / 2 of them, rounded up.
        return np.where(size >= SMALLEST_HALVED, -(-size // 2), size)

    size = halved(np.asarray(grid))
    total, size = width * int(np.prod(size)), halved(size)
    # Widths of a block's layers, in those of its stage.
    layers = (1, 1, 4) if layout.bottleneck else (1, 1)
    for n, blocks in enumerate(layout.blocks):
        before, size = size, halved(size) if n else size
        # A shortcut has a convolution too, where the grid or the width changes.
        own = blocks * sum(layers) + (layers[-1] if n or layout.bottleneck else 0)
        total += own * width * 2**n * int(np.prod(size))
        if layout.bottleneck:
            # The first layer of a stage still has the grid of the stage before.
            total += width * 2**n * int(np.prod(before) - np.prod(size))
    return total
