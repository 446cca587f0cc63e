"""The backbone "vit": the sparse vision transformer, its named sizes and its costs in closed form.

It encodes planar and volumetric studies. Axes: B rows, L tokens, P voxels of a patch, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmv_jax.errors import UserError
from mmv_jax.models.backbone import Backbone, check_heads, check_options, check_positions
from mmv_jax.models.blocks import EPSILON, Blocks
from mmv_jax.models.cost import Flops, backward_bytes, block_flops, stack_bytes
from mmv_jax.models.dense import dense, flat, hidden_width
from mmv_jax.models.kinds import CLS, PATCH
from mmv_jax.models.lora import Lora
from mmv_jax.models.remat import LADDER, recomputed_blocks, remat_name
from mmv_jax.ops.parts import Part

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
OF_RUN = ("lora", "frozen", "longest")  # fields that a run sets, and no config
OPTIONS: dict[str, dict] = {"L": DEEP, "H": DEEP, "g": {**DEEP, "mlp": "swiglu"}}


class Embed(nn.Module):
    """Tokens from voxels: one Dense layer for the patches of planar and volumetric studies.

    CLS, registers and masked patches have learned vectors.
    """

    width: int
    registers: int
    dtype: str
    table: tuple[int, int] | None = None

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "B L P"],
        kinds: Int[Array, "B L"],
        masked: Bool[Array, "B L"] | None,
        coords: Float[Array, "B L 3"],
    ) -> Float[Array, "B L D"]:
        x = flat(dense(self.width, dtype=self.dtype, name="patch"), patches).astype(jnp.float32)
        # CLS, registers, mask
        learned = self.param(
            "learned", nn.initializers.normal(0.02), (self.registers + 2, self.width)
        )
        # CLS has vector 0, register r has vector r + 1; the last vector is the mask token.
        shown, index = kinds == PATCH, kinds - CLS
        if masked is not None:
            index = jnp.where(shown & masked, self.registers + 1, index)
            shown &= ~masked
        # A product with 0-1 rows, not a look-up: its gradient is a product too. Tokens without a
        # learned vector (padding, patches) get zeros.
        chosen = jax.nn.one_hot(index, self.registers + 2)
        x = jnp.where(shown[..., None], x, jnp.einsum("blr,rd->bld", chosen, learned))
        if self.table is None:
            return x
        rows, columns = self.table
        positions = self.param(
            "positions", nn.initializers.normal(0.02), (rows * columns, self.width)
        )
        # Masked patches have a position too; CLS and registers have none.
        placed = sample_table(positions, self.table, coords)
        return x + jnp.where((kinds == PATCH)[..., None], placed, 0.0)


def sample_table(
    positions: Float[Array, "T D"], grid: tuple[int, int], coords: Float[Array, "B L 3"]
) -> Float[Array, "B L D"]:
    """Vectors of a table of positions, linear between its cells.

    Args:
      positions: one vector a cell of `grid` (rows, columns), row by row.
      coords: positions (z, y, x) in the crop, from -1 to 1; z is not read.

    Example:
      >>> table = jnp.array([[0.0], [1.0], [2.0], [3.0]])
      >>> sample_table(table, (2, 2), jnp.array([[[0.0, -0.5, 0.0]]])).item()
      0.5
    """
    columns = grid[1]
    found = jnp.zeros((), positions.dtype)
    below, shares = [], []
    for axis, cells in enumerate(grid, start=1):
        # The centre of cell i of n lies at (2 i + 1) / n - 1. Beyond the outer ones their value
        # goes on.
        place = jnp.clip((coords[..., axis] + 1) / 2 * cells - 0.5, 0, cells - 1)
        low = jnp.clip(jnp.floor(place), 0, max(cells - 2, 0)).astype(jnp.int32)
        below.append(low)
        shares.append(place - low)
    for y in (0, 1):
        for x in (0, 1):
            weight = jnp.abs(1 - y - shares[0]) * jnp.abs(1 - x - shares[1])
            # A table of one row has no neighbour; its weight is 0, so any place serves.
            cell = (below[0] + y) * columns + jnp.minimum(below[1] + x, columns - 1)
            cell = jnp.minimum(cell, len(positions) - 1)
            found = found + weight[..., None] * positions[cell]
    return found


class Encoder(Backbone):
    """The sparse ViT: one patch kernel for planar and volumetric studies, and attention within
    segments.

    Positions are in mm.

    A planar study is one slice repeated through the patch's depth, so no part of the encoder knows
    how many dimensions a study has.

    Fields:
      width, depth, heads: `SIZES` has the usual ones.
      patch: voxels of a patch (z, y, x).
      registers: tokens a segment beside CLS that belong to no patch (arXiv 2309.16588).
      mlp: "gelu" (its approximation by a hyperbolic tangent), "gelu_exact" or "swiglu".
      mlp_hidden: channels inside the MLP; None: 4 D, or 8/3 D for "swiglu".
      layer_scale: initial factor of each branch, one a channel; None for no scaling. 0.1 is CaiT's
        value up to 18 blocks (arXiv 2103.17239). The usual 1e-5 suits deep encoders and long runs;
        in a run of minutes it would leave the encoder close to the identity.
      attention_bias: whether queries, keys and values have a bias.
      qk_norm: normalises queries and keys, for stability in bfloat16.
      drop_path: the share of segments that skip the last block in training, below 1. The share
        falls linearly to 0 at the first block.
      scale_mm: the shortest rotary wavelength. 16 mm is two patches of a fine CT crop; `rope_base`
        times that, 1.6 m, spans a body. With grid coordinates the unit is a voxel of the crop, and
        twice the patch's side is the natural value: 32 for a patch of 16 voxels.
      rope_base: the longest rotary wavelength divided by the shortest.
      attention: the backend of `ops.attention.segment_attention`.
      longest: an upper bound of the segments' lengths, if one is known (`ops.attention`).
      remat: what the forward pass stores of a block for the backward pass: "products", the results
        of matrix products; "full", its input alone, so that the backward pass computes the block
        again; "every_K" (every_2, every_3, ...), the first of every K blocks as "full" and the
        others as "products"; "none", everything. The numbers are the same. True is "full", False
        "products".
      dtype: of the matrix products, "float32" or "bfloat16". Parameters, norms, softmax and the
        residual sum are float32.
      epsilon: of layer norms.
      positions: "rotary" in three dimensions; or as public encoders have them, for which
        `data.coordinates` must be "unit": "table", learned vectors for y and x, or "axial", the
        rotation of DINOv3.
      table: the cells (rows, columns) of the table of positions.
      lora: adapters beside the kernels of blocks.
      frozen: in training, of the embedding and so many blocks after it no gradient is computed.
    """

    width: int
    depth: int
    heads: int
    patch: tuple[int, int, int]
    registers: int = 4
    mlp: str = "gelu"
    mlp_hidden: int | None = None
    layer_scale: float | None = 0.1
    attention_bias: bool = True
    qk_norm: bool = False
    drop_path: float = 0.0
    scale_mm: float = 16.0
    rope_base: float = 100.0
    attention: str = "auto"
    longest: int | None = None
    remat: bool | str = "products"
    dtype: str = "float32"
    epsilon: float = EPSILON
    positions: str = "rotary"
    table: tuple[int, int] | None = None
    lora: Lora | None = None
    frozen: int = 0
    remats: ClassVar[tuple[bool | str, ...]] = LADDER

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
        part: Part | None = None,
    ) -> dict[str, Array]:
        """Encode packed rows.

        Args:
          patches: voxels; ignored where the token is not a patch.
          kinds: 0 padding, 1 CLS, 2 + r register r, 100 patch.
          segment_ids: 0 padding, else one positive id a segment, at most L.
          masked: patches that the encoder replaces by the mask token.
          train: draws stochastic depth from the rng "dropout" if `drop_path` is above 0.
          part: which part of a step these rows are; None: all of them (`ops.parts`).
        Returns:
          `tokens` [B, L, D] after the last norm, float32, exactly 0 at padding; `embedded` [B, L,
          D] before the first block; `blocks` [depth, B, L, D] after each block. Inside jit, an
          unread array takes no memory.
        Raises:
          ValueError: the number of voxels of a patch is not that of `patch`.
        """
        if patches.shape[-1] != math.prod(self.patch):
            raise ValueError(
                f"Patches have {patches.shape[-1]} voxels, but the encoder's patch is {self.patch}."
            )
        out = {}
        embed = Embed(self.width, self.registers, self.dtype, self.table, name="embed")
        x = embed(patches, kinds, masked, coords_mm)
        x = out["embedded"] = nn.with_logical_constraint(x, ("rows", "tokens", "width"))
        shared = (
            "mlp",
            "mlp_hidden",
            "layer_scale",
            "attention_bias",
            "qk_norm",
            "drop_path",
            "rope_base",
            "attention",
            "longest",
            "remat",
            "dtype",
            "epsilon",
            "positions",
            "lora",
            "frozen",
        )
        blocks = Blocks(
            self.depth, self.heads, name="blocks", **{name: getattr(self, name) for name in shared}
        )
        # Coordinates in units of the shortest wavelength, where the rotary tables begin. The waves
        # of DINOv3 are in units of the crop.
        coords = coords_mm / (1.0 if self.positions == "axial" else self.scale_mm)
        x, out["blocks"] = blocks(x, coords, segment_ids, train=train, part=part)
        x = flat(nn.LayerNorm(epsilon=self.epsilon, name="norm"), x)
        out["tokens"] = jnp.where(segment_ids[..., None] > 0, x, 0.0)
        return out

    @classmethod
    def make(cls, size: str, patch: Sequence[int], **options: Any) -> "Encoder":
        """Make an encoder of a size in `SIZES`; `options` are fields of this class.

        Raises:
          UserError: the size, an option, the patch or the number of heads does not fit.
        """
        if size not in SIZES:
            raise UserError(
                f"config.encoder.size is {size!r}, which is not a known size. Use one of"
                f" {', '.join(SIZES)}."
            )
        names = {field.name for field in fields(cls)} - {"parent", "name", *OF_RUN}
        check_options(sorted(names), options)
        if len(patch) != 3:
            raise UserError(
                f"config.encoder.patch is {tuple(patch)}, but has three sides: (z, y, x) voxels."
                " Give all three; a planar study is repeated along z."
            )
        named = dict(zip(("width", "depth", "heads"), SIZES[size])) | OPTIONS.get(size, {})
        chosen = named | options
        check_heads("encoder.", chosen["width"], chosen["heads"])
        remat_name(chosen.get("remat", cls.remat))
        check_positions(chosen)
        if chosen.get("table"):
            rows, columns = chosen["table"]
            chosen["table"] = (rows, columns)  # JSON has no tuples, and fields must be hashable
        z, y, x = patch
        return cls(**chosen, patch=(z, y, x))

    @nn.nowrap
    def parameter_count(self) -> int:
        width, hidden = self.width, self._hidden()
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
        embed += math.prod(self.table) * width if self.table else 0
        scales += self._adapters()
        return embed + self.depth * (attention + mlp + scales + 4 * width) + 2 * width

    @nn.nowrap
    def forward_flops(self, tokens: int, squares: int | float) -> Flops:
        """FLOPs of a forward pass.

        Attention's scores and weighted sums are 4 D n² a block for a segment of n tokens.
        """
        a_block = block_flops(self.width, self.mlp, self.mlp_hidden) + 2 * self._adapters()
        return Flops(
            forward=tokens * (self._entry_flops() + self.depth * a_block),
            attention=round(4 * self.depth * self.width * squares),
        )

    @nn.nowrap
    def training_flops(self, tokens: int, squares: int | float) -> Flops:
        entry = self._entry_flops()
        a_block = block_flops(self.width, self.mlp, self.mlp_hidden)
        # Without a scale that learns the MLP's last product is not needed for any gradient.
        unread = 2 * self.width * self._hidden()
        again = a_block - (unread if self.layer_scale is None or self.lora else 0)
        learning = self.depth - self.frozen
        recomputed = recomputed_blocks(self.remat, learning)
        # Two products backward for one forward; one where the kernel does not learn. Voxels need no
        # gradient, so the entry has none but that of its kernel.
        own = 2 * self._adapters()
        backward = learning * ((1 if self.lora else 2) * a_block + 2 * own)
        return Flops(
            forward=tokens * (entry + self.depth * (a_block + own)),
            backward=tokens * (backward + (0 if self.lora or self.frozen else entry)),
            again=tokens * recomputed * (again + own),
            # 4 D n² forward and twice that backward.
            attention=round(4 * (self.depth + 2 * learning) * self.width * squares),
            attention_again=round(4 * recomputed * self.width * squares),
        )

    @nn.nowrap
    def _adapters(self) -> int:
        """Parameters of a block's adapters."""
        hidden, gates = self._hidden(), 2 if self.mlp == "swiglu" else 1
        return self.lora.parameters(self.width, hidden, gates) if self.lora else 0

    @nn.nowrap
    def _hidden(self) -> int:
        return hidden_width(self.width, self.mlp, self.mlp_hidden)

    @nn.nowrap
    def _entry_flops(self) -> int:
        return 2 * (math.prod(self.patch) + self.registers + 2) * self.width

    @nn.nowrap
    def stored_bytes(self, remat: bool | str) -> int:
        return stack_bytes(self, self.mlp, depth=self.depth - self.frozen, remat=remat)

    @nn.nowrap
    def working_bytes(self, remat: bool | str) -> int:
        return backward_bytes(self, self.mlp, remat)

    @nn.nowrap
    def gathered_parameters(self, params: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(params["blocks"])) // self.depth

    @nn.nowrap
    def layer_rates(self, params: Any, decay: float) -> Any:
        """Factors of the learning rate, one a layer, from the embedding to the last norm.

        Block b of `depth` has `decay ** (depth - b)`; blocks are stacked, so one leaf holds a
        factor for each. The embedding has `decay ** (depth + 1)`, the last norm 1.

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
