"""KoLeo: a penalty on features of different studies that lie close together.

Axes: N crops, D width.
"""

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
    """The KoLeo loss: minus the mean log distance of each unit vector to its nearest one of another
    study.

    Args:
      cls: features; computed in float32.
      study: the study of each row; -1 is padding. Views of one study should be near each other, so
        they do not count as neighbours.
    Returns:
      0 where there are fewer than two studies.

    Source: Sablayrolles et al. (arXiv 1806.03198), equation 1; as regulariser of DINO features,
      Oquab et al. (arXiv 2304.07193), section 4.
    """
    x = cls.astype(jnp.float32)
    # Added under the root: a feature that is exactly 0 then has a finite gradient.
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

    # The loss reads the student alone; the health figures read the teacher's features.
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
