"""Segmentation model: the encoder over tiles of a mammogram, and a head that refines its tokens.

Axes: B rows, L tokens, S tiles of a row, K patches of a tile, T pixels along a tile, N = B S tiles,
Y X blocks of a tile, C channels, P voxels of a patch, D width.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from mmv_jax.bac.tiles import TileShape
from mmv_jax.errors import UserError
from mmv_jax.models.backbone import Backbone
from mmv_jax.models.sizes import make_encoder
from mmv_jax.ops.pool import gather_tokens

BLOCK = 2  # pixels along a block of the pixel head
# Arrays of `tiles.pack`, in the order of the model's arguments.
INPUTS = ("patches", "coords_mm", "kinds", "segment_ids", "images", "places")


class PixelConv(nn.Module):
    """3 by 3 convolution as one matrix product of shifted images.

    On a CPU its backward pass is several times as fast as XLA's convolution.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "N Y X C"]) -> Float[Array, "N Y X {self.channels}"]:
        height, width = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        # Nine shifted images, channels last: the kernel is one matrix [9 C, channels].
        shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return nn.Dense(self.channels, name="kernel")(jnp.concatenate(shifted, axis=-1))


class PixelHead(nn.Module):
    """Logits of pixels from tokens and pixels: a U-Net down to the grid of tokens.

    Tokens know the neighbourhood (is this a vessel?), pixels show detail (where does the calcium
    end?): a calcification is thinner than a patch. The first level works on blocks of `BLOCK` by
    `BLOCK` pixels as channels, so no resolution is lost. Each further level halves the grid and
    doubles the channels.

    Source: convolutions down to a transformer's tokens and up again as in TransUNet (arXiv
    2102.04306), pixels as channels and back as in Shi et al. (arXiv 1609.05158); the layout is our
    own.
    """

    patch: tuple[int, int]
    channels: int

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "N K D"], images: Float[Array, "N T T"]
    ) -> Float[Array, "N T T"]:
        # bit_length is log2 + 1 for a power of two: the deepest level is the grid of tokens.
        levels = (self.patch[0] // BLOCK).bit_length()
        x = nn.gelu(PixelConv(self.channels, name="entry")(to_channels(images[..., None])))
        skips = []
        for level in range(1, levels):
            skips.append(x)
            x = nn.Dense(self.channels * 2**level, name=f"down_{level}")(to_channels(x))
            x = x + nn.gelu(PixelConv(x.shape[-1], name=f"down_conv_{level}")(x))
        # K patches of a tile are in row-major order, as are the cells of this level.
        x = x + nn.Dense(x.shape[-1], name="tokens")(tokens).reshape(x.shape)
        x = x + nn.gelu(PixelConv(x.shape[-1], name="deepest")(x))
        for level in range(levels - 1, 0, -1):
            # Four times the channels of the level above: `to_pixels` makes 2 by 2 cells of them.
            x = to_pixels(nn.Dense(4 * skips[-1].shape[-1], name=f"up_{level}")(x)) + skips.pop()
            x = x + nn.gelu(PixelConv(x.shape[-1], name=f"up_conv_{level}")(x))
        # Calcium is rare: start with a probability of 2 %, so that the first steps need not learn
        # this.
        return to_pixels(
            nn.Dense(BLOCK**2, bias_init=nn.initializers.constant(-4.0), name="logit")(x)
        )[..., 0]


def to_channels(x: Float[Array, "N Y X C"]) -> Float[Array, "N y x _"]:
    """Blocks of `BLOCK` by `BLOCK` pixels as one pixel each, with all their channels."""
    return rearrange(x, "n (h i) (w j) c -> n h w (i j c)", i=BLOCK, j=BLOCK)


def to_pixels(x: Float[Array, "N y x _"]) -> Float[Array, "N Y X C"]:
    """Inverse of `to_channels`."""
    return rearrange(x, "n h w (i j c) -> n (h i) (w j) c", i=BLOCK, j=BLOCK)


class TileSegmenter(nn.Module):
    """Logits of calcified artery for the pixels of every tile of packed rows.

    `params` has "encoder" and "head", and "place" if there is an auxiliary task.

    Attributes:
      channels: of the head's first level.
      position: weight of the auxiliary task (`position.py`) in the loss; 0 for none.
    """

    encoder: Backbone
    channels: int = 16
    position: float = 0.0

    def setup(self):
        self.head = PixelHead(self.encoder.patch[1:], self.channels)
        if self.position:
            self.place = nn.Dense(2)

    def __call__(
        self,
        patches: Float[Array, "B L P"],
        coords_mm: Float[Array, "B L 3"],
        kinds: Int[Array, "B L"],
        segment_ids: Int[Array, "B L"],
        images: Float[Array, "B S T T"],
        places: Int[Array, "B S K"],
    ) -> Float[Array, "B S T T"]:
        """Logits of the pixels of each tile; see `tiles.pack` for the arguments.

        A dropped patch gives zeros to the head; its logits are ignored.
        """
        of_tiles = self._tokens(patches, coords_mm, kinds, segment_ids, places=places)
        return self._logits(of_tiles, images)

    def with_positions(
        self,
        patches: Float[Array, "B L P"],
        coords_mm: Float[Array, "B L 3"],
        kinds: Int[Array, "B L"],
        segment_ids: Int[Array, "B L"],
        images: Float[Array, "B S T T"],
        places: Int[Array, "B S K"],
    ) -> tuple[Float[Array, "B S T T"], Float[Array, "B S K 2"]]:
        """The logits, and what each patch's token says of where it lies."""
        of_tiles = self._tokens(patches, coords_mm, kinds, segment_ids, places=places)
        return self._logits(of_tiles, images), self.place(of_tiles).reshape(*places.shape, 2)

    def _tokens(self, patches, coords_mm, kinds, segment_ids, *, places) -> Float[Array, "N K D"]:
        tokens = self.encoder(patches, coords_mm, kinds, segment_ids)["tokens"]
        rows, tiles, cells = places.shape
        # A place of -1 (a dropped patch) is gathered as zeros.
        return gather_tokens(tokens, places.reshape(rows, -1)).reshape(rows * tiles, cells, -1)

    def _logits(self, of_tiles, images) -> Float[Array, "B S T T"]:
        return self.head(of_tiles, images.reshape(-1, *images.shape[2:])).reshape(images.shape)


def segmentation_loss(
    logits: Float[Array, "B S T T"],
    truth: Float[Array, "B S T T"],
    counted: Float[Array, "B S T T"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy, and one minus soft Dice, over the pixels where `counted` is 1.

    Dice is over the whole batch, since most tiles have no calcium.

    Source: the sum of both is the loss of nnU-Net (Isensee et al., Nature Methods 18:203, 2021);
    soft Dice, Milletari et al. (arXiv 1606.04797).
    """
    # -t log s(x) - (1 - t) log(1 - s(x)) = log(1 + exp x) - t x, without overflow.
    entropy = jnp.logaddexp(0.0, logits) - truth * logits
    probability = jax.nn.sigmoid(logits) * counted
    overlap, total = (probability * truth).sum(), (probability + truth * counted).sum()
    # 1 is added above and below: a batch without calcium has a Dice of 1, not 0 / 0.
    return (entropy * counted).sum() / jnp.maximum(counted.sum(), 1.0), 1 - (2 * overlap + 1) / (
        total + 1
    )


def position_loss(
    placed: Float[Array, "B S K 2"], truth: Float[Array, "B S K 2"], places: Int[Array, "B S K"]
) -> Float[Array, ""]:
    """The mean squared error of the distances, over the patches that were not dropped."""
    kept = (places >= 0)[..., None]
    return (kept * (placed - truth) ** 2).sum() / jnp.maximum(2 * kept.sum(), 1)


def make_model(config: Mapping[str, Any]) -> tuple[TileSegmenter, TileShape]:
    """Model, and shape of its rows, from the groups `encoder`, `head` and `tiles` of a config.

    Args:
      config: as Python or JSON.
    Raises:
      UserError: a patch size that the pixel head cannot reach.
    """
    # JSON has no tuples
    encoder = make_encoder(**{**config["encoder"], "patch": tuple(config["encoder"]["patch"])})
    _, height, width = encoder.patch
    # h & (h - 1) is 0 only for powers of two.
    if height != width or height < BLOCK or height & (height - 1):
        raise UserError(
            f"config.encoder.patch is {encoder.patch}, but its height and width must be one power"
            f" of 2, from {BLOCK} on: (1, 8, 8)."
        )
    return TileSegmenter(encoder, **config["head"]), TileShape(
        **config["tiles"], patch=encoder.patch, registers=encoder.registers
    )
