"""Which parameters of a run learn; the others keep their bits and have no moments."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mmv_jax.errors import UserError
from mmv_jax.models.encoder import Encoder
from mmv_jax.models.lora import Lora, is_adapter

ALL = -1  # every entry of a parameter's first axis


@dataclass(frozen=True)
class Learning:
    """The part of a student that learns. Heads and decoders always do.

    Attributes:
      last_blocks: only so many blocks at the end of the encoder, its last norm and the heads learn.
        None: all blocks do, or with adapters (`config.lora`) none.
      encoder: the backbone, which knows its layers.
      held: modules of which nothing learns.
    """

    last_blocks: int | None = None
    encoder: nn.Module | None = None
    held: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether every parameter learns."""
        lora = getattr(self.encoder, "lora", None)
        return self.last_blocks is None and lora is None and not self.held

    def cut(self, params: Mapping[str, Any]) -> Any:
        """The parts of parameters that learn.

        Blocks are stacked: of a parameter of some of them the last entries are left.

        Args:
          params: by module, as nested dicts: a student, a teacher, or a part of one.
        """
        if self.is_whole:
            return params
        entries = self._entries(params)
        return unflatten_dict(
            {
                path: leaf if entries[path] == ALL else leaf[len(leaf) - entries[path] :]
                for path, leaf in flatten_dict(params).items()
                if entries[path]
            }
        )

    def put(self, own: Any, params: Mapping[str, Any]) -> Any:
        """`params` with the learning parts `own` in their places."""
        if self.is_whole:
            return own
        entries, found = self._entries(params), flatten_dict(own)

        def joined(path: tuple, leaf: Any) -> Any:
            if entries[path] in (0, ALL):
                return found.get(path, leaf)
            return jnp.concatenate([leaf[: len(leaf) - entries[path]], found[path]])

        return unflatten_dict({path: joined(path, x) for path, x in flatten_dict(params).items()})

    def shapes(self, params: Mapping[str, Any]) -> Any:
        """Shapes of `cut`, of arrays or of their shapes."""
        return params if self.is_whole else jax.eval_shape(self.cut, params)

    def _entries(self, params: Mapping[str, Any]) -> dict[tuple[str, ...], int]:
        """How many of the last entries along axis 0 learn, by path: ALL, or 0 for none."""
        found = {path: 0 if path[0] in self.held else ALL for path in flatten_dict(params)}
        adapters = getattr(self.encoder, "lora", None) is not None
        if "encoder" not in params or (self.last_blocks is None and not adapters):
            return found
        own = dict.fromkeys(flatten_dict(params["encoder"]), 0)
        if self.last_blocks is not None:
            assert self.encoder is not None
            # With a decay of 1/2 a layer's rate tells how many layers lie above it. The rates are
            # numbers, also while a step is traced.
            with jax.ensure_compile_time_eval():
                rates = self.encoder.layer_rates(params["encoder"], 0.5)
                own = jax.tree.map(partial(_learning, least=0.5**self.last_blocks), rates)
                own = flatten_dict(own)
        for path, entries in own.items():
            found["encoder", *path] = ALL if adapters and is_adapter(path) else entries
        return found


def _learning(rate: Any, least: float) -> int:
    rate = np.asarray(rate)
    if rate.ndim == 0:
        return ALL if rate >= least else 0
    learns = rate.reshape(len(rate), -1)[:, 0] >= least
    return ALL if learns.all() else int(learns.sum())


def with_learning(
    encoder: nn.Module, lora: Mapping[str, Any], last_blocks: int | None
) -> tuple[nn.Module, Learning]:
    """The encoder with its adapters, and which parameters of a run learn.

    Args:
      lora: the config's group; empty for no adapters.
      last_blocks: `config.optimizer.last_blocks`.
    Raises:
      UserError: a value is out of its range, or the backbone has no adapters.
    """
    whole = isinstance(last_blocks, int) and not isinstance(last_blocks, bool)
    if last_blocks is not None and not (whole and 0 <= last_blocks <= encoder.depth):  # type: ignore[attr-defined]
        raise UserError(
            f"config.optimizer.last_blocks is {last_blocks!r}, but the encoder has"
            f" {encoder.depth} blocks."  # type: ignore[attr-defined]
        )
    if lora and not isinstance(encoder, Encoder):
        raise UserError(
            "config.lora: only the backbone 'vit' has adapters. Leave the group out, or set"
            " config.optimizer.last_blocks instead."
        )
    if lora:
        encoder = encoder.clone(lora=Lora(**lora))
    elif last_blocks is not None and isinstance(encoder, Encoder):
        # No gradient flows below the blocks that learn. Adapters below would need one.
        encoder = encoder.clone(frozen=encoder.depth - last_blocks)
    return encoder, Learning(last_blocks, encoder)
