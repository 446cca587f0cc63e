"""TODO."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.objectives.batch import _take
from mmv_jax.objectives.targets import Balanced

# masked tokens of a row that are scored at a time: 8 rows of them and 131,072 prototypes take 256
# MiB
AT_ONCE = 64


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


def _one_a_crop(index: Int[Array, "B M"], ids: Int[Array, "B T"]) -> Float[Array, "B M"]:
    """1 / (number of masked tokens of the token's crop); 0 at padding."""
    own = _take(ids, index)
    same = (own[:, :, None] == own[:, None, :]) & (index >= 0)[:, None, :]
    return jnp.where(index >= 0, 1 / jnp.maximum(same.sum(axis=-1), 1), 0.0)
