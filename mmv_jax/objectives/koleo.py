"""TODO."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.objectives.targets import weighted_mean


def koleo(cls: Float[Array, "N D"], study: Int[Array, "N"]) -> Float[Array, ""]:
    """Spreads features apart: minus the mean log distance of each unit vector to its nearest one of
    another study.

    Args:
      cls: features; float32 inside.
      study: the study of each line; -1 is padding. Two views of one study should be near, so they
        are nobody's nearest.
    Returns:
      0 where fewer than two studies are there.

    Source: Sablayrolles et al. (arXiv 1806.03198), equation 1; as regulariser of DINO features,
      Oquab et al. (arXiv 2304.07193), section 4.
    """
    x = cls.astype(jnp.float32)
    # Under the root, so that the gradient of a feature that is exactly 0 is finite.
    x = x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)
    counts = study >= 0
    strangers = (study[:, None] != study[None, :]) & counts[:, None] & counts[None, :]
    nearest = jnp.where(strangers, x @ x.T, -jnp.inf).max(axis=-1)
    alone = ~strangers.any(axis=-1)
    cosine = jnp.where(alone, 0.0, nearest)
    # the floor keeps collapsed features finite
    distance = jnp.sqrt(jnp.maximum(2 - 2 * cosine, 1e-8))
    return weighted_mean(-jnp.log(distance), (~alone).astype(jnp.float32))
