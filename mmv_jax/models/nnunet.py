"""The U-Net of nnU-Net at full width, with deep supervision: a supervised baseline for masks.

Axes: N patches, Z Y X voxels, I channels in, C classes.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from mmv_jax.models.segmentation import PRIOR, spread_out
from mmv_jax.models.unet_plan import UNetPlan

Axes = tuple[int, ...]
# Of a leaky ReLU with slope 0.01, after Kaiming He et al. (arXiv 1502.01852), equation 14.
KERNEL_INIT = nn.initializers.variance_scaling(2 / (1 + 0.01**2), "fan_in", "normal")


class ConvNorm(nn.Module):
    """A convolution, instance norm and leaky ReLU."""

    width: int
    kernel: Axes
    stride: Axes

    @nn.compact
    def __call__(self, x: Float[Array, "N *grid I"]) -> Float[Array, "N *smaller {self.width}"]:
        # Equal margins on both sides. "SAME" would shift the grid of a strided convolution.
        margins = [(size // 2, size // 2) for size in self.kernel]
        x = nn.Conv(self.width, self.kernel, self.stride, padding=margins, kernel_init=KERNEL_INIT)(
            x
        )
        # Variance from squares of differences: a constant patch must not become noise.
        x = nn.InstanceNorm(epsilon=1e-5, use_fast_variance=False)(x)
        return nn.leaky_relu(x, 0.01)


class Doubled(nn.Module):
    """A transposed convolution whose kernel is its stride: each place becomes its children."""

    width: int
    factors: Axes

    @nn.compact
    def __call__(self, x: Float[Array, "N *grid I"]) -> Float[Array, "N *larger {self.width}"]:
        # As a product of matrices: XLA's transposed convolution is many times slower on a CPU.
        children = nn.Dense(
            self.width * math.prod(self.factors), use_bias=False, kernel_init=KERNEL_INIT
        )(x)
        # `spread_out` knows three axes; a planar patch gets one of size 1.
        planar = len(self.factors) == 2
        factors = (1, *self.factors) if planar else self.factors
        x = spread_out(children[:, None] if planar else children, factors)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        x = x[:, 0] if planar else x
        return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class PlannedUNet(nn.Module):
    """nnU-Net's plain U-Net: two convolutions a stage, strided on the way down.

    Planar patches (Z = 1 in the plan) go through 2D convolutions, which are several times faster
    than 3D ones on a slice.

    Args of a call: patches whose sides are those of the plan, or other multiples of its strides.
    Returns of a call: logits of every stage on the way up, the full grid first. Training uses all
    of them (`deep_supervision`), prediction the first.

    Source: Isensee et al., Nature Methods 18:203 (2021); the layout is that of `PlainConvUNet` in
      dynamic-network-architectures, which nnU-Net v2 uses.
    """

    plan: UNetPlan
    classes: int = 1

    @nn.compact
    def __call__(self, image: Float[Array, "N Z Y X I"]) -> list[Float[Array, "N _ _ _ C"]]:
        plan, planar = self.plan, self.plan.planar
        x, skips = image[:, 0] if planar else image, []
        for n, width in enumerate(plan.features):
            for k in range(2):
                stride = plan.strides[n] if k == 0 else (1, 1, 1)
                x = self._convolved(x, width, n, stride=stride, name=f"down_{n}_{k}")
            skips.append(x)
        found = []
        for n in reversed(range(len(plan.features) - 1)):
            factors, width = plan.strides[n + 1], plan.features[n]
            x = Doubled(width, factors[1:] if planar else factors, name=f"double_{n}")(x)
            x = jnp.concatenate([x, skips[n]], axis=-1)
            for k in range(2):
                x = self._convolved(x, width, n, stride=(1, 1, 1), name=f"up_{n}_{k}")
            logits = nn.Dense(
                self.classes, bias_init=nn.initializers.constant(PRIOR), name=f"logits_{n}"
            )(x)
            found.append(logits[:, None] if planar else logits)
        return found[::-1]

    def _convolved(self, x: Array, width: int, n: int, *, stride: Axes, name: str) -> Array:
        """The convolution of stage n."""
        first = 1 if self.plan.planar else 0
        return ConvNorm(width, self.plan.kernels[n][first:], stride[first:], name=name)(x)


def coarser(x: Shaped[Array, "N Z Y X"], grid: Axes) -> Shaped[Array, "N z y x"]:
    """The voxel nearest to the centre of each voxel of a coarser grid, whose sides divide these."""
    for axis, size in enumerate(grid, start=1):
        factor = x.shape[axis] // size
        # Of an even number of voxels, two are nearest; the upper one is taken.
        x = jax.lax.slice_in_dim(x, factor // 2, x.shape[axis], factor, axis=axis)
    return x


def stage_weights(stages: int) -> list[float]:
    """Weights of the losses of the grids, the full one first.

    Each grid counts half as much as the next finer one, and the coarsest one not at all. Of a
    single grid it is 1.

    Example:
      >>> [round(weight, 3) for weight in stage_weights(3)]
      [0.667, 0.333, 0.0]
    """
    weights = [0.5**n for n in range(stages)]
    if stages > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]
