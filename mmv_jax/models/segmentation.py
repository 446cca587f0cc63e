"""Segmentation decoders: logits of voxels from an encoder's tokens.

Axes: M blocks, N studies, z y x tokens, D width, Z Y X voxels, C classes.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Version of what the segmentation decoders compute. Raise it when that changes: stored results of
# an older version are then fitted anew.
DECODERS_VERSION = 2
# Initial bias of the logits: a structure takes few of the voxels (5 %). A decoder that has to learn
# this first unlearns everything else.
PRIOR = -3.0


def kernel_of(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a convolution kernel: 3 along axes of several voxels, so (1, 3, 3) on a slice."""
    return tuple(3 if size > 1 else 1 for size in grid)


def resize(x: Float[Array, "N z y x D"], grid: tuple[int, ...]) -> Float[Array, "N Z Y X D"]:
    """Linear interpolation between voxel centres."""
    return jax.image.resize(x, (x.shape[0], *grid, x.shape[-1]), "linear", antialias=False)


def doublings(tokens: tuple[int, ...], voxels: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Grids from the tokens' to the voxels'; each axis doubles until it has its full size."""
    grids = [tokens]
    while grids[-1] != voxels:
        grids.append(tuple(min(2 * size, full) for size, full in zip(grids[-1], voxels)))
    return grids


class Upsample(nn.Module):
    """Layers that double the grid up to the voxels, with half as many channels each time.

    The first grids add the skips, in their order. A linear map gives each child of a place channels
    of its own (sub-pixel convolution); a convolution then smooths the seams. A token of a masked
    autoencoder knows where things are within its patch. Interpolation would lose that, since it
    shows all children the same channels.

    Source: Shi et al., sub-pixel convolution (arXiv 1609.05158).
    """

    classes: int
    narrowest: int = 16

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N z y x W"],
        skips: list[Float[Array, "N z y x D"]],
        voxels: tuple[int, int, int],
    ) -> Float[Array, "N Z Y X {self.classes}"]:
        for n, grid in enumerate(doublings(x.shape[1:4], voxels)[1:]):
            width = max(x.shape[-1] // 2, self.narrowest)
            factors = tuple(2 if size > before else 1 for size, before in zip(grid, x.shape[1:4]))
            x = spread_out(nn.Dense(width * math.prod(factors), name=f"children_{n}")(x), factors)
            # Changes nothing unless the ratio of the two grids is no power of two.
            x = resize(x, grid)
            if n < len(skips):
                x = x + resize(nn.Dense(width, name=f"skip_{n}")(skips[n]), grid)
            x = nn.gelu(
                nn.LayerNorm(name=f"norm_{n}")(nn.Conv(width, kernel_of(grid), name=f"conv_{n}")(x))
            )
        return nn.Dense(self.classes, bias_init=nn.initializers.constant(PRIOR), name="logits")(x)


def spread_out(x: Float[Array, "N z y x C"], factors: tuple[int, ...]) -> Float[Array, "N Z Y X W"]:
    """Each place as `factors` places, its channels divided among them."""
    (n, z, y, x_, c), (fz, fy, fx) = x.shape, factors
    apart = x.reshape((n, z, y, x_, fz, fy, fx, c // (fz * fy * fx)))
    # To [n, z, fz, y, fy, x, fx, c]: each factor beside the axis that it multiplies.
    apart = apart.transpose((0, 1, 4, 2, 5, 3, 6, 7))
    return apart.reshape((n, z * fz, y * fy, x_ * fx, -1))


class LinearDecoder(nn.Module):
    """One linear map from each token to class logits, interpolated to voxels: the plainest readout.

    All segmentation decoders are called alike, with `levels` of tokens on the study's token grid,
    its CLS token and the voxel grid of the output. `levels` are zero where the encoder dropped a
    token. This decoder reads the last level alone.

    Source: Oquab et al., DINOv2 (arXiv 2304.07193), section 7.4, "linear".
    """

    classes: int

    @nn.compact
    def __call__(
        self,
        levels: Float[Array, "M N z y x D"],
        cls: Float[Array, "N D"],
        voxels: tuple[int, int, int],
    ) -> Float[Array, "N Z Y X {self.classes}"]:
        """Logits on the grid `voxels`."""
        tokens = nn.LayerNorm(use_scale=False, use_bias=False)(levels[-1])
        return resize(
            nn.Dense(self.classes, bias_init=nn.initializers.constant(PRIOR), name="logits")(
                tokens
            ),
            voxels,
        )


class MultiScaleDecoder(nn.Module):
    """Convolutions that double the grid up to the voxels and add tokens of several depths.

    The deepest tokens enter at the coarsest grid. Called like `LinearDecoder`.

    Source: the feature pyramid of Lin et al. (arXiv 1612.03144) on a plain transformer, as in UNETR
      (arXiv 2103.10504).
    """

    classes: int
    width: int = 128

    @nn.compact
    def __call__(
        self,
        levels: Float[Array, "M N z y x D"],
        cls: Float[Array, "N D"],
        voxels: tuple[int, int, int],
    ) -> Float[Array, "N Z Y X {self.classes}"]:
        """Logits on the grid `voxels`."""
        # This norm has no parameters: it only brings tokens of different depths to one scale.
        levels = nn.LayerNorm(use_scale=False, use_bias=False)(levels)
        deepest, *others = [levels[m] for m in reversed(range(len(levels)))]
        x = nn.gelu(nn.Dense(self.width, name="entry")(deepest))
        return Upsample(self.classes, name="upsample")(x, others, voxels)


class GlobalLocalDecoder(nn.Module):
    """Cross-attention between CLS and patch tokens, then the upsampling of `MultiScaleDecoder`.

    First CLS attends to the patches, then each patch to CLS and all patches. Whether there is a
    pneumothorax is visible globally; where it ends is visible locally. The result for a patch is
    added with weights that begin at 0, so that a fit begins as one of `MultiScaleDecoder`. Called
    like `LinearDecoder`.

    Source: the idea of a head that integrates global and local features, arXiv 2504.16047; the
      layout of this one is our own.
    """

    classes: int
    width: int = 128
    heads: int = 4

    @nn.compact
    def __call__(
        self,
        levels: Float[Array, "M N z y x D"],
        cls: Float[Array, "N D"],
        voxels: tuple[int, int, int],
    ) -> Float[Array, "N Z Y X {self.classes}"]:
        """Logits on the grid `voxels`."""
        plain = nn.LayerNorm(use_scale=False, use_bias=False)
        deepest, *others = [plain(levels[m]) for m in reversed(range(len(levels)))]
        studies, *grid, width = deepest.shape
        local = nn.Dense(self.width, name="local")(deepest.reshape(studies, -1, width))
        whole = nn.Dense(self.width, name="global")(plain(cls))[:, None]
        # Empty places are masked: a study's result must not depend on a larger one in the batch.
        there = jnp.any(levels[-1] != 0, axis=-1).reshape(studies, -1)
        whole = whole + self.ask(
            whole, local, there=there, name="global_asks", out=nn.initializers.lecun_normal()
        )
        # CLS stands first among the keys and is never masked.
        answering = jnp.concatenate([jnp.ones((studies, 1), bool), there], axis=1)
        local = local + self.ask(
            local,
            jnp.concatenate([whole, local], axis=1),
            there=answering,
            name="local_asks",
            out=nn.initializers.zeros_init(),
        )
        return Upsample(self.classes, name="upsample")(
            nn.gelu(local).reshape(studies, *grid, self.width), others, voxels
        )

    def ask(
        self,
        queries: Float[Array, "N Q D"],
        keys: Float[Array, "N K D"],
        there: Bool[Array, "N K"],
        name: str,
        out: nn.initializers.Initializer,
    ) -> Float[Array, "N Q D"]:
        attention = nn.MultiHeadDotProductAttention(self.heads, out_kernel_init=out, name=name)
        plain = (
            nn.LayerNorm(name=f"{name}_{part}")(x)
            for part, x in (("queries", queries), ("keys", keys))
        )
        return attention(*plain, mask=there[:, None, None])
