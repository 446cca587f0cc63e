"""Named sizes of the encoder, and what they cost: parameters and FLOPs in closed form."""

from mmv_jax.errors import UserError
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
# Deep encoders start nearer to the identity (arXiv 2103.17239, section 3.1); the largest is gated, as in arXiv 2304.07193, table 17.
DEEP = {"layer_scale": 1e-5}
OPTIONS: dict[str, dict] = {"L": DEEP, "H": DEEP, "g": {**DEEP, "mlp": "swiglu"}}


def make_encoder(size: str, patch: tuple[int, int, int], **options) -> Encoder:
    """An encoder of a named size; `options` are fields of `Encoder`.

    Example:
      >>> make_encoder("S", (8, 16, 16), registers=2).width
      384
    """
    if size not in SIZES:
        raise UserError(f"config.encoder.size is {size!r}, which is not a known size. Use one of {', '.join(SIZES)}.")
    named = dict(zip(("width", "depth", "heads"), SIZES[size])) | OPTIONS.get(size, {})
    return Encoder(**named | options, patch=tuple(patch))
