"""TODO."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.objectives.targets import weighted_mean


def masked_reconstruction(
    predicted: Float[Array, "*N P"],
    patches: Float[Array, "*N P"],
    weights: Float[Array, "*N"],
    epsilon: float = 1e-3,
) -> Float[Array, ""]:
    """Mean squared error of patches that were not seen, each normalised by its own mean and
    variance.

    Args:
      predicted: the decoder's output.
      patches: the true voxels, in about [-1, 1].
      weights: how much a patch counts; 0 where it was visible, or is no patch.
      epsilon: added to the variance, so that the noise of a flat patch (air, a shape's inside) is
        not blown up to unit variance. He et al. use 1e-6 on photographs; the noise of a CT at our
        scale has a variance of about 1e-3.

    Source: He et al., Masked Autoencoders Are Scalable Vision Learners (arXiv 2111.06377), section
      3 and table 1d.
    """
    patches = patches.astype(jnp.float32)
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True)
    target = (patches - mean) * jax.lax.rsqrt(variance + epsilon)
    error = jnp.square(predicted.astype(jnp.float32) - target).mean(axis=-1)
    return weighted_mean(error, weights)
