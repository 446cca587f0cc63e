"""Masked reconstruction (MAE): a small decoder predicts the patches that the encoder did not see.

Axes: N patches, P voxels of one.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.models.backbone import check_heads
from mmv_jax.models.cost import Flops, backward_bytes, block_bytes, block_flops
from mmv_jax.models.kinds import PATCH
from mmv_jax.models.mae_decoder import MaeDecoder
from mmv_jax.objectives.batch import Params, marked
from mmv_jax.objectives.targets import weighted_mean
from mmv_jax.objectives.term import VISIBLE, Seen, Term, Work


def masked_reconstruction(
    predicted: Float[Array, "*N P"],
    patches: Float[Array, "*N P"],
    weights: Float[Array, "*N"],
    epsilon: float = 1e-3,
) -> Float[Array, ""]:
    """Mean squared error of patches that were not seen, each normalised by its own mean and
    variance.

    Args:
      predicted: the decoder's output.
      patches: the true voxels, in about [-1, 1].
      weights: how much a patch counts; 0 where it was visible, or is no patch.
      epsilon: added to the variance, so that the noise of a flat patch (air, a shape's inside) is
        not blown up to unit variance. He et al. use 1e-6 on photographs; the noise of a CT at our
        scale has a variance of about 1e-3.

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
class MaeTerm(Term):
    """`masked_reconstruction` of the patches of global crops that the student's visible pass left
    out.

    Fields:
      decoder_width, decoder_depth, decoder_heads: of the decoder; the defaults are those of He et
        al. (arXiv 2111.06377), table 1.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    needs: ClassVar[frozenset[str]] = frozenset({VISIBLE})
    module: ClassVar[str] = "decoder"
    told_as: ClassVar[str] = "reconstruction"

    def __post_init__(self):
        check_heads("objective.decoder_", self.decoder_width, self.decoder_heads)

    @property
    def decoder(self) -> MaeDecoder:
        z, y, x = self.encoder.patch
        # As the encoder has them, where its backbone knows such a field.
        shared = {
            name: getattr(self.encoder, name)
            for name in ("scale_mm", "attention", "remat", "dtype")
            if hasattr(self.encoder, name)
        }
        return MaeDecoder(
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            patch_voxels=z * y * x,
            **shared,
        )

    def init(self, key: Array, seen: Seen) -> Params:
        _, *places = seen.prefix
        index = seen.batch["visible_index"]
        return self.decoder.init(key, seen.tokens[VISIBLE], index, *places)["params"]

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        patches, *places = seen.prefix
        index = seen.batch["visible_index"]
        predicted = self.decoder.apply(
            {"params": student[self.module]}, seen.tokens[VISIBLE], index, *places
        )
        hidden = (places[1] == PATCH) & ~marked(index, patches.shape[1])
        return masked_reconstruction(predicted, patches, hidden.astype(jnp.float32)), {}

    def flops(self, work: Work) -> dict[str, Flops]:
        decoder, width = self.decoder, self.decoder_width
        entry, exit_ = 2 * self.encoder.width * width, 2 * width * decoder.patch_voxels
        blocks = self.decoder_depth * block_flops(width, "gelu")
        tokens = work.rows * work.prefix
        forward = work.rows * work.visible * entry + tokens * (blocks + exit_)
        squares = work.rows * work.prefix_squares
        found = Flops(
            forward=forward,
            backward=2 * forward,
            again=tokens * blocks if decoder.remat else 0,
            attention=round(12 * self.decoder_depth * width * squares),
        )
        return {"decoder": found}

    def stored_bytes(self, work: Work, remat: bool) -> dict[str, int]:
        a_token = self.decoder_depth * block_bytes(self.decoder, "gelu", remat)
        return {"decoder's blocks": work.rows * work.prefix * a_token}

    def working_bytes(self, work: Work, remat: bool) -> dict[str, int]:
        a_token = backward_bytes(self.decoder, "gelu", remat)
        return {"a block's backward": work.rows * work.prefix * a_token}
