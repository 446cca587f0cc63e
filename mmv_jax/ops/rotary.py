"""Rotary positions in three dimensions.

Axes: B rows, L tokens, H heads, K channels of a head, R rotated pairs of a head.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class RotaryTables(NamedTuple):
    """Cosines and sines that rotate every layer's queries and keys, made once a forward pass."""

    cos: Float[Array, "B L R"]
    sin: Float[Array, "B L R"]


def rotary_tables(
    coords: Float[Array, "B L 3"], head_dim: int, base: float = 100.0
) -> RotaryTables:
    """Rotation tables of a head: K // 6 channel pairs for each of z, y and x.

    Wavelengths run geometrically from 1 to `base`, in the unit of `coords`. Both ends are included,
    so the range of lengths that a model resolves does not depend on its head size.

    Args:
      coords: positions (z, y, x), divided by the shortest wavelength.
      base: the longest wavelength divided by the shortest.
    Raises:
      ValueError: a head has fewer than 12 channels, the least for two waves an axis.

    Source: Su et al., RoFormer (arXiv 2104.09864), section 3.2, with a third of the channels for
      each axis. Spectra in the unit of the positions as in DINOv3 (arXiv 2508.10104), section 3.2.
    """
    pairs = head_dim // 6
    if pairs < 2:
        raise ValueError(
            f"A head of {head_dim} channels is too small for rotary positions in 3D: at least 12"
            " are needed."
        )
    # The exponent runs from 0 to -1 over the pairs, and so the wavelength from 1 to `base`.
    frequencies = (
        2 * jnp.pi * jnp.float32(base) ** (-jnp.arange(pairs, dtype=jnp.float32) / (pairs - 1))
    )
    # [B, L, 3, K // 6]. An elementwise product, not a matmul: some platforms would round positions
    # to bfloat16 in a matmul.
    angles = coords.astype(jnp.float32)[..., None] * frequencies[None, None, None]
    angles = angles.reshape(*coords.shape[:2], 3 * pairs)
    return RotaryTables(jnp.cos(angles), jnp.sin(angles))


def depth_tables(coords: Float[Array, "B L 3"], head_dim: int, base: float = 100.0) -> RotaryTables:
    """As `rotary_tables`, but only z turns: y and x are in a learned table of positions.

    The tokens of a planar study have one z, so attention is that of an encoder without rotation.
    """
    only_z = jnp.array([1.0, 0.0, 0.0], jnp.float32)
    return rotary_tables(coords * only_z[None, None], head_dim, base)


def axial_tables(coords: Float[Array, "B L 3"], head_dim: int, base: float = 100.0) -> RotaryTables:
    """Rotation tables as in DINOv3: half of the channel pairs of a head turn with y, half with x.

    DINOv3 is planar. In a volume z is added in every third wave, which leaves a planar study (z is
    0) as it was.

    Args:
      coords: positions (z, y, x) in the crop, from -1 to 1.
      base: the longest wavelength is a little less than `base`; the shortest is 1.
    Raises:
      ValueError: the channels of a head are no multiple of 4.

    Source: Siméoni et al., DINOv3 (arXiv 2508.10104), section 3.2. Only patches turn there. Here
      CLS and registers lie at the crop's centre, 0, which turns nothing.
    """
    if head_dim % 4:
        raise ValueError(f"A head of {head_dim} channels cannot be halved into pairs for y and x.")
    waves = jnp.arange(head_dim // 4, dtype=jnp.float32)
    frequencies = 2 * jnp.pi * jnp.float32(base) ** (-waves / len(waves))
    z, y, x = (part[..., None] for part in jnp.moveaxis(coords.astype(jnp.float32), -1, 0))
    shifted = jnp.where(waves % 3 == 2, 1.0, 0.0)[None, None] * z
    angles = jnp.concatenate([(y + shifted), (x + shifted)], -1)
    angles = angles * jnp.tile(frequencies, 2)[None, None]
    return RotaryTables(jnp.cos(angles), jnp.sin(angles))


TABLES = {"rotary": rotary_tables, "table": depth_tables, "axial": axial_tables}


def apply_rotary(x: Float[Array, "B L H K"], tables: RotaryTables) -> Float[Array, "B L H K"]:
    """Rotate the channel pairs (i, i + R) of each head; channels from 2R on keep their values.

    Computed in float32, returned in the dtype of `x`.
    """
    pairs = tables.cos.shape[-1]
    # All heads of a token turn by the same angles.
    cos, sin = tables.cos[:, :, None], tables.sin[:, :, None]
    first, second, rest = jnp.split(x, (pairs, 2 * pairs), axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate((*(part.astype(x.dtype) for part in rotated), rest), axis=-1)


def rotate(
    x: Float[Array, "B L H K"], coords: Float[Array, "B L 3"], base: float = 100.0
) -> Float[Array, "B L H K"]:
    """Rotate queries or keys by position; products q·k then depend only on differences of
    coordinates.

    Args:
      coords: positions (z, y, x) in units of the shortest wavelength; `base` is the longest.

    Example:
      >>> x = jnp.zeros((1, 1, 1, 12)).at[..., 0].set(1.0)
      >>> # z moves by a quarter of the shortest wavelength
      >>> quarter = rotate(x, jnp.array([[[0.25, 0.0, 0.0]]]))
      >>> jnp.round(quarter[0, 0, 0, jnp.array([0, 6])], 6).tolist()
      [-0.0, 1.0]
    """
    return apply_rotary(x, rotary_tables(coords, x.shape[-1], base))
