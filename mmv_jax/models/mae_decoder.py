"""The decoder of masked reconstruction: from visible tokens back to the voxels of whole rows.

Axes: B rows, V visible tokens, L tokens of the whole row, P voxels of a patch, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.models.blocks import Blocks
from mmv_jax.models.dense import dense, flat


def place_tokens(
    x: Float[Array, "B V D"], index: Int[Array, "B V"], length: int
) -> tuple[Float[Array, "B {length} D"], Array]:
    """Tokens at the places `index` of longer rows, and a mask [B, length] of the places that are
    filled.

    A token of index -1 is dropped.
    """
    # JAX reads -1 as the last place; an index beyond the end is dropped.
    index = jnp.where(index < 0, length, index)
    put = jax.vmap(
        lambda x, index: jnp.zeros((length, x.shape[-1]), x.dtype).at[index].set(x, mode="drop")
    )
    filled = jax.vmap(lambda index: jnp.zeros(length, bool).at[index].set(True, mode="drop"))
    return put(x, index), filled(index)


class MaeDecoder(nn.Module):
    """A small transformer over whole rows that predicts every patch from the visible tokens.

    Source: He et al., masked autoencoders (arXiv 2111.06377), section 3; here positions are rotary,
      and rows hold many studies.
    """

    width: int
    depth: int
    heads: int
    patch_voxels: int
    layer_scale: float | None = 0.1
    scale_mm: float = 16.0
    attention: str = "auto"
    remat: bool | str = "products"
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
        """Decode rows of visible tokens into predictions for whole rows.

        Args:
          encoded: the encoder's `tokens` of the visible rows.
          visible_index: the place of each visible token in its whole row; -1 for padding.
          coords_mm, kinds, segment_ids: of the whole rows.
        Returns:
          float32 predictions, 0 at padding. Only those at patches have a meaning.
        """
        x = flat(dense(self.width, dtype=self.dtype, name="entry"), encoded).astype(jnp.float32)
        x, visible = place_tokens(x, visible_index, kinds.shape[1])
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
        # The mask token takes the place of each hidden patch; padding (kind 0) stays zero.
        x = jnp.where(
            visible[..., None], x, jnp.where(kinds[..., None] > 0, mask_token[None, None], 0.0)
        )
        shared = {
            name: getattr(self, name) for name in ("layer_scale", "attention", "remat", "dtype")
        }
        blocks = Blocks(self.depth, self.heads, name="blocks", **shared)
        x, _ = blocks(x, coords_mm / self.scale_mm, segment_ids)
        x = flat(nn.LayerNorm(epsilon=1e-6, name="norm"), x)
        x = flat(dense(self.patch_voxels, dtype=self.dtype, name="voxels"), x).astype(jnp.float32)
        return jnp.where(segment_ids[..., None] > 0, x, 0.0)
