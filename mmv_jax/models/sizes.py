"""The encoder of a config, and its cost, for any backbone."""

from collections.abc import Sequence

from mmv_jax.models.backbone import Backbone
from mmv_jax.models.table import BACKBONES


def make_encoder(size: str, patch: Sequence[int], backbone: str = "vit", **options) -> Backbone:
    """Make an encoder of a named size; the arguments are the keys of `config.encoder`.

    Args:
      patch: voxels (z, y, x) of a patch.
      backbone: a name in `table.BACKBONES`. Older configs have no such key.
      options: of the backbone; for "vit" the fields of `Encoder`.
    Raises:
      UserError: there is no such backbone, or it has no such size or option.

    Example:
      >>> make_encoder("S", (8, 16, 16), registers=2).width
      384
    """
    return BACKBONES[backbone].make(size, patch, **options)


def parameter_count(encoder: Backbone) -> int:
    """Number of parameters of an encoder, counted without allocating them."""
    return encoder.parameter_count()


def flops_per_token(encoder: Backbone) -> int:
    """Forward FLOPs a token of the matrix products outside attention, two a multiply-add.

    They do not depend on the length of the token's segment.
    """
    return encoder.forward_flops(1, 0).forward


def encoder_flops(encoder: Backbone, tokens: int, segment_lengths: Sequence[int]) -> int:
    """FLOPs of a forward pass over `tokens`, padding included; a backward pass costs twice that.

    Args:
      segment_lengths: tokens of each segment among them.
    """
    return encoder.forward_flops(tokens, sum(n * n for n in segment_lengths)).model
