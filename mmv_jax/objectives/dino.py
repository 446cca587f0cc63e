"""Self-distillation of CLS tokens (DINO).

The student's view of a study learns the teacher's targets of the study's other views.

Axes: B rows, S segments, T teacher segments, K prototypes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmv_jax.models.cost import F32, Flops
from mmv_jax.objectives.batch import Params
from mmv_jax.objectives.prototypes import PrototypeTerm
from mmv_jax.objectives.term import STUDENT, TEACHER, VIEWS, Seen, Work

# Arrays of scores [b, S, K] in memory at one time: the teacher's, the student's, the summed targets
# and a gradient. Counted in one program that the TPU compiler made, ViT-L on v5p
# (docs/performance.md, "Preflight").
SCORES = 4


def distillation(
    student_logits: Float[Array, "B S K"],
    targets: Float[Array, "B T K"],
    pairs: Bool[Array, "B S T"],
    temperature: float = 0.1,
    weights: Float[Array, "B S"] | None = None,
) -> Float[Array, ""]:
    """The DINO loss: cross-entropy of student views with teacher targets, the mean over pairs.

    Args:
      student_logits: scores of the CLS tokens of all views.
      targets: distributions over prototypes of the global views, no gradient.
      pairs: which student view learns from which teacher view: the same study, another view.
      temperature: the student's.
      weights: of the student's views; the sum is divided by the number of pairs all the same.

    Source: Caron et al., DINO (arXiv 2104.14294), equation 3.
    """
    log_p = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature, axis=-1)
    counted = pairs.astype(jnp.float32)
    weighted = counted if weights is None else counted * weights[..., None]
    # Targets are summed a student view first: [B, S, T] x [B, T, K], never [B, S, T, K].
    summed = jnp.einsum("bst,btk->bsk", weighted, jax.lax.stop_gradient(targets))
    return -(summed * log_p).sum() / jnp.maximum(counted.sum(), 1.0)


def pairs_of_views(study: Int[Array, "B S"], is_global: Bool[Array, "B S"]) -> Bool[Array, "B S S"]:
    """Pairs of a student view (middle axis) and a teacher view (last axis) that it learns from.

    The teacher view is another, global view of the same study.
    """
    same = (study[:, :, None] == study[:, None, :]) & (study >= 0)[:, :, None]
    return same & is_global[:, None, :] & ~jnp.eye(study.shape[1], dtype=bool)[None]


def use_of_prototypes(
    targets: Float[Array, "B S K"], there: Bool[Array, "B S"]
) -> dict[str, Array]:
    """Two health figures: the entropy of the teacher's targets, and the share of prototypes in use.

    Returns:
      `teacher_entropy`: the mean over global crops, in nats. `prototypes_used`: prototypes that are
      the
      first choice of a crop, divided by the most that could be.
    """
    lines = there.sum()
    entropy = -(targets * jnp.log(targets + 1e-12)).sum(axis=-1)
    # One extra place takes the choices of segments that are no global crop; it is cut off.
    chosen = (
        jnp.zeros(targets.shape[-1] + 1, bool)
        .at[jnp.where(there, targets.argmax(axis=-1), targets.shape[-1])]
        .set(True)[:-1]
    )
    return {
        "teacher_entropy": jnp.where(there, entropy, 0.0).sum() / jnp.maximum(lines, 1),
        "prototypes_used": chosen.sum() / jnp.maximum(jnp.minimum(lines, targets.shape[-1]), 1),
    }


@dataclass(frozen=True)
class DinoTerm(PrototypeTerm):
    """`distillation` between the views of a study.

    Fields:
      dino_local: weight of the student's local views; 0.5 at the end of DINOv3's training.
    """

    dino_local: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({TEACHER, STUDENT, VIEWS})
    module: ClassVar[str] = "dino_head"

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        balanced = self.targets(teacher, seen.cls[TEACHER], seen.is_global, seen.temperature)
        targets = balanced.targets()
        logits = self.head.scores(
            *self.head.apply({"params": student[self.module]}, seen.cls[STUDENT])
        )
        pairs = pairs_of_views(seen.batch["study"], seen.is_global)
        weights = None
        if self.dino_local != 1:
            weights = jnp.where(seen.is_global, 1.0, self.dino_local)
        loss = distillation(logits, targets, pairs, weights=weights)
        return loss, use_of_prototypes(targets, seen.is_global)

    def flops(self, work: Work) -> dict[str, Flops]:
        # Targets are summed for each student view; they need no gradient.
        pairs = 2 * work.rows * work.segments**2 * self.prototypes
        return {
            "dino head": self.head_flops(work.rows * work.segments),
            "dino loss": Flops(forward=pairs),
        }

    def stored_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        return {"dino scores": SCORES * F32 * work.rows * work.segments * self.prototypes}

    @classmethod
    def verdict(cls, metrics: Mapping[str, float | int], options: Mapping[str, Any]) -> list[str]:
        """A warning where the teacher has collapsed, or where the loss is still ln(prototypes).

        A student that has learnt nothing has that loss.
        """
        if "teacher_entropy" not in metrics:
            return []
        # The entropy of a uniform distribution over all prototypes.
        highest = math.log(options.get("prototypes", cls.prototypes))
        entropy, words = metrics["teacher_entropy"], []
        if entropy < 0.02 * highest and metrics["prototypes_used"] < 0.05:
            words.append(
                "COLLAPSE: the teacher puts every study on the same few prototypes"
                f" ({metrics['prototypes_used']:.1%} are used)."
            )
        if (
            entropy > 0.98 * highest
            and "dino" in metrics
            and abs(metrics["dino"] - highest) < 0.01 * highest
        ):
            words.append(
                f"The DINO loss stands at {metrics['dino']:.3f}, which is ln(prototypes) ="
                f" {highest:.3f}: the teacher gives every study the same target. Early in a run"
                " this passes; later it is a collapse."
            )
        return words
