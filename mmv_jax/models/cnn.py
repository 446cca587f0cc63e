"""Convolutional networks: supervised baselines for the encoder's features.

Axes: N studies, Z Y X voxels, I channels in, C classes.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.models.segmentation import PRIOR, kernel_of, resize

# An axis with fewer voxels is not halved again: thick-slice volumes keep their few slices.
SMALLEST_HALVED = 8


class Convolutions(nn.Module):
    """Two layers of convolution, instance norm and leaky ReLU."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "N Z Y X I"]) -> Float[Array, "N Z Y X {self.width}"]:
        for _ in range(2):
            x = nn.Conv(self.width, kernel_of(x.shape[1:4]), use_bias=False)(x)
            x = nn.leaky_relu(nn.InstanceNorm()(x), 0.01)
        return x


def halve(x: Float[Array, "N Z Y X D"]) -> Float[Array, "N z y x D"]:
    """The largest of two neighbours along each axis of at least `SMALLEST_HALVED` voxels."""
    window = tuple(2 if size >= SMALLEST_HALVED else 1 for size in x.shape[1:4])
    return nn.max_pool(x, window, strides=window, padding="SAME")


class UNet(nn.Module):
    """A U-Net for studies of any size, one network for planar (Z = 1) and one for volumetric ones.

    Channels double as the grid halves, up to 320.

    Source: Ronneberger et al. (arXiv 1505.04597), with the norm, activation and widths of nnU-Net
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
            x = Convolutions(width, name=f"down_{n}")(halve(x))
        # Resized to the skip's grid, not doubled: small axes were not halved on the way down.
        for n in reversed(range(self.depth)):
            x = jnp.concatenate([resize(x, skips[n].shape[1:4]), skips[n]], axis=-1)
            x = Convolutions(widths[n], name=f"up_{n}")(x)
        return nn.Dense(self.classes, bias_init=nn.initializers.constant(PRIOR), name="logits")(x)


class Classifier(nn.Module):
    """The U-Net's way down, the mean over its coarsest grid, and one linear map: a row of outputs a
    study.
    """

    outputs: int
    width: int = 32
    depth: int = 4

    @nn.compact
    def __call__(self, image: Float[Array, "N Z Y X I"]) -> Float[Array, "N {self.outputs}"]:
        x = Convolutions(self.width, name="down_0")(image)
        for n in range(1, self.depth + 1):
            x = Convolutions(min(self.width * 2**n, 320), name=f"down_{n}")(halve(x))
        return nn.Dense(self.outputs, name="logits")(x.mean(axis=(1, 2, 3)))
