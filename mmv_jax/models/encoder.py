"""The sparse vision transformer for planar and volumetric studies. Axes: B rows, L tokens, P voxels
of a patch, D width.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmv_jax.models.blocks import KERNEL_INIT, Blocks, flat
from mmv_jax.models.kinds import CLS, PATCH


class Embed(nn.Module):
    """Tokens from voxels: one Dense for patches of planar and volumetric studies; learned vectors
    for CLS, registers and masked patches.
    """

    width: int
    registers: int
    dtype: str

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "B L P"],
        kinds: Int[Array, "B L"],
        masked: Bool[Array, "B L"] | None,
    ) -> Float[Array, "B L D"]:
        x = flat(
            nn.Dense(self.width, kernel_init=KERNEL_INIT, dtype=self.dtype, name="patch"), patches
        ).astype(jnp.float32)
        # CLS, registers, mask
        learned = self.param(
            "learned", nn.initializers.normal(0.02), (self.registers + 2, self.width)
        )
        shown, index = kinds == PATCH, kinds - CLS
        if masked is not None:
            index = jnp.where(shown & masked, self.registers + 1, index)
            shown &= ~masked
        # A product with 0-1 rows, not a look-up: its gradient is a product too, and what has no
        # learned vector (padding, patches) gets zeros.
        chosen = jax.nn.one_hot(index, self.registers + 2)
        return jnp.where(shown[..., None], x, jnp.einsum("blr,rd->bld", chosen, learned))


class Encoder(nn.Module):
    """The sparse ViT: one patch kernel for planar and volumetric studies, attention within
    segments, positions in mm.

    A planar study is one slice repeated through the patch's depth, so that no part of the encoder
    knows how many dimensions a study has.

    Fields:
      width, depth, heads: `sizes.make_encoder` knows the usual ones.
      patch: voxels of a patch (z, y, x).
      registers: tokens a segment beside CLS that belong to no patch (arXiv 2309.16588).
      mlp: "gelu" or "swiglu".
      layer_scale: what each branch is multiplied by at first, a channel at a time; None for no
        scaling. 0.1 is CaiT's value up to 18 blocks (arXiv 2103.17239): the usual 1e-5 belongs to
        deep encoders and long runs, and would leave a run of minutes close to the identity.
      attention_bias: whether queries, keys and values have one.
      qk_norm: normalises queries and keys, for stability in bfloat16.
      drop_path: the share of segments that skip the last block in training; earlier blocks
        proportionally less. Below 1.
      scale_mm: the shortest rotary wavelength. 16 mm is two patches of a fine CT crop; `rope_base`
        times as much, 1.6 m, spans a body. (In grid coordinates the unit is a voxel of the crop,
        and twice the patch's side is the natural value: 32 for 16 voxels.)
      rope_base: the longest rotary wavelength, in the shortest.
      attention: the backend of `ops.attention.segment_attention`.
      remat: stores only the input of each block for the backward pass, and computes the block
        again; otherwise the matrix products are stored too.
      dtype: of the matrix products, "float32" or "bfloat16"; parameters, norms, softmax and the
        residual sum are float32.
    """

    width: int
    depth: int
    heads: int
    patch: tuple[int, int, int]
    registers: int = 4
    mlp: str = "gelu"
    layer_scale: float | None = 0.1
    attention_bias: bool = True
    qk_norm: bool = False
    drop_path: float = 0.0
    scale_mm: float = 16.0
    rope_base: float = 100.0
    attention: str = "auto"
    remat: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "B L P"],
        coords_mm: Float[Array, "B L 3"],
        kinds: Int[Array, "B L"],
        segment_ids: Int[Array, "B L"],
        *,
        masked: Bool[Array, "B L"] | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        """Encodes packed rows.

        Args:
          patches: voxels; ignored where the token is not a patch.
          kinds: 0 padding, 1 CLS, 2 + r register r, 100 patch.
          segment_ids: 0 padding, else one positive id a segment, at most L.
          masked: patches that the encoder sees as a mask token in their place.
          train: draws stochastic depth from the rng "dropout", where `drop_path` asks for it.
        Returns:
          `tokens` [B, L, D] after the last norm, float32, exactly 0 at padding; `embedded` [B, L,
          D] before the first block; `blocks` [depth, B, L, D] after each. Inside jit, what is not
          read is not kept.
        Raises:
          ValueError: the patches have not as many voxels as `patch` says.
        """
        if patches.shape[-1] != math.prod(self.patch):
            raise ValueError(
                f"Patches have {patches.shape[-1]} voxels, but the encoder's patch is {self.patch}."
            )
        out = {}
        x = Embed(self.width, self.registers, self.dtype, name="embed")(patches, kinds, masked)
        x = out["embedded"] = nn.with_logical_constraint(x, ("rows", "tokens", "width"))
        shared = (
            "mlp",
            "layer_scale",
            "attention_bias",
            "qk_norm",
            "drop_path",
            "rope_base",
            "attention",
            "remat",
            "dtype",
        )
        blocks = Blocks(
            self.depth, self.heads, name="blocks", **{name: getattr(self, name) for name in shared}
        )
        x, out["blocks"] = blocks(x, coords_mm / self.scale_mm, segment_ids, train=train)
        x = flat(nn.LayerNorm(epsilon=1e-6, name="norm"), x)
        out["tokens"] = jnp.where(segment_ids[..., None] > 0, x, 0.0)
        return out
