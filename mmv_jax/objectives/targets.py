"""Targets of self-distillation, balanced over prototypes. Axes: N tokens, K prototypes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Balanced(NamedTuple):
    """Balanced targets as three factors; `targets` multiplies them for a part of the tokens at a
    time.

    The whole product would take as much memory as the scores once more.

    Attributes:
      scores: exp(cosine / temperature) up to a common factor; exactly 0 for tokens of weight 0.
      of_line, of_prototype: the factors of each token and each prototype that balance the scores.
    """

    scores: Float[Array, "*N K"]
    of_line: Float[Array, "*N"]
    of_prototype: Float[Array, "K"]

    def targets(self) -> Float[Array, "*N K"]:
        """Distributions over prototypes: each token's sum is 1, or exactly 0 at weight 0."""
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
    """Targets that use every prototype about equally often: rows sum to 1, columns to N / K.

    Args:
      cosines: the teacher's scores, at most 1. The iteration starts at exp((cosine - 1) /
        temperature). So the largest score is not needed, whose search would keep the scores twice
        in a TPU's memory.
      weights: 1 for a token that takes part, 0 for padding.
      temperature: the teacher's; lower is sharper. Below 0.03 a cosine of -1 underflows in float32.
      iterations: of column and row normalisation.
    Returns:
      float32 factors, without a gradient.

    Source: Caron et al., SwAV (arXiv 2006.09882), section 3.1; as centring of DINO's teacher, Oquab
      et al. (arXiv 2304.07193), section 4.
    """
    cosines, weights = jax.lax.stop_gradient((cosines.astype(jnp.float32), weights))
    lines = weights.sum()
    # The common factor cancels in the normalisations.
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
