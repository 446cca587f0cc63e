"""Gram anchoring: similarities between the patches of a crop stay those of an earlier teacher.

Axes: B rows, F tokens of the prefix, N patches of a crop, D width.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmv_jax.models.cost import F32, Flops
from mmv_jax.models.encoder import Encoder
from mmv_jax.models.kinds import PATCH
from mmv_jax.models.projection import unit
from mmv_jax.objectives.batch import Params, inputs
from mmv_jax.objectives.term import EARLIER, STUDENT, Seen, Term, Work
from mmv_jax.ops.parts import Part, in_parts


def gram_distance(
    student: Float[Array, "B F D"],
    teacher: Float[Array, "B F D"],
    ids: Int[Array, "B F"],
    there: Bool[Array, "B F"],
) -> Float[Array, ""]:
    """The mean squared difference of two Gram matrices, the mean over crops.

    The Gram matrix [N, N] of a crop holds the cosines between its patches. Only how patches lie to
    each other is compared, so all of them may turn together.

    Args:
      student, teacher: tokens; computed in float32. No gradient flows to the teacher's.
      ids: the crop of each token.
      there: which tokens are patches.
    Returns:
      0 where no token is one.

    Source: Siméoni et al., DINOv3 (arXiv 2508.10104), section 4.2, equation 2, over N².
    """
    same = (ids[:, :, None] == ids[:, None, :]) & there[:, :, None] & there[:, None, :]
    # Without gradients of tokens that are no patches: their unit vectors are taken for 0.
    own, fixed = (
        unit(jnp.where(there[..., None], x.astype(jnp.float32), 0.0))
        for x in (student, jax.lax.stop_gradient(teacher))
    )
    # The two matrices differ little, so that a product of bfloat16 would lose what is compared.
    exact = jax.lax.Precision.HIGHEST
    apart = jnp.einsum("bnd,bmd->bnm", own, own, precision=exact)
    apart -= jnp.einsum("bnd,bmd->bnm", fixed, fixed, precision=exact)
    of_token = jnp.where(same, jnp.square(apart), 0.0).sum(-1)
    # A crop of N patches has N lines, each with 1 / N² of its mean and 1 / N of the crop.
    count = jnp.maximum(same.sum(-1), 1)
    crops = jnp.where(there, 1 / count, 0.0).sum()
    # Of rows without a patch the sum is 0 as well.
    return (of_token / jnp.square(count)).sum() / jnp.maximum(crops, 1.0)


@dataclass(frozen=True)
class GramTerm(Term):
    """`gram_distance` of the student's patches of global crops, masked or not, from those of the
    Gram teacher.

    The Gram teacher is the encoder that the run begins from (`config.init`, or the phase before),
    as its evaluation reads it. It sees every patch, and never moves. Each further phase takes the
    teacher of the phase before.
    """

    needs: ClassVar[frozenset[str]] = frozenset({STUDENT})
    module: ClassVar[str] = EARLIER
    held: ClassVar[bool] = True

    @property
    def earlier(self) -> nn.Module:
        """The encoder of the Gram teacher, which has no adapters of this run."""
        plain = isinstance(self.encoder, Encoder)
        return self.encoder.clone(lora=None, frozen=0) if plain else self.encoder

    def init(self, key: Array, seen: Seen) -> Params:
        return self.earlier.init(key, *inputs(seen.batch))["params"]

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        kinds, ids = seen.prefix[2:]
        params = jax.lax.stop_gradient(student[self.module])

        def run(part: Part | None, rows: tuple[Array, ...]) -> Array:
            return self.earlier.apply({"params": params}, *rows)["tokens"]

        target: Any = in_parts(run, seen.parts, seen.prefix)
        own = seen.tokens[STUDENT][:, : target.shape[1]]
        return gram_distance(own, target, ids, kinds == PATCH), {}

    def flops(self, work: Work) -> dict[str, Flops]:
        taught = self.earlier.forward_flops(
            work.rows * work.prefix, work.rows * work.prefix_squares
        )
        # A Gram matrix of each; two products backward, of the student's alone.
        product = 2 * work.rows * work.prefix**2 * self.encoder.width
        return {"gram teacher": taught, "gram": Flops(2 * product, 2 * product)}

    def stored_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        # The difference of the matrices and which pairs count; unit vectors of both.
        pairs = (F32 + 1) * work.rows * work.prefix**2
        return {"gram": pairs + 4 * F32 * work.rows * work.prefix * self.encoder.width}

    def working_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        # Both matrices at once, and the gradient of their difference.
        return {"gram matrices": 2 * F32 * work.rows * work.prefix**2}
