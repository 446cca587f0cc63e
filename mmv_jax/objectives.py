"""Self-supervised objectives: pure functions of arrays.

Axes: B rows, S segments of a row, T teacher segments, N tokens, K prototypes, D width, P voxels of a patch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def masked_reconstruction(
    predicted: Float[Array, "*N P"], patches: Float[Array, "*N P"], weights: Float[Array, "*N"], epsilon: float = 1e-3
) -> Float[Array, ""]:
    """Mean squared error of patches that were not seen, each normalised by its own mean and variance.

    Args:
      predicted: the decoder's output.
      patches: the true voxels, in about [-1, 1].
      weights: how much a patch counts; 0 where it was visible, or is no patch.
      epsilon: added to the variance, so that the noise of a flat patch (air, a shape's inside) is not blown up to unit variance. He et al. use
        1e-6 on photographs; the noise of a CT at our scale has a variance of about 1e-3.

    Source: He et al., Masked Autoencoders Are Scalable Vision Learners (arXiv 2111.06377), section 3 and table 1d.
    """
    patches = patches.astype(jnp.float32)
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True)
    target = (patches - mean) * jax.lax.rsqrt(variance + epsilon)
    error = jnp.square(predicted.astype(jnp.float32) - target).mean(axis=-1)
    return weighted_mean(error, weights)


def sinkhorn_knopp(
    logits: Float[Array, "N K"], weights: Float[Array, "N"], temperature: Float[Array, ""] | float = 0.04, iterations: int = 3
) -> Float[Array, "N K"]:
    """Targets in which every prototype is used about equally often: lines sum to 1, columns to N / K.

    Args:
      logits: the teacher's scores.
      weights: 1 for a line that takes part, 0 for one that is padding.
      temperature: the teacher's; lower is sharper.
      iterations: of column and line normalisation.
    Returns:
      float32; exactly 0 in lines of weight 0.

    Source: Caron et al., SwAV (arXiv 2006.09882), section 3.1; as centring of DINO's teacher, Oquab et al. (arXiv 2304.07193), section 4.
    """
    scaled = logits.astype(jnp.float32) / temperature
    lines = weights.sum()
    # One constant for all keeps exp finite and cancels in the normalisations.
    top = jnp.max(jnp.where(weights[:, None] > 0, scaled, -jnp.inf))
    q = jnp.exp(scaled - jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))) * weights[:, None]
    prototypes = q.shape[1]
    for _ in range(iterations):
        q = q / (q.sum(axis=0, keepdims=True) + 1e-30) * (lines / prototypes)
        q = q / (q.sum(axis=1, keepdims=True) + 1e-30) * weights[:, None]
    return q


def distillation(
    student_logits: Float[Array, "B S K"], targets: Float[Array, "B T K"], pairs: Bool[Array, "B S T"], temperature: float = 0.1
) -> Float[Array, ""]:
    """DINO: cross-entropy of each student view with the teacher's targets of the other views of its study, mean over pairs.

    Args:
      student_logits: scores of CLS tokens of all views.
      targets: distributions over prototypes of the global views, no gradient.
      pairs: which student view learns from which teacher view: the same study, another view.
      temperature: the student's.

    Source: Caron et al., DINO (arXiv 2104.14294), equation 3.
    """
    log_p = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature, axis=-1)
    weights = pairs.astype(jnp.float32)
    # Targets are summed a student view first: [B, S, T] x [B, T, K], never [B, S, T, K].
    summed = jnp.einsum("bst,btk->bsk", weights, jax.lax.stop_gradient(targets))
    return -(summed * log_p).sum() / jnp.maximum(weights.sum(), 1.0)


def masked_distillation(
    student_logits: Float[Array, "N K"], targets: Float[Array, "N K"], weights: Float[Array, "N"], temperature: float = 0.1
) -> Float[Array, ""]:
    """iBOT: cross-entropy of the student's masked tokens with the teacher's view of the same tokens.

    Args:
      student_logits, targets: of masked tokens alone; targets have no gradient.
      weights: how much a token counts: 1 / (masked tokens of its crop), so that crops count alike; 0 is padding.

    Source: Zhou et al., iBOT (arXiv 2111.07832), equation 2.
    """
    log_p = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature, axis=-1)
    return weighted_mean(-(jax.lax.stop_gradient(targets) * log_p).sum(axis=-1), weights)


def koleo(cls: Float[Array, "N D"], study: Int[Array, "N"]) -> Float[Array, ""]:
    """Spreads features apart: minus the mean log distance of each unit vector to its nearest one of another study.

    Args:
      cls: features; float32 inside.
      study: the study of each line; -1 is padding. Two views of one study should be near, so they are nobody's nearest.
    Returns:
      0 where fewer than two studies are there.

    Source: Sablayrolles et al. (arXiv 1806.03198), equation 1; as regulariser of DINO features, Oquab et al. (arXiv 2304.07193), section 4.
    """
    x = cls.astype(jnp.float32)
    # Under the root, so that the gradient of a feature that is exactly 0 is finite.
    x = x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)
    counts = study >= 0
    strangers = (study[:, None] != study[None, :]) & counts[:, None] & counts[None, :]
    nearest = jnp.where(strangers, x @ x.T, -jnp.inf).max(axis=-1)
    alone = ~strangers.any(axis=-1)
    cosine = jnp.where(alone, 0.0, nearest)
    distance = jnp.sqrt(jnp.maximum(2 - 2 * cosine, 1e-8))  # the floor keeps collapsed features finite
    return weighted_mean(-jnp.log(distance), (~alone).astype(jnp.float32))


def weighted_mean(values: Float[Array, "*N"], weights: Float[Array, "*N"]) -> Float[Array, ""]:
    """sum(values * weights) / sum(weights); 0 where all weights are 0."""
    total = weights.sum()
    return jnp.where(total > 0, (values * weights).sum() / jnp.where(total > 0, total, 1.0), 0.0)
