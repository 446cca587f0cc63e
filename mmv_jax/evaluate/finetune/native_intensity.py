"""Changes of intensities and sides as nnU-Net v2 has them: blur, lower resolution, gamma, mirrors.

Each is drawn for a patch by itself. A share is that of nnU-Net for one channel: the share of its
transform times that of a channel within it.

Axes: N patches, Z Y X voxels.

Source: `nnUNetTrainer.get_training_transforms` of nnU-Net v2 (commit 017de4a), and its transforms
  in batchgeneratorsv2: `GaussianBlurTransform` (023fc56), `SimulateLowResolutionTransform`
  (187ee55), `GammaTransform` and `MirrorTransform` (1525347).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

BLURRED, SIGMA = 0.2 * 0.5, (0.5, 1.0)  # voxels, along each axis by itself
COARSER, SCALE = 0.25 * 0.5, (0.5, 1.0)  # one scale for all axes
INVERTED, PLAIN, GAMMA = 0.1, 0.3, (0.7, 1.5)  # gamma of the negative, and of the image
RADIUS = 3  # voxels of the blur's kernel to each side: 3 σ, as nnU-Net's `truncate` of 6 is
TINY = 1e-7  # a constant patch has no range and no spread


def change_intensity(x: Float[Array, "N Z Y X"], key: Array) -> Float[Array, "N Z Y X"]:
    """Blur, make coarser, and bend by a gamma, each for some patches, in nnU-Net's order."""
    keys = jax.random.split(key, 8)
    n = len(x)
    sigma = jax.random.uniform(keys[0], (n, 3), minval=SIGMA[0], maxval=SIGMA[1])
    scale = jax.random.uniform(keys[2], (n,), minval=SCALE[0], maxval=SCALE[1])
    x = _some(x, jax.vmap(blur)(x, sigma), keys[1], BLURRED)
    x = _some(x, jax.vmap(coarsen)(x, scale), keys[3], COARSER)
    x = _some(x, -jax.vmap(bend)(-x, draw_gamma(keys[4], n)), keys[5], INVERTED)
    return _some(x, jax.vmap(bend)(x, draw_gamma(keys[6], n)), keys[7], PLAIN)


def mirror(batch: Mapping[str, Array], key: Array) -> dict[str, Array]:
    """Turn half of the patches around along each axis; masks turn with their image."""
    image = batch["voxels"]
    out = dict(batch)
    for axis in (1, 2, 3):
        turned = jax.random.bernoulli(jax.random.fold_in(key, axis), 0.5, (len(image), 1, 1, 1))
        for name, x in out.items():
            # A label of each study has another shape, and has no sides.
            if x.shape == image.shape:
                out[name] = jnp.where(turned, jnp.flip(x, axis), x)
    return out


def _some(x: Array, changed: Array, key: Array, share: float) -> Array:
    return jnp.where(jax.random.bernoulli(key, share, (len(x), 1, 1, 1)), changed, x)


def blur(x: Float[Array, "Z Y X"], sigma: Float[Array, "3"]) -> Float[Array, "Z Y X"]:
    """Gaussian blur with a σ of voxels for each axis; borders are reflected."""
    for axis in range(3):
        # A single slice has no neighbour.
        if x.shape[axis] > 1:
            at = jnp.arange(-RADIUS, RADIUS + 1)
            kernel = jnp.exp(-0.5 * (at / sigma[axis]) ** 2)
            x = _along(x, axis, _convolved(kernel / kernel.sum()))
    return x


def _convolved(kernel: Float[Array, " K"]) -> Callable[[Array], Array]:
    def apply(lines: Float[Array, "n M"]) -> Float[Array, "n M"]:
        padded = jnp.pad(lines, ((0, 0), (RADIUS, RADIUS)), mode="reflect")
        return jax.vmap(lambda line: jnp.convolve(line, kernel, mode="valid"))(padded)

    return apply


def coarsen(x: Float[Array, "Z Y X"], scale: Float[Array, ""]) -> Float[Array, "Z Y X"]:
    """The nearest voxels of a grid that is coarser by `scale`, and the line between two of them.

    The coarser size follows from a random number, and shapes do not. So each voxel reads the two of
    the coarser grid that it lies between.
    """
    for axis in range(3):
        if x.shape[axis] > 1:
            x = _along(x, axis, _coarser(x.shape[axis], scale))
    return x


def _coarser(size: int, scale: Array) -> Callable[[Array], Array]:
    count = jnp.round(size * scale)
    # Centres of voxels on the coarser grid, as PyTorch places them (`align_corners=False`).
    place = jnp.clip((jnp.arange(size) + 0.5) * count / size - 0.5, 0.0, count - 1)
    low = jnp.floor(place)
    high = jnp.minimum(low + 1, count - 1)

    def nearest(place: Array) -> Array:
        # Where the coarse voxel was taken from: "nearest-exact".
        return jnp.floor((place + 0.5) * size / count).astype(jnp.int32)

    weight = place - low
    return (
        lambda lines: (1 - weight)[None] * lines[:, nearest(low)]
        + weight[None] * lines[:, nearest(high)]
    )


def bend(x: Float[Array, "Z Y X"], gamma: Float[Array, ""]) -> Float[Array, "Z Y X"]:
    """The power `gamma` of intensities within their range; mean and spread stay."""
    least, spread = x.min(), x.std(ddof=1)
    width = x.max() - least
    bent = ((x - least) / jnp.maximum(width, TINY)) ** gamma * width + least
    return (bent - bent.mean()) * (spread / jnp.maximum(bent.std(ddof=1), TINY)) + x.mean()


def draw_gamma(key: Array, n: int) -> Float[Array, " n"]:
    """As nnU-Net's `BGContrast`: half of them below 1 and half above, each evenly."""
    below, which = jax.random.split(key)
    place = jax.random.uniform(below, (n,))
    low, high = GAMMA
    return jnp.where(
        jax.random.bernoulli(which, 0.5, (n,)), low + (1 - low) * place, 1 + (high - 1) * place
    )


def _along(
    x: Shaped[Array, "Z Y X"], axis: int, apply: Callable[[Array], Array]
) -> Shaped[Array, "Z Y X"]:
    """A function of lines [n, M] along an axis."""
    moved = jnp.moveaxis(x, axis, -1)
    lines = apply(moved.reshape(-1, moved.shape[-1]))
    return jnp.moveaxis(lines.reshape(moved.shape), -1, axis)
