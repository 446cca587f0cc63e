"""Self-supervised objectives: pure functions of arrays.

Axes: B rows, S segments of a row, T teacher segments, N tokens, M masked tokens of a row, C of them
at a time, K prototypes, D width, P voxels of a patch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# masked tokens of a row that are scored at a time: 8 rows of them and 131,072 prototypes take 256
# MiB
AT_ONCE = 64


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


class Balanced(NamedTuple):
    """Targets in factors, so that they can be laid out for a part of the lines at a time: whole,
    they take as much memory as the scores again.

    Attributes:
      scores: exp(cosine / temperature) but for a common factor; exactly 0 in lines of weight 0.
      of_line, of_prototype: what balances them.
    """

    scores: Float[Array, "*N K"]
    of_line: Float[Array, "*N"]
    of_prototype: Float[Array, "K"]

    def targets(self) -> Float[Array, "*N K"]:
        """Distributions over prototypes: lines sum to 1, those of weight 0 to exactly 0."""
        return (
            self.scores
            * jnp.expand_dims(self.of_prototype, range(self.scores.ndim - 1))
            * self.of_line[..., None]
        )


def sinkhorn_knopp(
    cosines: Float[Array, "*N K"],
    weights: Float[Array, "*N"],
    temperature: Float[Array, ""] | float = 0.04,
    iterations: int = 3,
) -> Balanced:
    """Targets in which every prototype is used about equally often: lines sum to 1, columns to N /
    K.

    Args:
      cosines: the teacher's scores, 1 at most: exp((cosine - 1) / temperature) is where it starts,
        so that no largest score has to be looked for first, which on a TPU keeps the scores in
        memory twice.
      weights: 1 for a line that takes part, 0 for one that is padding.
      temperature: the teacher's; lower is sharper. From 0.03 up every cosine counts; below, one of
        -1 is beyond float32.
      iterations: of column and line normalisation.
    Returns:
      float32, without a gradient.

    Source: Caron et al., SwAV (arXiv 2006.09882), section 3.1; as centring of DINO's teacher, Oquab
      et al. (arXiv 2304.07193), section 4.
    """
    cosines, weights = jax.lax.stop_gradient((cosines.astype(jnp.float32), weights))
    lines = weights.sum()
    # the common factor cancels in the normalisations
    scores = jnp.exp((cosines - 1) / temperature) * weights[..., None]
    found = Balanced(scores, jnp.ones_like(weights), jnp.ones(scores.shape[-1]))
    for _ in range(iterations):
        columns = (scores * found.of_line[..., None]).sum(range(scores.ndim - 1))
        found = found._replace(
            of_prototype=lines / scores.shape[-1] / jnp.maximum(columns, 1e-30),
            of_line=jnp.ones_like(weights),
        )
        found = found._replace(of_line=weights / jnp.maximum(found.targets().sum(-1), 1e-30))
    return found


def distillation(
    student_logits: Float[Array, "B S K"],
    targets: Float[Array, "B T K"],
    pairs: Bool[Array, "B S T"],
    temperature: float = 0.1,
) -> Float[Array, ""]:
    """DINO: cross-entropy of each student view with the teacher's targets of the other views of its
    study, mean over pairs.

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


def masked_cross_entropy(
    score: Callable[[Float[Array, "B C D"]], Float[Array, "B C K"]],
    tokens: Float[Array, "B M D"],
    targets: Balanced,
    temperature: float = 0.1,
    at_once: int = AT_ONCE,
) -> Float[Array, "B M"]:
    """iBOT: cross-entropy of each of the student's masked tokens with the teacher's view of the
    same token.

    Where a row has more than `at_once` tokens the student's scores are never there whole: so many
    are scored at a time, and again in the backward pass (`scoring_parts`).

    Args:
      score: from tokens to cosines with prototypes.
      tokens: the student's, masked ones alone.
      targets: of the same tokens [B, M, K].
      temperature: the student's.
    Returns:
      Of a line of weight 0, something finite.

    Source: Zhou et al., iBOT (arXiv 2111.07832), equation 2.
    """
    rows, masked, _ = tokens.shape
    parts, size = scoring_parts(masked, at_once)

    def part(i):
        # the last part ends where the row ends, and begins in the one before: nothing has to be
        # padded, and so copied
        def cut(x):
            return jax.lax.dynamic_slice_in_dim(
                x, jnp.minimum(i * size, masked - size), size, axis=1
            )

        logits = score(cut(tokens)).astype(jnp.float32) / temperature
        wanted = Balanced(cut(targets.scores), cut(targets.of_line), targets.of_prototype).targets()
        # Targets sum to 1, so that -sum_k t_k log p_k is the log of the softmax's sum less the mean
        # logit.
        return jax.nn.logsumexp(logits, axis=-1) - (wanted * logits).sum(axis=-1)

    if parts == 1:
        return part(0)
    found = jax.lax.map(jax.checkpoint(part), jnp.arange(parts))
    twice = parts * size - masked
    return jnp.concatenate(
        (found[:-1].swapaxes(0, 1).reshape(rows, -1), found[-1, :, twice:]), axis=1
    )


def scoring_parts(masked: int, at_once: int = AT_ONCE) -> tuple[int, int]:
    """How many parts a row's masked tokens are scored in, and how many tokens a part has. One part
    is not scored again in the backward pass.

    Example:
      >>> scoring_parts(130)
      (3, 44)
    """
    parts = -(-masked // at_once)
    return parts, -(-masked // parts)


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


def weighted_mean(values: Float[Array, "*N"], weights: Float[Array, "*N"]) -> Float[Array, ""]:
    """sum(values * weights) / sum(weights); 0 where all weights are 0."""
    total = weights.sum()
    return jnp.where(total > 0, (values * weights).sum() / jnp.where(total > 0, total, 1.0), 0.0)
