"""The plan of a U-Net from the spacing and shape of studies, by the rules of nnU-Net.

Axes: N studies; every triple is (z, y, x). A planar study has one slice, and is never halved or
convolved along z.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Triple = tuple[int, int, int]

ANISOTROPY = 3.0  # a spacing this many times the others, over as many fewer slices, is anisotropic
SMALLEST = 4  # voxels of the coarsest grid, at least
MOST = {True: 512, False: 320}  # features of the deepest stages: planar, volumetric
# What nnU-Net counts on a GPU of 8 GB: outputs of convolutions of one patch, with this many patches
REFERENCE = {True: (85_000_000, 12), False: (560_000_000, 2)}
REFERENCE_GIB = 8.0
FEWEST = 2  # patches a step


@dataclass(frozen=True)
class UNetPlan:
    """A network, its patch and the grid that studies are resampled to.

    Attributes:
      spacing_mm: of the grid (z, y, x).
      patch: voxels of a patch.
      features: of each stage; the first one has the full grid.
      kernels, strides: of each stage; the stride leads into it.
      batch: patches a step that the memory allows.
    """

    spacing_mm: tuple[float, float, float]
    patch: Triple
    features: tuple[int, ...]
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    batch: int

    @property
    def planar(self) -> bool:
        """Whether patches have one slice."""
        return self.patch[0] == 1


def plan_unet(
    spacing_mm: Float[np.ndarray, "N 3"],
    shapes: Int[np.ndarray, "N 3"],
    *,
    features: int = 32,
    memory_gib: float = 8.0,
) -> UNetPlan:
    """Plan a network for studies, all planar or all volumetric.

    The patch begins with the proportions of a cube in mm, not larger than the median study. It
    loses voxels along its relatively longest axis until the memory suffices. Axes are halved down
    to 4 voxels. A coarse axis waits until the others have become as coarse.

    Args:
      features: of the first stage; they double with each stage, up to 512 (planar) or 320.
      memory_gib: of the device, as nnU-Net counts it for half precision: float32 takes about twice
        as much. It bounds the patch, then the batch.

    Example:
      >>> plan = plan_unet(np.full((1, 3), 1.0), np.array([[96, 160, 160]]))
      >>> plan.patch, plan.features
      ((96, 160, 160), (32, 64, 128, 256, 320, 320))

    Source: Isensee et al., Nature Methods 18:203 (2021), supplement; `ExperimentPlanner` of
      nnU-Net v2.
    """
    # nnU-Net plans planar studies on two axes; z is left out of every decision below.
    planar = bool((shapes[:, 0] == 1).all())
    spacing = target_spacing(spacing_mm, shapes)
    # As many voxels as a study has on the common grid.
    median = np.median(np.rint(shapes * spacing_mm / spacing), axis=0)
    own = slice(1, 3) if planar else slice(0, 3)
    begin = (2048.0**2 if planar else 256.0**3) * np.prod(spacing[own])
    cube = np.rint(begin ** (1 / len(spacing[own])) / spacing[own])
    patch = np.minimum(cube, median[own]).astype(int).tolist()
    reference, batch = REFERENCE[planar]
    most = reference * memory_gib / REFERENCE_GIB
    topology = _topology(spacing[own], patch)
    # The reference is of `batch` patches, but fewer of them may be larger.
    while (elements := _elements(topology, features, planar)) * FEWEST > most * batch:
        # The axis that covers most of the median study.
        longest = int(np.argsort(np.array(topology.patch) / median[own])[-1])
        smaller = list(topology.patch)
        # One multiple less may do with one halving less, and then needs fewer voxels to divide.
        smaller[longest] -= topology.multiples[longest]
        step = _topology(spacing[own], smaller).multiples[longest]
        smaller = list(topology.patch)
        smaller[longest] -= step
        topology = _topology(spacing[own], smaller)
    fill = (1,) if planar else ()
    z, y, x = spacing.tolist()
    return UNetPlan(
        spacing_mm=(z, y, x),
        patch=_triple((*fill, *topology.patch)),
        features=tuple(min(features * 2**n, MOST[planar]) for n in range(len(topology.strides))),
        kernels=tuple(_triple((*fill, *kernel)) for kernel in topology.kernels),
        strides=tuple(_triple((*fill, *stride)) for stride in topology.strides),
        batch=max(round(most / elements * batch), FEWEST),
    )


def target_spacing(
    spacing_mm: Float[np.ndarray, "N 3"], shapes: Int[np.ndarray, "N 3"]
) -> Float[np.ndarray, "3"]:
    """The median spacing; along a much coarser axis of few slices the 10th percentile, so that
    thin-slice studies keep detail.
    """
    target, sizes = np.median(spacing_mm, axis=0), np.median(shapes, axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(3) if axis != worst]
    finest = float(target[others].max())
    coarse = target[worst] > ANISOTROPY * finest
    if sizes[0] > 1 and coarse and sizes[worst] * ANISOTROPY < sizes[others].min():
        target[worst] = max(float(np.percentile(spacing_mm[:, worst], 10)), finest)
    return target


@dataclass(frozen=True)
class _Topology:
    """Kernels and strides of each stage, and a patch that they divide.

    Attributes:
      multiples: of each axis, the product of its strides.
    """

    patch: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    multiples: tuple[int, ...]


def _topology(spacing: Float[np.ndarray, " A"], patch: Sequence[int]) -> _Topology:
    """How often each axis is halved: `get_pool_and_conv_props` of nnU-Net."""
    axes = range(len(patch))
    now, sizes, kernel = spacing.copy(), np.array(patch, float), [1] * len(patch)
    kernels, strides, multiples = [], [(1,) * len(patch)], [1] * len(patch)
    while True:
        halved = [axis for axis in axes if sizes[axis] >= 2 * SMALLEST]
        if halved:
            # Axes that are within twice the finest spacing of those that can be halved.
            finest = min(now[axis] for axis in halved)
            halved = [axis for axis in halved if now[axis] / finest < 2]
        if not halved or (len(halved) == 1 and sizes[halved[0]] < 3 * SMALLEST):
            break
        # A kernel along a coarse axis would mix slices that are far apart; once 3, it stays 3.
        kernel = [3 if now[axis] / now.min() < 2 else kernel[axis] for axis in axes]
        kernels.append(tuple(kernel))
        stride = tuple(2 if axis in halved else 1 for axis in axes)
        strides.append(stride)
        for axis in halved:
            now[axis] *= 2
            sizes[axis] = np.ceil(sizes[axis] / 2)
            multiples[axis] *= 2
    # The coarsest stage convolves along every axis, however coarse it is.
    kernels.append((3,) * len(patch))
    whole = tuple(-(-size // by) * by for size, by in zip(patch, multiples))
    return _Topology(whole, tuple(kernels), tuple(strides), tuple(multiples))


def _elements(topology: _Topology, features: int, planar: bool) -> int:
    """Numbers that all convolutions of one patch put out, by which nnU-Net counts memory."""
    # A patch is a multiple of its strides, so that no grid is rounded.
    sizes = [np.array(topology.patch)]
    for stride in topology.strides[1:]:
        sizes.append(sizes[-1] // np.array(stride))
    voxels = [int(np.prod(size)) for size in sizes]
    widths = [min(features * 2**n, MOST[planar]) for n in range(len(sizes))]
    down = sum(2 * width * count for width, count in zip(widths, voxels))
    # A stage on the way up has a transposed convolution and two convolutions. The last one has
    # logits of two classes, as nnU-Net counts a structure and its background.
    up = sum(3 * width * count for width, count in zip(widths[:-1], voxels[:-1]))
    return down + up + 2 * voxels[0]


def _triple(sizes: Sequence[int]) -> Triple:
    z, y, x = sizes
    return z, y, x
