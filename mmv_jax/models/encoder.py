"""The backbone "vit": the sparse vision transformer for planar and volumetric studies, its named
sizes, and what it costs in closed form.

Axes: B rows, L tokens, P voxels of a patch, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmv_jax.errors import UserError
from mmv_jax.models.backbone import Backbone, check_heads, check_options
from mmv_jax.models.blocks import KERNEL_INIT, Blocks, flat, hidden_width
from mmv_jax.models.cost import Flops, backward_bytes, block_bytes, block_flops
from mmv_jax.models.kinds import CLS, PATCH

SIZES = {  # width, depth, heads; `nano` is for tests, `mini` for laptops
    "nano": (64, 2, 2),
    "mini": (192, 6, 6),
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
    "g": (1536, 40, 24),
}
# Deep encoders start nearer to the identity (arXiv 2103.17239, section 3.1); the largest is gated,
# as in arXiv 2304.07193, table 17.
DEEP = {"layer_scale": 1e-5}
OPTIONS: dict[str, dict] = {"L": DEEP, "H": DEEP, "g": {**DEEP, "mlp": "swiglu"}}


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
        # CLS has vector 0, register r has r + 1; the last vector is the mask token.
        shown, index = kinds == PATCH, kinds - CLS
        if masked is not None:
            index = jnp.where(shown & masked, self.registers + 1, index)
            shown &= ~masked
        # A product with 0-1 rows, not a look-up: its gradient is a product too, and what has no
        # learned vector (padding, patches) gets zeros.
        chosen = jax.nn.one_hot(index, self.registers + 2)
        return jnp.where(shown[..., None], x, jnp.einsum("blr,rd->bld", chosen, learned))


class Encoder(Backbone):
    """The sparse ViT: one patch kernel for planar and volumetric studies, attention within
    segments, positions in mm.

    A planar study is one slice repeated through the patch's depth, so that no part of the encoder
    knows how many dimensions a study has.

    Fields:
      width, depth, heads: `SIZES` has the usual ones.
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
        # In units of the shortest wavelength, which the rotary tables begin with.
        x, out["blocks"] = blocks(x, coords_mm / self.scale_mm, segment_ids, train=train)
        x = flat(nn.LayerNorm(epsilon=1e-6, name="norm"), x)
        out["tokens"] = jnp.where(segment_ids[..., None] > 0, x, 0.0)
        return out

    @classmethod
    def make(cls, size: str, patch: Sequence[int], **options: Any) -> "Encoder":
        """An encoder of a size in `SIZES`; `options` are fields of this class."""
        if size not in SIZES:
            raise UserError(
                f"config.encoder.size is {size!r}, which is not a known size. Use one of"
                f" {', '.join(SIZES)}."
            )
        names = (field.name for field in fields(cls) if field.name not in ("parent", "name"))
        check_options(sorted(names), options)
        if len(patch) != 3:
            raise UserError(
                f"config.encoder.patch is {tuple(patch)}, but has three sides: (z, y, x) voxels. A"
                " slice is repeated along z."
            )
        named = dict(zip(("width", "depth", "heads"), SIZES[size])) | OPTIONS.get(size, {})
        chosen = named | options
        check_heads("encoder.", chosen["width"], chosen["heads"])
        z, y, x = patch
        return cls(**chosen, patch=(z, y, x))

    @nn.nowrap
    def parameter_count(self) -> int:
        width, hidden = self.width, hidden_width(self.width, self.mlp)
        gates = 2 if self.mlp == "swiglu" else 1
        # Queries, keys and values with their biases; the way out; the scales of queries and keys.
        attention = (
            width * 3 * width
            + 3 * width * self.attention_bias
            + width * width
            + width
            + 2 * width // self.heads * self.qk_norm
        )
        mlp = width * hidden * gates + hidden * gates + hidden * width + width
        scales = 0 if self.layer_scale is None else 2 * width
        embed = math.prod(self.patch) * width + width + (self.registers + 2) * width
        # Two layer norms a block, of a scale and a bias each, and one after the last block.
        return embed + self.depth * (attention + mlp + scales + 4 * width) + 2 * width

    @nn.nowrap
    def forward_flops(self, tokens: int, squares: int | float) -> Flops:
        """Attention: scores and weighted sums, 4 D n² for a segment of n tokens in each block."""
        a_token = self._entry_flops() + self.depth * block_flops(self.width, self.mlp)
        return Flops(
            forward=tokens * a_token, attention=round(4 * self.depth * self.width * squares)
        )

    @nn.nowrap
    def training_flops(self, tokens: int, squares: int | float) -> Flops:
        entry, blocks = self._entry_flops(), self.depth * block_flops(self.width, self.mlp)
        # Without a scale the MLP's last product is not needed for any gradient.
        unread = 2 * self.depth * self.width * hidden_width(self.width, self.mlp)
        again = blocks - (0 if self.layer_scale is not None else unread)
        # Nobody asks for the gradient of voxels: the entry has one product backward, all others
        # two.
        return Flops(
            forward=tokens * (entry + blocks),
            backward=tokens * (entry + 2 * blocks),
            again=tokens * again if self.remat else 0,
            # 4 D n² forward and twice that backward.
            attention=round(12 * self.depth * self.width * squares),
        )

    @nn.nowrap
    def _entry_flops(self) -> int:
        return 2 * (math.prod(self.patch) + self.registers + 2) * self.width

    @nn.nowrap
    def stored_bytes(self, remat: bool) -> int:
        return self.depth * block_bytes(self, self.mlp, remat)

    @nn.nowrap
    def working_bytes(self, remat: bool) -> int:
        return backward_bytes(self, self.mlp, remat)

    @nn.nowrap
    def gathered_parameters(self, params: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(params["blocks"])) // self.depth

    @nn.nowrap
    def layer_rates(self, params: Any, decay: float) -> Any:
        """Blocks are stacked, so that a leaf of them has one rate a layer, `decay ** (depth - b)`
        for block b of `depth`; what embeds tokens has `decay ** (depth + 1)`, the last norm 1.

        Source: Bao et al., BEiT (arXiv 2106.08254), appendix; Clark et al., ELECTRA (arXiv
          2003.10555), appendix A.3.
        """

        def rate(path: tuple, leaf: Any) -> Any:
            if path[0].key == "embed":
                return decay ** (self.depth + 1)
            if path[0].key == "blocks":
                rates = decay ** np.arange(self.depth, 0, -1, dtype=np.float32)
                # Axis 0 of a stacked leaf is the layer; the others are broadcast.
                return jnp.asarray(rates.reshape(-1, *(1,) * (np.ndim(leaf) - 1)))
            return 1.0

        return jax.tree_util.tree_map_with_path(rate, params)
