"""The interface of a pretraining backbone. A new one is one file and one line in `table.py`.

Axes: B rows, L tokens, P voxels of a patch, D width.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.models.cost import Flops
from mmv_jax.ops.rotary import TABLES

MLPS = ("gelu", "gelu_exact", "swiglu")
LEAST = 12  # channels of a head: for each of z, y and x two waves, each a pair of channels


class Backbone(nn.Module):
    """An encoder of packed rows, with the costs and learning rates that a run asks it for.

    A subclass has the fields `width`, `depth`, `patch` (z, y, x), `registers`, `remat` and `dtype`.
    `remats` are the values of `remat`, from the most memory to the least.
    It is called like `Encoder`: `(patches [B, L, P], coords_mm [B, L, 3], kinds [B, L], segment_ids
    [B, L], *, masked=None, train=False)`. It returns a dict with `tokens` [B, L, D], float32 and
    exactly 0 at padding, and `blocks` [depth, B, L, D]. A token must not see tokens of another
    segment.

    `parameter_count` and `gathered_parameters` work for any module. A subclass must define `make`,
    the FLOPs, the bytes and `layer_rates`. Preflight adds up the FLOPs and bytes; fine-tuning uses
    the rates.
    """

    remats: ClassVar[tuple[bool | str, ...]] = (False, True)

    @classmethod
    def make(cls, size: str, patch: Sequence[int], **options: Any) -> "Backbone":
        """Make the encoder that the config's group `encoder` describes.

        Args:
          size: a size that this backbone knows by name.
          patch: voxels of a patch (z, y, x).
          options: the other keys of the group.
        Raises:
          UserError: the backbone has no such size or option.
        """
        raise NotImplementedError

    @nn.nowrap
    def parameter_count(self) -> int:
        """Number of parameters, counted without allocating them."""
        special = 1 + self.registers  # type: ignore[attr-defined]
        # One study without patches: no parameter's shape depends on the length of a row.
        row = (
            jax.ShapeDtypeStruct((1, special, int(np.prod(self.patch))), np.float32),  # type: ignore[attr-defined]
            jax.ShapeDtypeStruct((1, special, 3), np.float32),
            jax.ShapeDtypeStruct((1, special), np.int32),
            jax.ShapeDtypeStruct((1, special), np.int32),
        )
        made = jax.eval_shape(self.init, jax.random.key(0), *row)["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(made))

    @nn.nowrap
    def forward_flops(self, tokens: int, squares: int | float) -> Flops:
        """FLOPs of a forward pass over `tokens`, padding included: padding is multiplied too.

        Args:
          squares: the sum of n² over the segments, n tokens each, for attention.
        """
        raise NotImplementedError

    @nn.nowrap
    def training_flops(self, tokens: int, squares: int | float) -> Flops:
        """FLOPs of a forward and a backward pass, with the products that remat computes again."""
        raise NotImplementedError

    @nn.nowrap
    def stored_bytes(self, remat: bool | str) -> int:
        """Bytes a token that the forward pass stores for the backward pass."""
        raise NotImplementedError

    @nn.nowrap
    def working_bytes(self, remat: bool | str) -> int:
        """Bytes a token that the backward pass holds while it works on one block."""
        raise NotImplementedError

    @nn.nowrap
    def gathered_parameters(self, params: Any) -> int:
        """The most parameters that a device gathers at a time: those of one block.

        This matters where several devices share a state.

        Args:
          params: the encoder's parameters; their shapes are enough.
        """
        return sum(leaf.size for leaf in jax.tree.leaves(params)) // max(self.depth, 1)  # type: ignore[attr-defined]

    @nn.nowrap
    def layer_rates(self, params: Any, decay: float) -> Any:
        """Factors of the learning rate in fine-tuning, one for each of the encoder's parameters.

        The last layer has 1; each layer below it has `decay` times the rate of the layer above.

        Returns:
          A tree like `params`. A leaf is a number, or an array that is broadcast against its
          parameter.
        """
        raise NotImplementedError


def check_options(known: Sequence[str], options: dict[str, Any]) -> None:
    """Refuse keys of `config.encoder` that a backbone does not know.

    Raises:
      UserError: a key is not among `known`.
    """
    if unknown := options.keys() - set(known):
        raise UserError(
            f"config.encoder.{min(unknown)} does not exist. There are: size, {', '.join(known)}."
        )


def check_heads(group: str, width: int, heads: int) -> None:
    """Refuse heads without room for rotary positions.

    Args:
      group: where the config has the keys, as the beginning of their names: "encoder." or
        "objective.decoder_".
    Raises:
      UserError: the heads do not divide the width, or a head has fewer than `LEAST` channels.
    """
    if heads < 1 or width < 1 or width % heads or width // heads < LEAST:
        # Ascending numbers of heads that leave each enough channels; the last one is advised.
        most = [n for n in range(1, max(width, 0) // LEAST + 1) if width % n == 0]
        advice = f"Set config.{group}heads={most[-1]}" if most else f"Raise config.{group}width"
        raise UserError(
            f"config.{group}heads is {heads}, which does not divide config.{group}width={width}"
            f" into heads of at least {LEAST} channels, as rotary positions in 3D need. {advice}."
        )


def check_positions(fields: dict[str, Any]) -> None:
    """Refuse kinds of positions and of MLPs that there are not.

    Args:
      fields: of `models.encoder.Encoder`, by name; those at their default may be missing.
    Raises:
      UserError: an unknown kind, or a table without cells or for another kind.
    """
    for name, known in (("positions", tuple(TABLES)), ("mlp", MLPS)):
        if fields.get(name, known[0]) not in known:
            raise UserError(
                f"config.encoder.{name} is {fields[name]!r}. Use one of {', '.join(known)}."
            )
    table, positions = fields.get("table"), fields.get("positions", "rotary")
    if (positions == "table") != bool(table) or (table and len(table) != 2):
        raise UserError(
            f"config.encoder.positions is {positions!r} and config.encoder.table is {table!r}. A"
            ' table has (rows, columns), such as (37, 37), and belongs to positions="table" alone.'
        )
    head = fields["width"] // fields["heads"]
    if positions == "axial" and head % 4:
        raise UserError(
            f"config.encoder.heads is {fields['heads']}: heads of {head} channels, but"
            ' positions="axial" needs a multiple of 4.'
        )
