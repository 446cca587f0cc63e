"""A plain U-Net: the supervised baseline that pretrained features have to beat. Axes: N studies, Z Y X voxels, I channels in, C classes."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.models.decoders import kernel_of, resize

SMALLEST_HALVED = 8  # an axis with fewer voxels is not halved again: thick-slice volumes keep their few slices


class Convolutions(nn.Module):
    """Twice: convolution, instance norm, leaky ReLU."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "N Z Y X I"]) -> Float[Array, "N Z Y X {self.width}"]:
        for _ in range(2):
            x = nn.Conv(self.width, kernel_of(x.shape[1:4]), use_bias=False)(x)
            x = nn.leaky_relu(nn.InstanceNorm()(x), 0.01)
        return x


class UNet(nn.Module):
    """U-Net for planar (Z = 1) and volumetric studies of any size, one network a kind.

    Channels double as the grid halves, up to 320. Source: Ronneberger et al. (arXiv 1505.04597), with the norm, activation and widths of nnU-Net
    (Isensee et al., Nature Methods 18, 203-211).
    """

    classes: int
    width: int = 32
    depth: int = 4

    @nn.compact
    def __call__(self, image: Float[Array, "N Z Y X I"]) -> Float[Array, "N Z Y X {self.classes}"]:
        """Logits of each voxel."""
        widths = [min(self.width * 2**n, 320) for n in range(self.depth + 1)]
        x, skips = Convolutions(widths[0], name="down_0")(image), []
        for n, width in enumerate(widths[1:], start=1):
            skips.append(x)
            window = tuple(2 if size >= SMALLEST_HALVED else 1 for size in x.shape[1:4])
            x = Convolutions(width, name=f"down_{n}")(nn.max_pool(x, window, strides=window, padding="SAME"))
        for n in reversed(range(self.depth)):
            x = jnp.concatenate([resize(x, skips[n].shape[1:4]), skips[n]], axis=-1)
            x = Convolutions(widths[n], name=f"up_{n}")(x)
        return nn.Dense(self.classes, name="logits")(x)
