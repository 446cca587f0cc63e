"""The interface of a pretraining backbone. A new one is one file and one line in `table.py`.

Axes: B rows, L tokens, P voxels of a patch, D width.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.models.cost import Flops

LEAST = 12  # channels of a head: two waves of two channels for each of z, y and x


class Backbone(nn.Module):
    """An encoder of packed rows, with what a run must know of it.

    A subclass has the fields `width`, `depth`, `patch` (z, y, x), `registers`, `remat` and `dtype`,
    and is called as `Encoder` is: `(patches [B, L, P], coords_mm [B, L, 3], kinds [B, L],
    segment_ids [B, L], *, masked=None, train=False)`. It returns a dict with `tokens` [B, L, D],
    float32 and exactly 0 at padding, and `blocks` [depth, B, L, D]. Tokens of one segment must not
    see those of another.

    The methods here are those of any module; a backbone overrides the FLOPs and the bytes, which
    preflight adds up, and the rates, which fine-tuning asks for.
    """

    @classmethod
    def make(cls, size: str, patch: Sequence[int], **options: Any) -> "Backbone":
        """The encoder of a config's group `encoder`: `size` is a name that the backbone knows, the
        other keys are `options`.

        Raises:
          UserError: a size or an option that it does not have.
        """
        raise NotImplementedError

    @nn.nowrap
    def parameter_count(self) -> int:
        """Parameters, without making them."""
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
        """Of a forward pass over `tokens`, padding included: it is multiplied too.

        Args:
          squares: the sum of n² over the segments, n tokens each, for attention.
        """
        raise NotImplementedError

    @nn.nowrap
    def training_flops(self, tokens: int, squares: int | float) -> Flops:
        """Of a forward and a backward pass, with what is computed again."""
        raise NotImplementedError

    @nn.nowrap
    def stored_bytes(self, remat: bool) -> int:
        """Bytes a token that the forward pass leaves for the backward pass."""
        raise NotImplementedError

    @nn.nowrap
    def working_bytes(self, remat: bool) -> int:
        """Bytes a token that the backward pass holds while it works on one block."""
        raise NotImplementedError

    @nn.nowrap
    def gathered_parameters(self, params: Any) -> int:
        """The most parameters that a device has whole at a time, where several share a state: those
        of one block. `params` are the encoder's; shapes will do.
        """
        return sum(leaf.size for leaf in jax.tree.leaves(params)) // max(self.depth, 1)  # type: ignore[attr-defined]

    @nn.nowrap
    def layer_rates(self, params: Any, decay: float) -> Any:
        """What the learning rate of each of the encoder's parameters is multiplied by in
        fine-tuning: 1 for the last layer, and once more `decay` a layer below. A tree like
        `params`; a leaf is a number, or an array that its parameter is multiplied by.
        """
        raise NotImplementedError


def check_options(known: Sequence[str], options: dict[str, Any]) -> None:
    """Refuses keys of `config.encoder` that a backbone does not know.

    Raises:
      UserError: there is one.
    """
    if unknown := options.keys() - set(known):
        raise UserError(
            f"config.encoder.{min(unknown)} does not exist. There are: size, {', '.join(known)}."
        )


def check_heads(group: str, width: int, heads: int) -> None:
    """Refuses heads without room for rotary positions.

    Args:
      group: of the config, with what its keys begin with: "encoder." or "objective.decoder_".
    Raises:
      UserError: the width is no multiple of the heads, or a head has fewer than `LEAST` channels.
    """
    if heads < 1 or width < 1 or width % heads or width // heads < LEAST:
        # Ascending numbers of heads that leave each enough channels; the last one is advised.
        most = [n for n in range(1, max(width, 0) // LEAST + 1) if width % n == 0]
        advice = f"Set config.{group}heads={most[-1]}" if most else f"Raise config.{group}width"
        raise UserError(
            f"config.{group}heads is {heads}, which does not divide config.{group}width={width}"
            f" into heads of at least {LEAST} channels, as rotary positions in 3D need. {advice}."
        )
