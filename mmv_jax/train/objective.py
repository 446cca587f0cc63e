"""From a batch of packed rows to a loss: any weighted sum of the objectives. Axes: B rows, L
tokens, S segments, M masked, V visible tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmv_jax.models.kinds import PATCH
from mmv_jax.models.mae_decoder import MaeDecoder
from mmv_jax.models.projection import ProjectionHead
from mmv_jax.objectives.batch import Batch, Params, _inputs, _marked, _per_segment, _take
from mmv_jax.objectives.dino import _use_of_prototypes, distillation, pairs_of_views
from mmv_jax.objectives.ibot import _one_a_crop, masked_cross_entropy
from mmv_jax.objectives.koleo import koleo
from mmv_jax.objectives.mae import masked_reconstruction
from mmv_jax.objectives.targets import Balanced, sinkhorn_knopp, weighted_mean
from mmv_jax.ops.pool import gather_tokens
from mmv_jax.ops.spread import over_rows

LOOKED_AT = 512  # features of a step that leave the device for the health figures


@dataclass(frozen=True)
class Objective:
    """What a run minimises: modules, the weight of each term, and the teacher's temperature at a
    step.

    `mae` needs rows with `visible_index`; `ibot` needs `masked` and `masked_index`; `dino` needs
    more than one view of a study.
    """

    encoder: nn.Module
    decoder: nn.Module  # of masked reconstruction
    dino_head: nn.Module
    ibot_head: nn.Module
    temperature: Callable[[Any], Float[Array, ""]]
    dino: float
    ibot: float
    koleo: float
    mae: float
    prefix: int  # the first tokens of a row, which hold its global crops

    @property
    def distils(self) -> bool:
        return self.dino > 0 or self.ibot > 0 or self.koleo > 0

    def init(self, key: Array, batch: Batch) -> tuple[Params, Params]:
        """Parameters of the student and of the teacher, which starts as a copy."""
        keys = jax.random.split(key, 4)
        student = {"encoder": self.encoder.init(keys[0], *_inputs(batch))["params"]}
        width = jnp.zeros((1, self.encoder.width))
        if self.dino > 0:
            student["dino_head"] = self.dino_head.init(keys[1], width)["params"]
        if self.ibot > 0:
            student["ibot_head"] = self.ibot_head.init(keys[2], width)["params"]
        teacher = jax.tree.map(jnp.copy, student)
        if self.mae > 0:
            _, *places = self._prefix(batch)
            visible = jnp.zeros((*batch["visible_index"].shape, self.encoder.width))
            student["decoder"] = self.decoder.init(
                keys[3], visible, batch["visible_index"], *places
            )["params"]
        return student, teacher

    def loss(
        self, student: Params, teacher: Params, batch: Batch, key: Array, step: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The weighted sum, and what was seen on the way: each term, and `features` [N, D] of the
        first global crops for the health figures.
        """
        out: dict[str, Array] = {}
        total = jnp.zeros(())
        key_visible, key_views = jax.random.split(key)
        if self.mae > 0:
            out["mae"], out["features"] = self._reconstruct(student, batch, key_visible)
            total += self.mae * out["mae"]
        if self.distils:
            terms, seen = self._distil(student, teacher, batch, key_views, self.temperature(step))
            total += sum(getattr(self, name) * term for name, term in terms.items())
            out |= terms | seen
        out["features"] = out["features"][:LOOKED_AT]
        return total, out

    def _reconstruct(
        self, student: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, "N D"]]:
        index, whole = batch["visible_index"], self._prefix(batch)
        visible = tuple(_take(x, index) for x in whole)
        seen = self.encoder.apply(
            {"params": student["encoder"]}, *visible, train=True, rngs={"dropout": key}
        )["tokens"]
        patches, *places = whole
        predicted = self.decoder.apply({"params": student["decoder"]}, seen, index, *places)
        hidden = (places[1] == PATCH) & ~_marked(index, self.prefix)
        loss = masked_reconstruction(predicted, patches, hidden.astype(jnp.float32))
        return loss, _per_segment(seen, visible[3], visible[2] == PATCH, batch)

    def _distil(
        self,
        student: Params,
        teacher: Params,
        batch: Batch,
        key: Array,
        temperature: Float[Array, ""],
    ) -> tuple[dict, dict]:
        study, is_global = batch["study"], batch["is_global"] & (batch["study"] >= 0)
        encode = self.encoder.apply
        prefix = self._prefix(batch)
        taught = encode({"params": teacher["encoder"]}, *prefix)["tokens"]
        masked = (
            jnp.zeros(batch["segment_ids"].shape, bool).at[:, : self.prefix].set(batch["masked"])
            if self.ibot > 0
            else None
        )
        learnt = encode(
            {"params": student["encoder"]},
            *_inputs(batch),
            masked=masked,
            train=True,
            rngs={"dropout": key},
        )["tokens"]
        cls_taught = gather_tokens(taught, jnp.where(is_global, batch["cls_index"], -1))
        cls_learnt = gather_tokens(learnt, jnp.where(study >= 0, batch["cls_index"], -1))
        terms, seen = {}, {"features": cls_taught.reshape(-1, cls_taught.shape[-1])}
        if self.dino > 0:
            targets = self._targets(
                "dino_head", teacher, cls_taught, is_global, temperature
            ).targets()
            logits = self.dino_head.scores(
                *self.dino_head.apply({"params": student["dino_head"]}, cls_learnt)
            )
            terms["dino"] = distillation(logits, targets, pairs_of_views(study, is_global))
            seen |= _use_of_prototypes(targets, is_global)
        if self.ibot > 0:
            index = batch["masked_index"]
            scores, of_line, of_prototype = self._targets(
                "ibot_head", teacher, gather_tokens(taught, index), index >= 0, temperature
            )
            tokens, prototypes = self.ibot_head.apply(
                {"params": student["ibot_head"]}, gather_tokens(learnt, index)
            )

            def cross_entropy(tokens, scores, of_line, prototypes, of_prototype):
                score = partial(self.ibot_head.scores, prototypes=prototypes)
                return masked_cross_entropy(score, tokens, Balanced(scores, of_line, of_prototype))

            each = over_rows(cross_entropy, (tokens, scores, of_line), (prototypes, of_prototype))
            terms["ibot"] = weighted_mean(each, _one_a_crop(index, prefix[3]))
        if self.koleo > 0:
            lines = jnp.where(is_global, study, -1).reshape(-1)
            terms["koleo"] = koleo(cls_learnt.reshape(-1, cls_learnt.shape[-1]), lines)
        return terms, seen

    def _prefix(self, batch: Batch) -> tuple[Array, ...]:
        """The encoder's inputs over the part of the rows that holds the global crops; a local crop
        that begins in it is padding there.
        """
        patches, coords, kinds, ids = (x[:, : self.prefix] for x in _inputs(batch))
        # Segment s stands in line s - 1 of the table; line 0 of the padded table is padding's.
        here = jnp.take_along_axis(jnp.pad(batch["is_global"], ((0, 0), (1, 0))), ids, axis=1)
        return patches, coords, jnp.where(here, kinds, 0), jnp.where(here, ids, 0)

    def _targets(
        self,
        head: str,
        teacher: Params,
        tokens: Array,
        there: Bool[Array, "B N"],
        temperature: Array,
    ) -> Balanced:
        module = getattr(self, head)
        logits = module.scores(*module.apply({"params": teacher[head]}, tokens))
        return sinkhorn_knopp(logits, there.astype(jnp.float32), temperature)


def make_objective(
    encoder: nn.Module,
    temperature: Callable,
    prefix: int,
    *,
    dino: float,
    ibot: float,
    koleo: float,
    mae: float,
    prototypes: int,
    hidden: int,
    bottleneck: int,
    decoder_width: int,
    decoder_depth: int,
    decoder_heads: int,
) -> Objective:
    """The objective of a run. A weight of 0 leaves a term out, with its head."""
    voxels = encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
    shared = {"dtype": encoder.dtype}
    head = ProjectionHead(prototypes=prototypes, hidden=hidden, bottleneck=bottleneck, **shared)
    shared |= {name: getattr(encoder, name) for name in ("scale_mm", "attention", "remat")}
    decoder = MaeDecoder(
        width=decoder_width, depth=decoder_depth, heads=decoder_heads, patch_voxels=voxels, **shared
    )
    return Objective(
        encoder,
        decoder,
        head,
        head,
        temperature,
        dino=dino,
        ibot=ibot,
        koleo=koleo,
        mae=mae,
        prefix=prefix,
    )
