"""Named sizes of the encoder, and what they cost: parameters and FLOPs in closed form."""

import math
from collections.abc import Sequence
from dataclasses import fields

from mmv_jax.errors import UserError
from mmv_jax.models.blocks import hidden_width
from mmv_jax.models.encoder import Encoder

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


def make_encoder(size: str, patch: Sequence[int], **options) -> Encoder:
    """An encoder of a named size; `options` are fields of `Encoder`.

    Example:
      >>> make_encoder("S", (8, 16, 16), registers=2).width
      384
    """
    if size not in SIZES:
        raise UserError(
            f"config.encoder.size is {size!r}, which is not a known size. Use one of"
            f" {', '.join(SIZES)}."
        )
    known = sorted(field.name for field in fields(Encoder) if field.name not in ("parent", "name"))
    if unknown := options.keys() - set(known):
        raise UserError(
            f"config.encoder.{min(unknown)} does not exist. There are: size, {', '.join(known)}."
        )
    if len(patch) != 3:
        raise UserError(
            f"config.encoder.patch is {tuple(patch)}, but has three sides: (z, y, x) voxels. A"
            " slice is repeated along z."
        )
    named = dict(zip(("width", "depth", "heads"), SIZES[size])) | OPTIONS.get(size, {})
    z, y, x = patch
    return Encoder(**named | options, patch=(z, y, x))


def parameter_count(encoder: Encoder) -> int:
    """Parameters of an encoder, without making them."""
    width, hidden, gates = (
        encoder.width,
        hidden_width(encoder.width, encoder.mlp),
        2 if encoder.mlp == "swiglu" else 1,
    )
    attention = (
        width * 3 * width
        + 3 * width * encoder.attention_bias
        + width * width
        + width
        + 2 * width // encoder.heads * encoder.qk_norm
    )
    mlp = width * hidden * gates + hidden * gates + hidden * width + width
    scales = 0 if encoder.layer_scale is None else 2 * width
    embed = math.prod(encoder.patch) * width + width + (encoder.registers + 2) * width
    return embed + encoder.depth * (attention + mlp + scales + 4 * width) + 2 * width


def flops_per_token(encoder: Encoder) -> int:
    """FLOPs of a forward pass that a token costs whatever its segment: the matrix products outside
    attention, two FLOPs a multiply-add.
    """
    width, hidden, matrices = (
        encoder.width,
        hidden_width(encoder.width, encoder.mlp),
        3 if encoder.mlp == "swiglu" else 2,
    )
    embed = math.prod(encoder.patch) * width + (encoder.registers + 2) * width
    return 2 * (embed + encoder.depth * (4 * width * width + matrices * width * hidden))


def encoder_flops(encoder: Encoder, tokens: int, segment_lengths: Sequence[int]) -> int:
    """FLOPs of a forward pass over `tokens` (padding included: it is multiplied too) that hold
    segments of these lengths; backward costs twice that.

    Attention: scores and weighted sums, 4 D n² for a segment of n tokens in each block.
    """
    attention = 4 * encoder.width * sum(n * n for n in segment_lengths)
    return tokens * flops_per_token(encoder) + encoder.depth * attention
