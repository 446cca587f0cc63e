"""Decoders: from tokens back to voxels.

Axes of reconstruction: B rows, V visible tokens, L tokens of the whole row, P voxels of a patch, D width. Axes of segmentation: N studies,
M levels (blocks of the encoder, the last one deepest), z y x a grid of tokens, Z Y X a grid of voxels, C classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.models.blocks import KERNEL_INIT, Blocks, flat

PRIOR = -3.0  # the logits' bias at the start: a structure takes few of the voxels (5 %), and a decoder that must learn this first unlearns all else


def place_tokens(x: Float[Array, "B V D"], index: Int[Array, "B V"], length: int) -> tuple[Float[Array, "B {length} D"], Array]:
    """Tokens put to the places `index` of longer rows (-1: nowhere), and a boolean [B, length]: which places were filled."""
    index = jnp.where(index < 0, length, index)  # beyond the end: dropped, where -1 would mean the last place
    put = jax.vmap(lambda x, index: jnp.zeros((length, x.shape[-1]), x.dtype).at[index].set(x, mode="drop"))
    filled = jax.vmap(lambda index: jnp.zeros(length, bool).at[index].set(True, mode="drop"))
    return put(x, index), filled(index)


class MaeDecoder(nn.Module):
    """Predicts the voxels of every patch from the encodings of the visible ones: a small transformer over whole rows.

    Source: He et al., masked autoencoders (arXiv 2111.06377), section 3; here positions are rotary, and rows hold many studies.
    """

    width: int
    depth: int
    heads: int
    patch_voxels: int
    layer_scale: float | None = 0.1
    scale_mm: float = 16.0
    attention: str = "auto"
    remat: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        encoded: Float[Array, "B V D"],
        visible_index: Int[Array, "B V"],
        coords_mm: Float[Array, "B L 3"],
        kinds: Int[Array, "B L"],
        segment_ids: Int[Array, "B L"],
    ) -> Float[Array, "B L P"]:
        """Decodes rows of visible tokens into predictions for whole rows.

        Args:
          encoded: the encoder's `tokens` of the visible rows.
          visible_index: the place of each visible token in its whole row; -1 for padding.
          coords_mm, kinds, segment_ids: of the whole rows.
        Returns:
          float32; meaningful at patches, 0 at padding.
        """
        x = flat(nn.Dense(self.width, kernel_init=KERNEL_INIT, dtype=self.dtype, name="entry"), encoded).astype(jnp.float32)
        x, visible = place_tokens(x, visible_index, kinds.shape[1])
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
        x = jnp.where(visible[..., None], x, jnp.where(kinds[..., None] > 0, mask_token[None, None], 0.0))
        shared = {name: getattr(self, name) for name in ("layer_scale", "attention", "remat", "dtype")}
        blocks = Blocks(self.depth, self.heads, name="blocks", **shared)
        x, _ = blocks(x, coords_mm / self.scale_mm, segment_ids)
        x = flat(nn.LayerNorm(epsilon=1e-6, name="norm"), x)
        x = flat(nn.Dense(self.patch_voxels, kernel_init=KERNEL_INIT, dtype=self.dtype, name="voxels"), x).astype(jnp.float32)
        return jnp.where(segment_ids[..., None] > 0, x, 0.0)


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
    """Doubles the grid up to the voxels, a convolution each time, half as many channels each time; skips join at the first grids, in their order."""

    classes: int
    narrowest: int = 16

    @nn.compact
    def __call__(
        self, x: Float[Array, "N z y x W"], skips: list[Float[Array, "N z y x D"]], voxels: tuple[int, int, int]
    ) -> Float[Array, "N Z Y X {self.classes}"]:
        for n, grid in enumerate(doublings(x.shape[1:4], voxels)[1:]):
            x = nn.Conv(max(x.shape[-1] // 2, self.narrowest), kernel_of(grid), name=f"conv_{n}")(resize(x, grid))
            if n < len(skips):
                x = x + resize(nn.Dense(x.shape[-1], name=f"skip_{n}")(skips[n]), grid)
            x = nn.gelu(nn.LayerNorm(name=f"norm_{n}")(x))
        return nn.Dense(self.classes, bias_init=nn.initializers.constant(PRIOR), name="logits")(x)


class LinearDecoder(nn.Module):
    """Class scores of each token by one linear map, interpolated to voxels: what the features say without help.

    All segmentation decoders are called alike: with `levels` of tokens on the study's token grid (zeros where the encoder dropped a token), its CLS
    token, and the voxel grid to answer on. This one reads the last level alone.

    Source: Oquab et al., DINOv2 (arXiv 2304.07193), section 7.4, "linear".
    """

    classes: int

    @nn.compact
    def __call__(
        self, levels: Float[Array, "M N z y x D"], cls: Float[Array, "N D"], voxels: tuple[int, int, int]
    ) -> Float[Array, "N Z Y X {self.classes}"]:
        """Logits on the grid `voxels`."""
        tokens = nn.LayerNorm(use_scale=False, use_bias=False)(levels[-1])
        return resize(nn.Dense(self.classes, bias_init=nn.initializers.constant(PRIOR), name="logits")(tokens), voxels)


class MultiScaleDecoder(nn.Module):
    """Tokens of several depths, the deepest at the coarsest grid, through convolutions that double the grid up to the voxels.

    Called as `LinearDecoder`. Source: the feature pyramid of Lin et al. (arXiv 1612.03144) on a plain transformer, as in UNETR (arXiv 2103.10504).
    """

    classes: int
    width: int = 128

    @nn.compact
    def __call__(
        self, levels: Float[Array, "M N z y x D"], cls: Float[Array, "N D"], voxels: tuple[int, int, int]
    ) -> Float[Array, "N Z Y X {self.classes}"]:
        """Logits on the grid `voxels`."""
        levels = nn.LayerNorm(use_scale=False, use_bias=False)(levels)
        deepest, *others = [levels[m] for m in reversed(range(len(levels)))]
        x = nn.gelu(nn.Dense(self.width, name="entry")(deepest))
        return Upsample(self.classes, name="upsample")(x, others, voxels)


class GlobalLocalDecoder(nn.Module):
    """CLS and patch tokens meet by cross-attention, then go up to the voxels.

    First CLS asks the patches, then each patch asks CLS and all patches: whether there is a pneumothorax is seen globally, where it ends locally.
    Called as `LinearDecoder`; reads the last level and CLS.

    Source: the idea of a head that integrates global and local features, arXiv 2504.16047; the layout of this one is our own.
    """

    classes: int
    width: int = 128
    heads: int = 4

    @nn.compact
    def __call__(
        self, levels: Float[Array, "M N z y x D"], cls: Float[Array, "N D"], voxels: tuple[int, int, int]
    ) -> Float[Array, "N Z Y X {self.classes}"]:
        """Logits on the grid `voxels`."""
        studies, *grid, width = levels.shape[1:]
        plain = nn.LayerNorm(use_scale=False, use_bias=False)
        local = nn.Dense(self.width, name="local")(plain(levels[-1].reshape(studies, -1, width)))
        whole = nn.Dense(self.width, name="global")(plain(cls))[:, None]
        whole = whole + self.ask(whole, local, "global_asks")
        local = local + self.ask(local, jnp.concatenate([whole, local], axis=1), "local_asks")
        return Upsample(self.classes, name="upsample")(local.reshape(studies, *grid, self.width), [], voxels)

    def ask(self, queries: Float[Array, "N Q D"], keys: Float[Array, "N K D"], name: str) -> Float[Array, "N Q D"]:
        attention = nn.MultiHeadDotProductAttention(self.heads, name=name)
        return attention(nn.LayerNorm(name=f"{name}_queries")(queries), nn.LayerNorm(name=f"{name}_keys")(keys))
