"""Instance classification (DIET): the index of a study is the class of each of its crops.

Axes: B rows, S segments, N = B S crops, K classes, D width.
"""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmv_jax.models.cost import F32, Flops
from mmv_jax.models.dense import KERNEL_INIT
from mmv_jax.objectives.batch import Params
from mmv_jax.objectives.targets import weighted_mean
from mmv_jax.objectives.term import STUDENT, Seen, Term, Work


def smoothed_cross_entropy(
    logits: Float[Array, "N K"], label: Int[Array, "N"], there: Bool[Array, "N"], smoothing: float
) -> Float[Array, ""]:
    """Cross-entropy with smoothed labels, the mean over crops that are not padding.

    The target is 1 - smoothing at the label, plus smoothing / K everywhere. Computed in float32.

    Source: Szegedy et al. (arXiv 1512.00567), section 7.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    # The label of padding (-1) must be a valid index; its weight is 0.
    own = jnp.take_along_axis(log_p, jnp.maximum(label, 0)[:, None], axis=-1)[:, 0]
    each = -(1 - smoothing) * own - smoothing * log_p.mean(axis=-1)
    return weighted_mean(each, there.astype(jnp.float32))


@dataclass(frozen=True)
class DietTerm(Term):
    """`smoothed_cross_entropy` of the CLS tokens of all crops.

    Fields:
      diet_classes: at least the number of studies of the store; with fewer, studies share classes.
      diet_smoothing: of the labels.

    Source: Ibrahim et al., DIET (arXiv 2302.10260), section 3; on few medical images, arXiv
      2509.06990.
    """

    diet_classes: int = 8192
    diet_smoothing: float = 0.8
    needs: ClassVar[frozenset[str]] = frozenset({STUDENT})
    module: ClassVar[str] = "diet_head"
    told_as: ClassVar[str] = "telling studies apart"

    @property
    def head(self) -> nn.Module:
        return nn.Dense(self.diet_classes, kernel_init=KERNEL_INIT, dtype=self.encoder.dtype)

    def init(self, key: Array, seen: Seen) -> Params:
        return self.head.init(key, jnp.zeros((1, self.encoder.width)))["params"]

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        cls = seen.cls[STUDENT].reshape(-1, self.encoder.width)
        study = seen.batch["study"].reshape(-1)
        logits = self.head.apply({"params": student[self.module]}, cls)
        label, there = study % self.diet_classes, study >= 0
        right = (logits.argmax(axis=-1) == label).astype(jnp.float32)
        told = {"diet_accuracy": weighted_mean(right, there.astype(jnp.float32))}
        return smoothed_cross_entropy(logits, label, there, self.diet_smoothing), told

    def flops(self, work: Work) -> dict[str, Flops]:
        forward = 2 * work.rows * work.segments * self.encoder.width * self.diet_classes
        return {"diet head": Flops(forward=forward, backward=2 * forward)}

    def stored_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        # Scores and their gradient.
        return {"diet scores": 2 * F32 * work.rows * work.segments * self.diet_classes}
