"""Makes the encoder of a config, and says what it costs, whatever its backbone."""

from collections.abc import Sequence

from mmv_jax.models.backbone import Backbone
from mmv_jax.models.table import BACKBONES


def make_encoder(size: str, patch: Sequence[int], backbone: str = "vit", **options) -> Backbone:
    """An encoder of a named size: the keys of `config.encoder` are the arguments.

    Args:
      patch: voxels (z, y, x) of a patch.
      backbone: a name in `table.BACKBONES`; configs from before there was a choice have no such
        key.
      options: of the backbone; fields of `Encoder` for "vit".
    Raises:
      UserError: there is no such backbone, or it has no such size or option.

    Example:
      >>> make_encoder("S", (8, 16, 16), registers=2).width
      384
    """
    return BACKBONES[backbone].make(size, patch, **options)


def parameter_count(encoder: Backbone) -> int:
    """Parameters of an encoder, without making them."""
    return encoder.parameter_count()


def flops_per_token(encoder: Backbone) -> int:
    """FLOPs of a forward pass that a token costs whatever its segment: the matrix products outside
    attention, two FLOPs a multiply-add.
    """
    return encoder.forward_flops(1, 0).forward


def encoder_flops(encoder: Backbone, tokens: int, segment_lengths: Sequence[int]) -> int:
    """FLOPs of a forward pass over `tokens` (padding included: it is multiplied too) that hold
    segments of these lengths; backward costs twice that.
    """
    return encoder.forward_flops(tokens, sum(n * n for n in segment_lengths)).model
