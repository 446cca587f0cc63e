"""The objective of pretraining: any weighted sum of the terms in `objectives.table`.

Axes: B rows, L tokens of a row, F of its prefix, V visible ones, S segments, N crops, D width.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.errors import UserError
from mmv_jax.models.encoder import Encoder
from mmv_jax.models.kinds import PATCH
from mmv_jax.objectives.batch import Batch, Params, inputs, per_segment, take
from mmv_jax.objectives.table import make_terms, weights_of
from mmv_jax.objectives.term import MASKED, STUDENT, TEACHER, VISIBLE, Seen, Term
from mmv_jax.ops.parts import Part, in_parts
from mmv_jax.ops.pool import gather_tokens
from mmv_jax.train.learning import Learning

LOOKED_AT = 512  # features of a step that leave the device for the health figures
# The key that each of these modules draws its parameters from, fixed so that a seed always gives
# the same weights. Parameters of other terms have a key derived from their name.
KEYS = {"encoder": 0, "dino_head": 1, "ibot_head": 2, "decoder": 3}


@dataclass(frozen=True)
class Objective:
    """The loss of a run, with its encoder and terms.

    Attributes:
      temperature: the teacher's, as a function of the step.
      prefix: the number of first tokens of a row that hold its global crops.
      terms, weights: by the term's name. A step runs only the encoder passes that the terms need.
      parts: in which the rows of a step pass through the encoder, one after the other. The terms
        see the tokens of all of them, so the loss is the same for any number.
      learning: which parameters of the student learn.
      most_visible: tokens of the longest segment of the visible pass, if they are known.
    """

    encoder: nn.Module
    temperature: Callable[[Any], Float[Array, ""]]
    prefix: int
    terms: Mapping[str, Term]
    weights: Mapping[str, float]
    parts: int = 1
    learning: Learning = Learning()
    most_visible: int | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The needs of all terms together, by the names in `objectives.term`."""
        return frozenset().union(*(term.needs for term in self.terms.values()))

    def init(self, key: Array, batch: Batch) -> tuple[Params, Params]:
        """Parameters of the student and of the teacher; the teacher starts as a copy."""
        keys = jax.random.split(key, 4)

        def key_of(module: str) -> Array:
            return keys[KEYS[module]] if module in KEYS else _named(key, module)

        student = {"encoder": self.encoder.init(key_of("encoder"), *inputs(batch))["params"]}
        # Modules need shapes alone to make their parameters, so no encoder pass runs here.
        seen, followed = self._nothing_seen(batch, key), {"encoder"}
        for term in self.terms.values():
            if term.module:
                student[term.module] = term.init(key_of(term.module), seen)
                followed |= {term.module} if term.follows else set()
        # Copies: the step donates its state, and one buffer must not be donated twice.
        return student, {name: jax.tree.map(jnp.copy, student[name]) for name in sorted(followed)}

    def loss(
        self, student: Params, teacher: Params, batch: Batch, key: Array, step: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The weighted sum of the terms, and figures for the log.

        Returns:
          The loss. Then each term by name, their further numbers, and `features` [N, D] of the
          first global
          crops for the health figures.
        """
        seen = self._encode(
            student, teacher, batch=batch, key=key, temperature=self.temperature(step)
        )
        out: dict[str, Array] = {}
        total = jnp.zeros(())
        for name, term in self.terms.items():
            # The key is derived from the term's name,
            # so another term in the config does not change it.
            own = replace(seen, key=_named(key, name))
            out[name], more = term.loss(student, teacher, own)
            total += self.weights[name] * out[name]
            out |= more
        out["features"] = self._features(seen)[:LOOKED_AT]
        return total, out

    def _encode(
        self, student: Params, teacher: Params, batch: Batch, key: Array, temperature: Array
    ) -> Seen:
        """Run the passes of the encoder that the terms need."""
        seen = self._nothing_seen(batch, key, temperature)
        tokens, blocks, cls = {}, {}, {}
        # The two passes of the student draw different stochastic depths.
        key_visible, key_whole = jax.random.split(key)
        if VISIBLE in self.needs:
            shown = tuple(take(x, batch["visible_index"]) for x in seen.prefix)
            tokens[VISIBLE] = self._pass(
                student, shown, dropout=key_visible, longest=self.most_visible
            )
        if TEACHER in self.needs:
            tokens[TEACHER], blocks[TEACHER] = self._taught(teacher, seen.prefix)
            # The teacher reads the prefix alone, so a local crop has no CLS token here:
            # -1 gives zeros.
            index = jnp.where(seen.is_global, batch["cls_index"], -1)
            cls[TEACHER] = gather_tokens(tokens[TEACHER], index)
        if STUDENT in self.needs:
            tokens[STUDENT] = self._pass(
                student, inputs(batch), masked=self._masked(batch), dropout=key_whole
            )
            index = jnp.where(batch["study"] >= 0, batch["cls_index"], -1)
            cls[STUDENT] = gather_tokens(tokens[STUDENT], index)
        return replace(seen, tokens=tokens, blocks=blocks, cls=cls)

    def _pass(
        self,
        student: Params,
        rows: tuple[Array, ...],
        *,
        masked: Array | None = None,
        dropout: Array,
        longest: int | None = None,
    ) -> Array:
        """The tokens of a pass of the student."""
        encoder = self.encoder
        if longest is not None and isinstance(encoder, Encoder):
            encoder = encoder.clone(longest=longest)

        def run(part: Part | None, given: tuple[tuple[Array, ...], Array | None]) -> Array:
            own, hidden = given
            key, more = dropout, {}
            if part is not None and isinstance(encoder, Encoder):
                more = {"part": part}
            elif part is not None:  # a backbone's own draws must differ between the parts
                key = jax.random.fold_in(dropout, part.index)
            return encoder.apply(
                {"params": student["encoder"]},
                *own,
                masked=hidden,
                train=True,
                rngs={"dropout": key},
                **more,
            )["tokens"]

        return in_parts(run, self.parts, (rows, masked))

    def _taught(self, teacher: Params, rows: tuple[Array, ...]) -> tuple[Array, Array]:
        """Tokens and blocks of the teacher's pass."""

        def run(part: Part | None, own: tuple[Array, ...]) -> tuple[Array, Array]:
            # Without `train` and `masked`: the teacher skips no block and sees every patch.
            out = self.encoder.apply({"params": teacher["encoder"]}, *own)
            # The rows come first, as `in_parts` joins them.
            return out["tokens"], out["blocks"].swapaxes(0, 1)

        tokens, blocks = in_parts(run, self.parts, rows)
        return tokens, blocks.swapaxes(0, 1)

    def _nothing_seen(self, batch: Batch, key: Array, temperature: Array | float = 0.0) -> Seen:
        """The rows before any pass: zeros in place of tokens, in the shapes that a term reads."""
        width, (rows, segments) = self.encoder.width, batch["study"].shape
        lengths = {TEACHER: self.prefix, STUDENT: batch["kinds"].shape[1]}
        if VISIBLE in self.needs:
            lengths[VISIBLE] = batch["visible_index"].shape[1]
        return Seen(
            batch=batch,
            prefix=self._prefix(batch),
            tokens={name: jnp.zeros((rows, n, width)) for name, n in lengths.items()},
            blocks={},
            cls={name: jnp.zeros((rows, segments, width)) for name in (TEACHER, STUDENT)},
            is_global=batch["is_global"] & (batch["study"] >= 0),
            temperature=jnp.asarray(temperature, jnp.float32),
            key=key,
            parts=self.parts,
        )

    def _masked(self, batch: Batch) -> Array | None:
        if MASKED not in self.needs:
            return None
        return jnp.zeros(batch["kinds"].shape, bool).at[:, : self.prefix].set(batch["masked"])

    def _prefix(self, batch: Batch) -> tuple[Array, ...]:
        """The encoder's inputs over the part of the rows that holds the global crops.

        A local crop that begins in this part is turned into padding.
        """
        patches, coords, kinds, ids = (x[:, : self.prefix] for x in inputs(batch))
        # Segment s is entry s - 1 of `is_global`; entry 0 of the padded table is padding.
        here = jnp.take_along_axis(jnp.pad(batch["is_global"], ((0, 0), (1, 0))), ids, axis=1)
        return patches, coords, jnp.where(here, kinds, 0), jnp.where(here, ids, 0)

    def _features(self, seen: Seen) -> Float[Array, "N D"]:
        """One row a global crop: the teacher's CLS token, else the student's.

        With only the visible pass, it is the mean visible patch.
        """
        if seen.cls:
            cls = seen.cls[TEACHER] if TEACHER in seen.cls else seen.cls[STUDENT]
            # Zeros mark segments that are no global crop; `Health.add` drops such rows.
            there = jnp.where(seen.is_global[..., None], jax.lax.stop_gradient(cls), 0.0)
            return there.reshape(-1, cls.shape[-1])
        kinds, ids = (take(x, seen.batch["visible_index"]) for x in seen.prefix[2:])
        return per_segment(seen.tokens[VISIBLE], ids, kinds == PATCH, seen.batch)


def _named(key: Array, name: str) -> Array:
    # CRC-32 and not `hash`, which Python salts anew in every process.
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def with_remat(objective: Objective, remat: bool | str, parts: int) -> Objective:
    """The same objective, computed with another policy and in another number of parts."""
    encoder = objective.encoder.clone(remat=remat)
    terms = {name: replace(term, encoder=encoder) for name, term in objective.terms.items()}
    return replace(objective, encoder=encoder, terms=terms, parts=parts)


def make_objective(
    encoder: nn.Module, temperature: Callable, prefix: int, parts: int = 1, **group: Any
) -> Objective:
    """Make the objective of a run.

    Args:
      parts: in which the rows of a step pass through the encoder.
      group: the config's group `objective`: weights of terms, and their options. A weight of 0
        leaves a term out, with its parameters.
    Raises:
      UserError: no term knows a key, no weight is above 0, or the parameters of two terms have one
        name.
    """
    terms = make_terms(encoder, group)
    if not terms:
        raise UserError(
            "config.objective has no loss term with a weight above 0. Set one, such as"
            " config.objective.mae=1.0."
        )
    modules = ["encoder", *(term.module for term in terms.values() if term.module)]
    if len(set(modules)) < len(modules):
        raise UserError(
            f"config.objective: two of the loss terms {', '.join(terms)} give their parameters the"
            " same name. Give `module` of your own term another name."
        )
    weights = weights_of(group)
    return Objective(encoder, temperature, prefix, terms=terms, weights=weights, parts=parts)
