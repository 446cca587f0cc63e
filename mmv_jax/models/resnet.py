"""Residual networks at full width, planar and volumetric: supervised baselines for one number.

Axes: N studies, Z Y X voxels, I channels in.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.models.segmentation import kernel_of

# An axis with fewer voxels is not halved again: thick-slice volumes keep their few slices.
SMALLEST_HALVED = 8
GROUPS = 32


@dataclass(frozen=True)
class ResNetLayout:
    """Blocks of each of the four stages, and whether a block is a bottleneck of three layers."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


RESNETS = {
    "resnet18": ResNetLayout((2, 2, 2, 2), bottleneck=False),
    "resnet50": ResNetLayout((3, 4, 6, 3), bottleneck=True),
}


class Normed(nn.Module):
    """A convolution without bias, and group norm."""

    width: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()

    @nn.compact
    def __call__(self, x: Float[Array, "N *grid I"]) -> Float[Array, "N *smaller {self.width}"]:
        # Equal margins on both sides, as in the original: "SAME" would shift a strided grid.
        margins = [(size // 2, size // 2) for size in self.kernel]
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        x = nn.Conv(
            self.width, self.kernel, self.stride, padding=margins, use_bias=False, kernel_init=init
        )(x)
        groups = min(GROUPS, self.width)
        norm = nn.GroupNorm(
            groups, epsilon=1e-5, use_fast_variance=False, scale_init=self.scale_init
        )
        return norm(x)


class Residual(nn.Module):
    """A residual block: two layers, or three with a narrow one in the middle."""

    width: int
    bottleneck: bool
    halved: bool

    @nn.compact
    def __call__(self, x: Float[Array, "N *grid I"]) -> Float[Array, "N *smaller O"]:
        ones = (1,) * (x.ndim - 2)
        wide, stride = kernel_of(x.shape[1:-1]), halving(x) if self.halved else ones
        out = self.width * (4 if self.bottleneck else 1)
        # The last norm begins at 0, so that a block begins as its shortcut (arXiv 1706.02677).
        last = nn.initializers.zeros_init()
        if self.bottleneck:
            y = nn.relu(Normed(self.width, ones, ones, name="first")(x))
            y = nn.relu(Normed(self.width, wide, stride, name="second")(y))
            y = Normed(out, ones, ones, last, name="third")(y)
        else:
            y = nn.relu(Normed(self.width, wide, stride, name="first")(x))
            y = Normed(out, kernel_of(y.shape[1:-1]), ones, last, name="second")(y)
        if self.halved or x.shape[-1] != out:
            x = Normed(out, ones, stride, name="shortcut")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A ResNet with group norm, of planar (Z = 1) or volumetric studies: a row of outputs a study.

    Planar studies go through 2D convolutions. Group norm has as many parameters as the original's
    batch norm. It needs no statistics of a batch, which are poor in batches as small as whole
    studies allow, and the answer for a study does not depend on the others of its batch.

    Source: He et al. (arXiv 1512.03385), with the stride in the second layer of a bottleneck as in
      torchvision; volumes as Hara et al. (arXiv 1711.09577); Wu and He, group norm (arXiv
      1803.08494).
    """

    outputs: int
    layout: ResNetLayout
    width: int = 64

    @nn.compact
    def __call__(self, image: Float[Array, "N Z Y X I"]) -> Float[Array, "N {self.outputs}"]:
        # 2D convolutions of a slice are several times faster than 3D ones.
        x = image[:, 0] if image.shape[1] == 1 else image
        wide = tuple(7 if size > 1 else 1 for size in x.shape[1:-1])
        x = nn.relu(Normed(self.width, wide, halving(x), name="stem")(x))
        window = kernel_of(x.shape[1:-1])
        # Flax pads with minus infinity, so that a margin is never the largest.
        margins = [(size // 2, size // 2) for size in window]
        x = nn.max_pool(x, window, strides=halving(x), padding=margins)
        for n, blocks in enumerate(self.layout.blocks):
            for k in range(blocks):
                x = Residual(
                    self.width * 2**n,
                    self.layout.bottleneck,
                    halved=n > 0 and k == 0,
                    name=f"stage_{n}_{k}",
                )(x)
        return nn.Dense(self.outputs, name="logits")(jnp.mean(x, axis=tuple(range(1, x.ndim - 1))))


def halving(x: Float[Array, "N *grid I"]) -> tuple[int, ...]:
    """Strides that halve each axis of at least `SMALLEST_HALVED` voxels."""
    return tuple(2 if size >= SMALLEST_HALVED else 1 for size in x.shape[1:-1])
