"""Targets of self-distillation, balanced over prototypes. Axes: N tokens, K prototypes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
        # Only the two vectors of factors change: the scores [N, K] are never written again.
        # The floor of 1e-30 keeps an unused prototype from a division by zero.
        columns = (scores * found.of_line[..., None]).sum(range(scores.ndim - 1))
        found = found._replace(
            of_prototype=lines / scores.shape[-1] / jnp.maximum(columns, 1e-30),
            of_line=jnp.ones_like(weights),
        )
        found = found._replace(of_line=weights / jnp.maximum(found.targets().sum(-1), 1e-30))
    return found


def weighted_mean(values: Float[Array, "*N"], weights: Float[Array, "*N"]) -> Float[Array, ""]:
    """sum(values * weights) / sum(weights); 0 where all weights are 0."""
    total = weights.sum()
    # The inner `where` keeps 0 / 0 out of the gradient, which the outer one alone would not.
    return jnp.where(total > 0, (values * weights).sum() / jnp.where(total > 0, total, 1.0), 0.0)
