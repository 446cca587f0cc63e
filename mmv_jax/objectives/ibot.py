"""Self-distillation of masked tokens (iBOT).

The student sees a patch masked and predicts the teacher's target of the visible patch.

Axes: B rows, M masked tokens of a row, C of them at a time, T tokens, K prototypes, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.errors import UserError
from mmv_jax.models.cost import F32, Flops
from mmv_jax.objectives.batch import Params, take
from mmv_jax.objectives.prototypes import PrototypeTerm
from mmv_jax.objectives.targets import Balanced, weighted_mean
from mmv_jax.objectives.term import MASKED, STUDENT, TEACHER, Seen, Work
from mmv_jax.ops.pool import gather_tokens
from mmv_jax.ops.spread import over_rows

# Masked tokens of a row that are scored at a time: with 8 rows and 131,072 prototypes their scores
# take 256 MiB.
AT_ONCE = 64
# Arrays [b, 64, K] in memory at one time: scores, targets and a gradient of one part. Counted in
# one program that the TPU compiler made, ViT-L on v5p (docs/performance.md, "Preflight").
PARTS = 3


def masked_cross_entropy(
    score: Callable[[Float[Array, "B C D"]], Float[Array, "B C K"]],
    tokens: Float[Array, "B M D"],
    targets: Balanced,
    temperature: float = 0.1,
    at_once: int = AT_ONCE,
) -> Float[Array, "B M"]:
    """The iBOT loss a token: cross-entropy of a masked token with the teacher's target of the same
    token.

    With more than `at_once` masked tokens a row, the student's scores are never in memory whole.
    They are computed a part at a time, and again in the backward pass (`scoring_parts`).

    Args:
      score: from tokens to cosines with prototypes.
      tokens: the student's masked tokens alone.
      targets: of the same tokens [B, M, K].
      temperature: the student's.
      at_once: the most tokens of a row that are scored at a time.
    Returns:
      Nats. A token of weight 0 has a finite value without a meaning.

    Source: Zhou et al., iBOT (arXiv 2111.07832), equation 2.
    """
    rows, masked, _ = tokens.shape
    parts, size = scoring_parts(masked, at_once)

    def part(i):
        # The last part ends where the row ends and may begin inside the part before. So nothing is
        # padded, which would copy the tokens.
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
    # The last part repeats this many tokens of the part before; the repeats are cut off.
    twice = parts * size - masked
    return jnp.concatenate(
        (found[:-1].swapaxes(0, 1).reshape(rows, -1), found[-1, :, twice:]), axis=1
    )


def scoring_parts(masked: int, at_once: int = AT_ONCE) -> tuple[int, int]:
    """Number of parts in which a row's masked tokens are scored, and tokens a part.

    A single part is not scored again in the backward pass.

    Example:
      >>> scoring_parts(130)
      (3, 44)
    """
    parts = -(-masked // at_once)
    return parts, -(-masked // parts)


def one_a_crop(index: Int[Array, "B M"], ids: Int[Array, "B T"]) -> Float[Array, "B M"]:
    """Weights 1 / (number of masked tokens of the token's crop); 0 at padding."""
    own = take(ids, index)
    same = (own[:, :, None] == own[:, None, :]) & (index >= 0)[:, None, :]
    return jnp.where(index >= 0, 1 / jnp.maximum(same.sum(axis=-1), 1), 0.0)


@dataclass(frozen=True)
class IbotTerm(PrototypeTerm):
    """`masked_cross_entropy` of masked patches; each crop that has some weighs the same.

    Fields:
      ibot_over: the crops that the sum over crops is divided by: "masked", those that have masked
        patches, or "global", all global crops, as in DINOv2. Half of them are masked, so the latter
        is about half as large.
      ibot_prototypes, ibot_hidden, ibot_bottleneck: of its own head; None for those of `dino`.
    """

    ibot_over: str = "masked"
    ibot_prototypes: int | None = None
    ibot_hidden: int | None = None
    ibot_bottleneck: int | None = None
    needs: ClassVar[frozenset[str]] = frozenset({TEACHER, STUDENT, MASKED})
    module: ClassVar[str] = "ibot_head"

    def __post_init__(self):
        if self.ibot_over not in ("masked", "global"):
            raise UserError(
                f"config.objective.ibot_over is {self.ibot_over!r}. Use 'masked' or 'global'."
            )

    @property
    def sizes(self) -> tuple[int, int, int]:
        return (
            self.ibot_prototypes or self.prototypes,
            self.ibot_hidden or self.hidden,
            self.ibot_bottleneck or self.bottleneck,
        )

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        index, head = seen.batch["masked_index"], self.head
        taught = gather_tokens(seen.tokens[TEACHER], index)
        scores, of_line, of_prototype = self.targets(teacher, taught, index >= 0, seen.temperature)
        tokens, prototypes = head.apply(
            {"params": student[self.module]}, gather_tokens(seen.tokens[STUDENT], index)
        )

        def cross_entropy(tokens, scores, of_line, prototypes, of_prototype):
            score = partial(head.scores, prototypes=prototypes)
            return masked_cross_entropy(score, tokens, Balanced(scores, of_line, of_prototype))

        each = over_rows(cross_entropy, (tokens, scores, of_line), (prototypes, of_prototype))
        weights = one_a_crop(index, seen.prefix[3])
        if self.ibot_over == "global":
            return (each * weights).sum() / jnp.maximum(seen.is_global.sum(), 1), {}
        return weighted_mean(each, weights), {}

    def flops(self, work: Work) -> dict[str, Flops]:
        count, size = scoring_parts(work.masked)
        # The backward pass scores every part again. The overlap of the last two parts costs one
        # more product forward and two backward.
        overlap = count * size - work.masked
        tokens = work.rows * (count * size + 3 * overlap) if count > 1 else 0
        prototypes, _, bottleneck = self.sizes
        again = 2 * tokens * bottleneck * prototypes
        return {"ibot head": replace(self.head_flops(work.rows * work.masked), again=again)}

    def stored_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        # The targets are in memory whole; the student's scores only a part at a time.
        tokens = work.masked + PARTS * scoring_parts(work.masked)[1]
        return {"ibot scores": F32 * work.rows * tokens * self.sizes[0]}

    def working_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        # The gradient of the prototypes in float32, and their copy in the encoder's dtype.
        itemsize = jnp.dtype(self.encoder.dtype).itemsize
        prototypes, _, bottleneck = self.sizes
        return {"prototypes": prototypes * bottleneck * (F32 + itemsize)}
