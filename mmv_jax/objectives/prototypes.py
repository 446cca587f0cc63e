"""The shared part of terms that compare tokens with prototypes.

Student and teacher have a head each; the teacher's targets are balanced.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmv_jax.models.cost import Flops
from mmv_jax.models.projection import ProjectionHead
from mmv_jax.objectives.batch import Params
from mmv_jax.objectives.targets import Balanced, sinkhorn_knopp
from mmv_jax.objectives.term import Seen, Term


@dataclass(frozen=True)
class PrototypeTerm(Term):
    """A term with a projection head of its own; `dino` and `ibot` share these options.

    Fields:
      prototypes, hidden, bottleneck: of the head; the defaults are those of DINO (arXiv
        2104.14294), appendix C.
      prototype_std: of the prototypes at the start. The shorter they are, the faster they turn.
    """

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    prototype_std: float = 1.0
    follows: ClassVar[bool] = True

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Prototypes, hidden and bottleneck of the term's own head."""
        return self.prototypes, self.hidden, self.bottleneck

    @property
    def head(self) -> ProjectionHead:
        prototypes, hidden, bottleneck = self.sizes
        return ProjectionHead(
            prototypes=prototypes,
            hidden=hidden,
            bottleneck=bottleneck,
            dtype=self.encoder.dtype,
            prototype_std=self.prototype_std,
        )

    def init(self, key: Array, seen: Seen) -> Params:
        return self.head.init(key, jnp.zeros((1, self.encoder.width)))["params"]

    def targets(
        self,
        teacher: Params,
        tokens: Float[Array, "B N D"],
        there: Bool[Array, "B N"],
        temperature: Array,
    ) -> Balanced:
        """The teacher's balanced targets of the tokens that are `there`."""
        logits = self.head.scores(*self.head.apply({"params": teacher[self.module]}, tokens))
        return sinkhorn_knopp(logits, there.astype(jnp.float32), temperature)

    def head_flops(self, tokens: int) -> Flops:
        """FLOPs of the heads of student and teacher together."""
        prototypes, hidden, bottleneck = self.sizes
        layers = self.encoder.width * hidden + hidden**2 + hidden * bottleneck
        layers += bottleneck * prototypes
        forward = 2 * tokens * layers
        # Forward: student and teacher. Backward: the student alone, at twice its forward cost.
        return Flops(2 * forward, 2 * forward)
