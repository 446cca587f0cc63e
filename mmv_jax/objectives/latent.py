"""Latent targets (data2vec 2.0): the student predicts the teacher's tokens of hidden patches.

The student sees the visible patches alone; the teacher sees all.

Axes: B rows, F tokens of the prefix, E blocks, D width.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.models.kinds import PATCH
from mmv_jax.objectives.batch import Params, marked
from mmv_jax.objectives.mae import DecoderTerm
from mmv_jax.objectives.targets import weighted_mean
from mmv_jax.objectives.term import TEACHER, VISIBLE, Seen


def latent_targets(blocks: Float[Array, "E B F D"]) -> Float[Array, "B F D"]:
    """The mean of the tokens of several blocks, without a gradient.

    Each block's tokens are standardised over their channels first, and the mean once more.

    Source: Baevski et al., data2vec 2.0 (arXiv 2212.07525), section 3.1.
    """

    def standardise(x: Array) -> Array:
        x = x - x.mean(axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6)

    mean = standardise(blocks.astype(jnp.float32)).mean(axis=0)
    return jax.lax.stop_gradient(standardise(mean))


@dataclass(frozen=True)
class LatentTerm(DecoderTerm):
    """Mean squared error of hidden patches against `latent_targets` of the teacher's last blocks.

    All terms share one pass of the teacher, which has no gradient.

    Fields:
      latent_blocks: how many of the teacher's last blocks are averaged.
    """

    latent_blocks: int = 4
    needs: ClassVar[frozenset[str]] = frozenset({VISIBLE, TEACHER})
    module: ClassVar[str] = "latent_decoder"

    @property
    def outputs(self) -> int:
        return self.encoder.width

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        _, *places = seen.prefix
        index = seen.batch["visible_index"]
        predicted = self.decode(student[self.module], seen, index, places)
        blocks = seen.blocks[TEACHER]
        target = latent_targets(blocks[-min(self.latent_blocks, len(blocks)) :])
        # `places` are coords_mm, kinds and segment_ids, so its second part is the kinds.
        hidden = (places[1] == PATCH) & ~marked(index, target.shape[1])
        error = jnp.square(predicted - target).mean(axis=-1)
        # A target that is the same everywhere says that the teacher has collapsed.
        spread = jnp.where(hidden[..., None], target, 0.0).std(axis=(0, 1)).mean()
        return weighted_mean(error, hidden.astype(jnp.float32)), {"latent_spread": spread}
