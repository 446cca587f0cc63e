"""From a batch of packed rows to a loss: any weighted sum of the objectives. Axes: B rows, L
tokens, S segments, M masked, V visible tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmv_jax import objectives
from mmv_jax.models.decoders import MaeDecoder
from mmv_jax.models.heads import ProjectionHead
from mmv_jax.models.kinds import PATCH
from mmv_jax.ops.pool import gather_tokens, segment_mean
from mmv_jax.ops.spread import over_rows

Batch = Mapping[str, Array]
Params = dict[str, Any]
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
        loss = objectives.masked_reconstruction(predicted, patches, hidden.astype(jnp.float32))
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
            terms["dino"] = objectives.distillation(
                logits, targets, pairs_of_views(study, is_global)
            )
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
                return objectives.masked_cross_entropy(
                    score, tokens, objectives.Balanced(scores, of_line, of_prototype)
                )

            each = over_rows(cross_entropy, (tokens, scores, of_line), (prototypes, of_prototype))
            terms["ibot"] = objectives.weighted_mean(each, _one_a_crop(index, prefix[3]))
        if self.koleo > 0:
            lines = jnp.where(is_global, study, -1).reshape(-1)
            terms["koleo"] = objectives.koleo(cls_learnt.reshape(-1, cls_learnt.shape[-1]), lines)
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
    ) -> objectives.Balanced:
        module = getattr(self, head)
        logits = module.scores(*module.apply({"params": teacher[head]}, tokens))
        return objectives.sinkhorn_knopp(logits, there.astype(jnp.float32), temperature)


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


def pairs_of_views(study: Int[Array, "B S"], is_global: Bool[Array, "B S"]) -> Bool[Array, "B S S"]:
    """Which student view (middle axis) learns from which teacher view (last axis): another, global
    view of the same study.
    """
    same = (study[:, :, None] == study[:, None, :]) & (study >= 0)[:, :, None]
    return same & is_global[:, None, :] & ~jnp.eye(study.shape[1], dtype=bool)[None]


def _inputs(batch: Batch) -> tuple[Array, ...]:
    return batch["patches"], batch["coords_mm"], batch["kinds"], batch["segment_ids"]


def _take(x: Array, index: Int[Array, "B N"]) -> Array:
    """x[b, index[b, n]], and 0 where the index is -1."""
    there = (index >= 0).reshape(*index.shape, *[1] * (x.ndim - 2))
    taken = jnp.take_along_axis(
        x, jnp.maximum(index, 0).reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1
    )
    return jnp.where(there, taken, jnp.zeros((), x.dtype))


def _marked(index: Int[Array, "B N"], length: int) -> Bool[Array, "B length"]:
    """True at the positions that `index` names; -1 names none."""
    rows = jnp.arange(index.shape[0])[:, None]
    return (
        jnp.zeros((index.shape[0], length), bool)
        .at[rows, jnp.where(index >= 0, index, length)]
        .set(True, mode="drop")
    )


def _per_segment(tokens: Array, ids: Array, where: Array, batch: Batch) -> Float[Array, "N D"]:
    means = segment_mean(tokens, ids, batch["study"].shape[1], where=where)
    return jax.lax.stop_gradient(means).reshape(-1, means.shape[-1])


def _one_a_crop(index: Int[Array, "B M"], ids: Int[Array, "B T"]) -> Float[Array, "B M"]:
    """1 / (number of masked tokens of the token's crop); 0 at padding."""
    own = _take(ids, index)
    same = (own[:, :, None] == own[:, None, :]) & (index >= 0)[:, None, :]
    return jnp.where(index >= 0, 1 / jnp.maximum(same.sum(axis=-1), 1), 0.0)


def _use_of_prototypes(
    targets: Float[Array, "B S K"], there: Bool[Array, "B S"]
) -> dict[str, Array]:
    """Mean entropy of the teacher's targets (nats), and the share of prototypes that are somebody's
    first choice, of those that could be.
    """
    lines = there.sum()
    entropy = -(targets * jnp.log(targets + 1e-12)).sum(axis=-1)
    chosen = (
        jnp.zeros(targets.shape[-1] + 1, bool)
        .at[jnp.where(there, targets.argmax(axis=-1), targets.shape[-1])]
        .set(True)[:-1]
    )
    return {
        "teacher_entropy": jnp.where(there, entropy, 0.0).sum() / jnp.maximum(lines, 1),
        "prototypes_used": chosen.sum() / jnp.maximum(jnp.minimum(lines, targets.shape[-1]), 1),
    }
