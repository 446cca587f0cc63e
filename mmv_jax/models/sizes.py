"""Named sizes of the encoder, and what they cost: parameters and FLOPs in closed form."""

from mmv_jax.errors import UserError
from mmv_jax.models.encoder import Encoder

# width, depth, heads, and what departs from the defaults: deep encoders start nearer to the identity (arXiv 2103.17239, section 3.1; arXiv 2304.07193,
# table 16). `nano` is for tests and `mini` for laptops.
SIZES: dict[str, dict] = {
    "nano": dict(width=64, depth=2, heads=2),
    "mini": dict(width=192, depth=6, heads=6),
    "Ti": dict(width=192, depth=12, heads=3),
    "S": dict(width=384, depth=12, heads=6),
    "B": dict(width=768, depth=12, heads=12),
    "L": dict(width=1024, depth=24, heads=16, layer_scale=1e-5),
    "H": dict(width=1280, depth=32, heads=16, layer_scale=1e-5),
    "g": dict(width=1536, depth=40, heads=24, layer_scale=1e-5, mlp="swiglu"),
}


def make_encoder(size: str, patch: tuple[int, int, int], **options) -> Encoder:
    """An encoder of a named size; `options` are fields of `Encoder`.

    Example:
      >>> make_encoder("S", (8, 16, 16), registers=2).width
      384
    """
    if size not in SIZES:
        raise UserError(f"config.encoder.size is {size!r}, which is not a known size. Use one of {', '.join(SIZES)}.")
    return Encoder(**{**SIZES[size], "patch": tuple(patch), **options})
