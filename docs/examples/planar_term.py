"""Predicts from a global crop's CLS token whether its study is planar."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import optax

from mmv_jax.models.cost import F32, Flops
from mmv_jax.objectives.table import TERMS
from mmv_jax.objectives.targets import weighted_mean
from mmv_jax.objectives.term import STUDENT, Term


@dataclass(frozen=True)
class PlanarTerm(Term):
    planar_hidden: int = 8
    needs: ClassVar[frozenset[str]] = frozenset({STUDENT})
    module: ClassVar[str] = "planar_head"

    @property
    def head(self):
        return nn.Sequential([nn.Dense(self.planar_hidden), nn.gelu, nn.Dense(1)])

    def init(self, key, seen):
        return self.head.init(key, seen.cls[STUDENT])["params"]

    def loss(self, student, teacher, seen):
        logits = self.head.apply({"params": student[self.module]}, seen.cls[STUDENT])[..., 0]
        truth = seen.batch["planar"].astype(jnp.float32)
        each = optax.sigmoid_binary_cross_entropy(logits, truth)
        there = seen.is_global.astype(jnp.float32)
        right = weighted_mean(((logits > 0) == (truth > 0)).astype(jnp.float32), there)
        return weighted_mean(each, there), {"planar_accuracy": right}

    def flops(self, work):
        layers = self.encoder.width * self.planar_hidden + self.planar_hidden
        forward = 2 * work.rows * work.segments * layers
        return {"planar head": Flops(forward=forward, backward=2 * forward)}

    def stored_bytes(self, work, remat):
        return {"planar head": F32 * work.rows * work.segments * self.planar_hidden}


TERMS.register("planar", PlanarTerm)
