"""Random changes of patches on a native grid, as nnU-Net has them.

Axes: N patches, Z Y X voxels.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from mmv_jax.evaluate.finetune.end_to_end import GAIN, OFFSET
from mmv_jax.evaluate.finetune.native_intensity import change_intensity, mirror

CHANGES_VERSION = 2  # of what these changes do: a fit of before is not taken for one of now

SHARE = 0.2  # of the patches that are turned, of those that are resized, and of those with noise
TURN = jnp.pi / 6  # radians, at most
SIZE = 1.4  # factor, at most, and its inverse at least
NOISE = 0.1  # standard deviation at most, of intensities of about [-1, 1]


def change(
    batch: Mapping[str, Array], key: Array, *, shift: float = 0.0, mirrored: bool = True
) -> dict[str, Array]:
    """Change every patch at random; masks move with their image.

    Patches turn and change size in the plane of a slice, so that thick slices stay slices.

    Args:
      batch: `voxels`, and masks (bool) of the same shape. Other arrays stay as they are.
      shift: whole pixels by which an image moves in the plane, as a share of its side, at most.
      mirrored: whether sides are exchanged, which moves the heart to the right.

    Source: strengths and shares of nnU-Net (Isensee et al., Nature Methods 18:203, 2021,
      supplement), and of its version 2 (`native_intensity`).
    """
    image = batch["voxels"]
    n, _, height, width = image.shape
    keys = jax.random.split(key, 9)

    def some(at: int, values: Float[Array, " N"], otherwise: float) -> Float[Array, " N"]:
        return jnp.where(jax.random.bernoulli(keys[at], SHARE, (n,)), values, otherwise)

    # Whole patches are drawn to change or to stay, so that most keep their sharpness.
    angle = some(0, jax.random.uniform(keys[1], (n,), minval=-TURN, maxval=TURN), 0.0)
    # On a logarithmic scale: twice as large is as likely as half as large.
    size = jax.random.uniform(keys[2], (n,), minval=-jnp.log(SIZE), maxval=jnp.log(SIZE))
    size = some(3, jnp.exp(size), 1.0)
    most = jnp.array([[height, width]]) * shift
    # Whole pixels, which need no interpolation.
    moved = jnp.round(most * jax.random.uniform(keys[4], (n, 2), minval=-1.0, maxval=1.0))
    places = jax.vmap(lambda *of: _places(height, width, *of))(angle, size, moved)
    out = dict(batch)
    for name, x in batch.items():
        # A label of each study has another shape, and does not move.
        if x.shape == image.shape:
            out[name] = jax.vmap(_placed)(x, places)
    # Contrast, brightness and noise are of the image alone.
    gain = jax.random.uniform(keys[5], (n, 1, 1, 1), minval=1 - GAIN, maxval=1 + GAIN)
    offset = jax.random.uniform(keys[6], (n, 1, 1, 1), minval=-OFFSET, maxval=OFFSET)
    noise = some(7, jax.random.uniform(keys[8], (n,), maxval=NOISE), 0.0)
    drawn = jax.random.normal(jax.random.fold_in(key, 1), image.shape)
    noisy = gain * out["voxels"] + offset + noise[:, None, None, None] * drawn
    out["voxels"] = change_intensity(noisy, jax.random.fold_in(key, 2))
    return mirror(out, jax.random.fold_in(key, 3)) if mirrored else out


def _places(
    height: int, width: int, angle: Array, size: Array, moved: Array
) -> Float[Array, "two Y X"]:
    """Where each pixel of the changed slice is read in the one before, around the middle."""
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = jnp.meshgrid(jnp.arange(height) - middle_y, jnp.arange(width) - middle_x, indexing="ij")
    # Divided: a place of a larger picture is read nearer to the middle.
    cos, sin = jnp.cos(angle) / size, jnp.sin(angle) / size
    return jnp.stack(
        [cos * y - sin * x + middle_y + moved[0], sin * y + cos * x + middle_x + moved[1]]
    )


def _placed(x: Array, places: Float[Array, "two Y X"]) -> Array:
    """The slices of one patch, read at these places; borders are repeated."""
    # Of a mask the nearest voxel is read, of an image the line between two.
    numbers, order = x.astype(jnp.float32), 0 if x.dtype == bool else 1
    read = jax.vmap(lambda own: map_coordinates(own, list(places), order, mode="nearest"))(numbers)
    # Nearest values of a mask are 0 and 1 again.
    return read > 0.5 if x.dtype == bool else read
