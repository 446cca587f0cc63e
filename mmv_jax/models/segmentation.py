"""Segmentation decoders: from an encoder's tokens to the logits of voxels.

Axes: M blocks, N studies, z y x tokens, D width, Z Y X voxels, C classes.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# of what the segmentation decoders compute: results that were fitted with another one are not taken
# for theirs
DECODERS_VERSION = 2
# the logits' bias at the start: a structure takes few of the voxels (5 %), and a decoder that must
# learn this first unlearns all else
PRIOR = -3.0


def kernel_of(grid: tuple[int, ...]) -> tuple[int, ...]:
    """A kernel of 3 along the axes that a study has: (1, 3, 3) for a planar one."""
    return tuple(3 if size > 1 else 1 for size in grid)


def resize(x: Float[Array, "N z y x D"], grid: tuple[int, ...]) -> Float[Array, "N Z Y X D"]:
    """Linear interpolation between voxel centres."""
    return jax.image.resize(x, (x.shape[0], *grid, x.shape[-1]), "linear", antialias=False)


def doublings(tokens: tuple[int, ...], voxels: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Grids from that of the tokens to that of the voxels, each axis doubling until it is there."""
    grids = [tokens]
    while grids[-1] != voxels:
        grids.append(tuple(min(2 * size, full) for size, full in zip(grids[-1], voxels)))
    return grids


class Upsample(nn.Module):
    """Doubles the grid up to the voxels, half as many channels each time; skips join at the first
    grids, in their order.

    A linear map gives each place's children channels of their own (sub-pixel convolution), then a
    convolution mends the seams. A token of a masked autoencoder knows where in its patch things
    are; interpolation, which shows all children the same, would lose that.

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
            # nothing but where the voxels' grid is no power of two of the tokens'
            x = resize(x, grid)
            if n < len(skips):
                x = x + resize(nn.Dense(width, name=f"skip_{n}")(skips[n]), grid)
            x = nn.gelu(
                nn.LayerNorm(name=f"norm_{n}")(nn.Conv(width, kernel_of(grid), name=f"conv_{n}")(x))
            )
        return nn.Dense(self.classes, bias_init=nn.initializers.constant(PRIOR), name="logits")(x)


def spread_out(x: Float[Array, "N z y x C"], factors: tuple[int, ...]) -> Float[Array, "N Z Y X W"]:
    """Channels to places: each place becomes `factors` places, with as many times fewer
    channels.
    """
    (n, z, y, x_, c), (fz, fy, fx) = x.shape, factors
    apart = x.reshape((n, z, y, x_, fz, fy, fx, c // (fz * fy * fx)))
    # To [n, z, fz, y, fy, x, fx, c]: each factor beside the axis that it multiplies.
    apart = apart.transpose((0, 1, 4, 2, 5, 3, 6, 7))
    return apart.reshape((n, z * fz, y * fy, x_ * fx, -1))


class LinearDecoder(nn.Module):
    """Class scores of each token by one linear map, interpolated to voxels: what the features say
    without help.

    All segmentation decoders are called alike: with `levels` of tokens on the study's token grid
    (zeros where the encoder dropped a token), its CLS token, and the voxel grid to answer on. This
    one reads the last level alone.

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
    """Tokens of several depths, the deepest at the coarsest grid, through convolutions that double
    the grid up to the voxels.

    Called as `LinearDecoder`. Source: the feature pyramid of Lin et al. (arXiv 1612.03144) on a
    plain transformer, as in UNETR (arXiv 2103.10504).
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
        # Without parameters: it only brings tokens of different depths to one scale.
        levels = nn.LayerNorm(use_scale=False, use_bias=False)(levels)
        deepest, *others = [levels[m] for m in reversed(range(len(levels)))]
        x = nn.gelu(nn.Dense(self.width, name="entry")(deepest))
        return Upsample(self.classes, name="upsample")(x, others, voxels)


class GlobalLocalDecoder(nn.Module):
    """CLS and patch tokens meet by cross-attention, then go up to the voxels.

    First CLS asks the patches, then each patch asks CLS and all patches: whether there is a
    pneumothorax is seen globally, where it ends locally. What a patch finds is added with weights
    that are 0 at first: a fit begins as one of `MultiScaleDecoder`, which has no such exchange.
    Called as `LinearDecoder`.

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
        # a study's answer must not hang on how much larger another one is
        there = jnp.any(levels[-1] != 0, axis=-1).reshape(studies, -1)
        whole = whole + self.ask(
            whole, local, there=there, name="global_asks", out=nn.initializers.lecun_normal()
        )
        # CLS stands first among the keys, and can always be asked.
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
