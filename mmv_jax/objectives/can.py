"""Contrastive learning on masked views (CAN).

Features of two masked crops of one study are drawn together, those of different studies apart. No
teacher and no full rows are needed.

Axes: B rows, S segments, N = B S crops, D width, E width of the compared features.
"""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.models.cost import F32, Flops
from mmv_jax.models.dense import KERNEL_INIT
from mmv_jax.models.kinds import CLS
from mmv_jax.objectives.batch import Params, take
from mmv_jax.objectives.targets import weighted_mean
from mmv_jax.objectives.term import VIEWS, VISIBLE, Seen, Term, Work
from mmv_jax.ops.pool import segment_mean


def contrast(
    x: Float[Array, "N E"], study: Int[Array, "N"], temperature: float = 0.1
) -> Float[Array, ""]:
    """NT-Xent: the mean negative log probability of another crop of the same study.

    The probability is a softmax over all other crops. Crops whose study has no other crop are left
    out.

    Args:
      x: features, normalised here; float32 inside.
      study: of each crop; -1 is padding.

    Source: Chen et al., SimCLR (arXiv 2002.05709), equation 1.
    """
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)
    there = study >= 0
    # A crop is not compared with itself, nor with padding.
    other = ~jnp.eye(len(x), dtype=bool) & there[None]
    same = other & (study[:, None] == study[None]) & there[:, None]
    # -1e9 rather than -inf: a crop without any other crop would give NaN.
    logits = jnp.where(other, x @ x.T / temperature, -1e9)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    count = same.sum(axis=-1)
    each = -jnp.where(same, log_p, 0.0).sum(axis=-1) / jnp.maximum(count, 1)
    return weighted_mean(each, (count > 0).astype(jnp.float32))


class Projector(nn.Module):
    """An MLP with two hidden layers, applied before features are compared."""

    hidden: int
    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
        for name in ("first", "second"):
            x = nn.Dense(self.hidden, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name)(x)
            x = nn.gelu(nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm")(x))
        return nn.Dense(self.width, kernel_init=KERNEL_INIT, dtype=self.dtype, name="last")(x)


@dataclass(frozen=True)
class CanTerm(Term):
    """`contrast` between the CLS tokens of the masked global crops.

    It needs two global views a study. Together with `mae`, whose visible pass it shares, it is CAN
    without the noise prediction.

    Fields:
      can_hidden, can_width: of the projector.
      can_temperature: of the contrast.

    Source: Mishra et al., CAN (arXiv 2210.16870), section 3.
    """

    can_hidden: int = 1024
    can_width: int = 128
    can_temperature: float = 0.1
    needs: ClassVar[frozenset[str]] = frozenset({VISIBLE, VIEWS})
    module: ClassVar[str] = "can_head"

    @property
    def head(self) -> Projector:
        return Projector(self.can_hidden, self.can_width, self.encoder.dtype)

    def init(self, key: Array, seen: Seen) -> Params:
        return self.head.init(key, jnp.zeros((1, self.encoder.width)))["params"]

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        batch = seen.batch
        kinds, ids = (take(x, batch["visible_index"]) for x in seen.prefix[2:])
        cls = segment_mean(seen.tokens[VISIBLE], ids, batch["study"].shape[1], where=kinds == CLS)
        cls = cls.reshape(-1, cls.shape[-1])
        study = jnp.where(seen.is_global, batch["study"], -1).reshape(-1)
        features = self.head.apply({"params": student[self.module]}, cls)
        return contrast(features, study, self.can_temperature), {}

    def flops(self, work: Work) -> dict[str, Flops]:
        crops, hidden = work.rows * work.segments, self.can_hidden
        # The projector's three matrices; the scores of all pairs are `crops * can_width` a crop.
        layers = self.encoder.width * hidden + hidden**2 + hidden * self.can_width
        forward = 2 * crops * (layers + crops * self.can_width)
        pooled = 2 * work.rows * work.segments * work.visible * self.encoder.width
        return {"can head": Flops(forward=forward + pooled, backward=2 * forward + pooled)}

    def stored_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        crops = work.rows * work.segments
        return {"can scores": 2 * F32 * crops * (crops + 3 * self.can_hidden)}
