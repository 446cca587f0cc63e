"""Distillation from features of teachers that were computed before.

A token, masked or not, predicts each teacher's feature at its place. CLS predicts the teacher's
feature of the study.

Axes: B rows, L tokens, S segments, K teachers, W features of one, D width.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmv_jax.errors import UserError
from mmv_jax.models.cost import F32, Flops
from mmv_jax.models.dense import KERNEL_INIT, flat
from mmv_jax.objectives.batch import Params
from mmv_jax.objectives.targets import weighted_mean
from mmv_jax.objectives.term import MASKED, STUDENT, TARGETS, Seen, Term, Work


def cosine_distance(
    predicted: Float[Array, "*N W"], target: Float[Array, "*N W"], there: Bool[Array, "*N"]
) -> Float[Array, ""]:
    """1 - cosine, the mean over the places `there`, in float32; 0 where there is no place.

    Source: Wei et al., MVP (arXiv 2203.05175), equation 2; Fang et al., EVA (arXiv 2211.07636).
    """
    x, y = predicted.astype(jnp.float32), target.astype(jnp.float32)
    # Under the root, so that the gradient at exactly 0 is finite.
    lengths = jax.lax.rsqrt((jnp.square(x).sum(-1) + 1e-12) * (jnp.square(y).sum(-1) + 1e-12))
    return weighted_mean(1 - (x * y).sum(-1) * lengths, there.astype(jnp.float32))


@dataclass(frozen=True)
class DistilTerm(Term):
    """`cosine_distance` of tokens and CLS to the features of `config.data.teachers`.

    The loss is the mean over teachers.

    Fields:
      distil_widths: features a token of each teacher, in the order of `config.data.teachers`. Each
        teacher's folder names it in `card.json`.
      distil_cls: the weight of CLS relative to that of the tokens, which is 1.
    """

    distil_widths: tuple[int, ...] = ()
    distil_cls: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({STUDENT, MASKED, TARGETS})
    module: ClassVar[str] = "distil_head"
    told_as: ClassVar[str] = "distillation"

    def __post_init__(self):
        if not self.distil_widths or not all(width > 0 for width in self.distil_widths):
            raise UserError(
                "config.objective.distil needs config.data.teachers, and their widths in"
                " config.objective.distil_widths, such as (256,): `mmv teach` prints them."
            )

    @property
    def head(self) -> nn.Module:
        """One linear map to the features of all teachers together."""
        return nn.Dense(sum(self.distil_widths), kernel_init=KERNEL_INIT, dtype=self.encoder.dtype)

    def init(self, key: Array, seen: Seen) -> Params:
        keys, x = jax.random.split(key), jnp.zeros((1, self.encoder.width))
        return {
            name: self.head.init(own, x)["params"] for name, own in zip(("tokens", "cls"), keys)
        }

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        own, batch = student[self.module], seen.batch

        def predict(name: str, x: Array) -> Array:
            return flat(partial(self.head.apply, {"params": own[name]}), x)

        of_tokens = predict("tokens", seen.tokens[STUDENT])
        of_cls = predict("cls", seen.cls[STUDENT])
        # Studies without features of a teacher have a vector of zeros.
        total, at = jnp.zeros(()), 0
        told: dict[str, Array] = {}
        for k, width in enumerate(self.distil_widths):
            # The teachers' features lie side by side, in the order of `distil_widths`.
            part = slice(at, at + width)
            there = batch["targets_there"][..., k]
            tokens = cosine_distance(of_tokens[..., part], batch["targets"][..., part], there)
            vectors = batch["target_cls"][..., part]
            known = (vectors != 0).any(-1) & (batch["study"] >= 0)
            cls = cosine_distance(of_cls[..., part], vectors, known)
            total += (tokens + self.distil_cls * cls) / len(self.distil_widths)
            told |= {f"distil_tokens_{k}": tokens, f"distil_cls_{k}": cls}
            at += width
        return total, told

    def flops(self, work: Work) -> dict[str, Flops]:
        tokens = work.rows * (work.length + work.segments)
        forward = 2 * tokens * self.encoder.width * sum(self.distil_widths)
        return {"distil head": Flops(forward=forward, backward=2 * forward)}

    def stored_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        tokens = work.rows * (work.length + work.segments)
        # Predictions and targets in float32.
        return {"distil predictions": 2 * F32 * tokens * sum(self.distil_widths)}
