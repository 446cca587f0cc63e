"""Masked reconstruction (MAE): a small decoder predicts the patches that the encoder did not see.

Axes: N patches, P voxels of one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmv_jax.errors import UserError
from mmv_jax.models.backbone import check_heads
from mmv_jax.models.cost import Flops, backward_bytes, block_flops, stack_bytes
from mmv_jax.models.kinds import PATCH
from mmv_jax.models.mae_decoder import MaeDecoder
from mmv_jax.models.remat import recomputed_blocks
from mmv_jax.objectives.batch import Params, marked, take
from mmv_jax.objectives.targets import weighted_mean
from mmv_jax.objectives.term import CLEAN, VISIBLE, Seen, Term, Work
from mmv_jax.ops.parts import in_parts


def masked_reconstruction(
    predicted: Float[Array, "*N P"],
    patches: Float[Array, "*N P"],
    weights: Float[Array, "*N"],
    epsilon: float = 1e-3,
) -> Float[Array, ""]:
    """Mean squared error of hidden patches, each normalised by its own mean and variance.

    Args:
      predicted: the decoder's output.
      patches: the true voxels, in about [-1, 1].
      weights: of each patch; 0 if it was visible or is no patch.
      epsilon: added to the variance. Without it, the noise of a flat patch (air, the inside of a
        shape) would be scaled up to unit variance. He et al. use 1e-6 on photographs; the noise of
        a CT at our scale has a variance of about 1e-3.

    Source: He et al., Masked Autoencoders Are Scalable Vision Learners (arXiv 2111.06377), section
      3 and table 1d.
    """
    patches = patches.astype(jnp.float32)
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True)
    target = (patches - mean) * jax.lax.rsqrt(variance + epsilon)
    error = jnp.square(predicted.astype(jnp.float32) - target).mean(axis=-1)
    return weighted_mean(error, weights)


@dataclass(frozen=True)
class DecoderTerm(Term):
    """A term whose decoder predicts the patches that the student's visible pass left out.

    `mae` and `latent` share these options.

    Fields:
      decoder_width, decoder_depth, decoder_heads: of the decoder; the defaults are those of He et
        al. (arXiv 2111.06377), table 1.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self):
        check_heads("objective.decoder_", self.decoder_width, self.decoder_heads)

    @property
    def outputs(self) -> int:
        """Numbers that the decoder predicts for each patch."""
        return math.prod(self.encoder.patch)

    def decoded(self, work: Work) -> int:
        """Tokens of a row that the decoder processes."""
        return work.prefix

    @property
    def decoder(self) -> MaeDecoder:
        # The decoder takes the encoder's settings, as far as its backbone has such fields.
        shared = {
            name: getattr(self.encoder, name)
            for name in ("scale_mm", "attention", "remat", "dtype")
            if hasattr(self.encoder, name)
        }
        return MaeDecoder(
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            patch_voxels=self.outputs,
            **shared,
        )

    def decode(
        self, own: Params, seen: Seen, index: Int[Array, "B V"], places: Sequence[Array]
    ) -> Float[Array, "B F P"]:
        """Predictions for every patch, by the decoder's parameters `own`.

        Args:
          index: the place of each visible token in the decoded rows.
          places: their coords_mm, kinds and segment_ids.
        """
        rows = (seen.tokens[VISIBLE], index, *places)
        return in_parts(
            lambda part, rows: self.decoder.apply({"params": own}, *rows), seen.parts, rows
        )

    def init(self, key: Array, seen: Seen) -> Params:
        _, *places = seen.prefix
        index = seen.batch["visible_index"]
        return self.decoder.init(key, seen.tokens[VISIBLE], index, *places)["params"]

    def flops(self, work: Work) -> dict[str, Flops]:
        decoder, width = self.decoder, self.decoder_width
        entry, exit_ = 2 * self.encoder.width * width, 2 * width * decoder.patch_voxels
        blocks = self.decoder_depth * block_flops(width, "gelu")
        tokens = work.rows * self.decoded(work)
        forward = work.rows * work.visible * entry + tokens * (blocks + exit_)
        # Where only a share of the tokens is decoded, each segment is shorter by that share.
        squares = work.rows * work.prefix_squares * (self.decoded(work) / work.prefix) ** 2
        recomputed = recomputed_blocks(decoder.remat, self.decoder_depth)
        found = Flops(
            forward=forward,
            backward=2 * forward,
            again=tokens * recomputed * block_flops(width, "gelu"),
            attention=round(12 * self.decoder_depth * width * squares),
            attention_again=round(4 * recomputed * width * squares),
        )
        return {self.module.replace("_", " "): found.twice() if work.parts > 1 else found}

    def stored_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        a_token = stack_bytes(self.decoder, "gelu", depth=self.decoder_depth, remat=remat)
        name = self.module.replace("_", " ")
        return {f"{name}'s blocks": work.rows // work.parts * self.decoded(work) * a_token}

    def working_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        a_token = backward_bytes(self.decoder, "gelu", remat)
        return {"a block's backward": work.rows // work.parts * self.decoded(work) * a_token}


@dataclass(frozen=True)
class MaeTerm(DecoderTerm):
    """`masked_reconstruction` of the patches of global crops that the student's visible pass left
    out.

    Fields:
      clean_targets: whether the targets are the patches before gamma, blur and noise.
      decode_share: the share of hidden patches that is decoded, drawn anew in each step. A share
        below 1 makes a deeper decoder affordable (arXiv 2401.14391, section 3).
    """

    clean_targets: bool = False
    decode_share: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({VISIBLE})
    module: ClassVar[str] = "decoder"
    told_as: ClassVar[str] = "reconstruction"

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.decode_share <= 1:
            raise UserError(
                f"config.objective.decode_share is {self.decode_share!r}, but is a share of the"
                " hidden patches. Set a number above 0 and at most 1."
            )

    @classmethod
    def more_needs(cls, options: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({CLEAN} if options.get("clean_targets") else ())

    def decoded(self, work: Work) -> int:
        return min(work.prefix, work.visible + self._hidden(work.prefix, work.visible))

    def _hidden(self, prefix: int, visible: int) -> int:
        if self.decode_share == 1:
            return prefix - visible
        # Counted from the row's length, not its content: a compiled step has fixed shapes.
        return math.ceil(self.decode_share * max(prefix - visible, 1))

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        patches, *places = seen.prefix
        target = seen.batch["clean_patches"] if self.clean_targets else patches
        index = seen.batch["visible_index"]
        hidden = (places[1] == PATCH) & ~marked(index, patches.shape[1])
        # Rows are shortened to visible and chosen tokens; indices then count in the shorter rows.
        if self.decode_share < 1:
            count = self._hidden(patches.shape[1], index.shape[1])
            chosen = draw_hidden(seen.key, hidden, count)
            order, index = place_among(index, chosen, patches.shape[1])
            target, *places = (take(x, order) for x in (target, *places))
            hidden = (places[1] == PATCH) & ~marked(index, order.shape[1])
        predicted = self.decode(student[self.module], seen, index, places)
        return masked_reconstruction(predicted, target, hidden.astype(jnp.float32)), {}


def draw_hidden(key: Array, hidden: Bool[Array, "B F"], count: int) -> Int[Array, "B M"]:
    """Places of `count` hidden tokens of each row, drawn uniformly; -1 where there are fewer."""
    # The largest of independent uniform draws are a sample without replacement;
    # -1 ranks behind all.
    draws = jnp.where(hidden, jax.random.uniform(key, hidden.shape), -1.0)
    best, index = jax.lax.top_k(draws, count)
    return jnp.where(best >= 0, index, -1)


def place_among(
    visible: Int[Array, "B V"], chosen: Int[Array, "B M"], length: int
) -> tuple[Int[Array, "B N"], Int[Array, "B V"]]:
    """Merged places of visible and chosen tokens, and the visible tokens' indices among them.

    Returns:
      The merged places in ascending order, so that segments stay contiguous, with -1 for none at
      the
      end. Then the index of each visible token among these; -1 for padding.
    """
    both = jnp.concatenate([visible, chosen], axis=1)
    # Absent places (-1) become `length`, so that they sort behind all others.
    order = jnp.sort(jnp.where(both < 0, length, both), axis=1)
    # Every visible place is in `order` once, so the search finds exactly it.
    among = jax.vmap(jnp.searchsorted)(order, visible)
    return jnp.where(order < length, order, -1), jnp.where(visible < 0, -1, among)
