"""KoLeo: features of different studies are spread apart. Axes: N crops, D width."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.models.cost import Flops
from mmv_jax.objectives.batch import Params
from mmv_jax.objectives.targets import weighted_mean
from mmv_jax.objectives.term import STUDENT, TEACHER, Seen, Term, Work


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
    # -inf must be replaced before the root: multiplied by a weight of 0 it would still give NaN.
    cosine = jnp.where(alone, 0.0, nearest)
    # the floor keeps collapsed features finite
    distance = jnp.sqrt(jnp.maximum(2 - 2 * cosine, 1e-8))
    return weighted_mean(-jnp.log(distance), (~alone).astype(jnp.float32))


@dataclass(frozen=True)
class KoleoTerm(Term):
    """`koleo` of the student's CLS tokens of global crops."""

    # The teacher's pass is for the health figures: features that the student does not yet have.
    needs: ClassVar[frozenset[str]] = frozenset({TEACHER, STUDENT})

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        cls = seen.cls[STUDENT]
        lines = jnp.where(seen.is_global, seen.batch["study"], -1).reshape(-1)
        return koleo(cls.reshape(-1, cls.shape[-1]), lines), {}

    def flops(self, work: Work) -> dict[str, Flops]:
        cosines = 2 * (work.rows * work.segments) ** 2 * self.encoder.width
        return {"koleo": Flops(forward=cosines, backward=2 * cosines)}

    def stored_bytes(self, work: Work, remat: bool) -> dict[str, int]:
        return {}
