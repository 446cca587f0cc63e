"""The networks that learn a task end to end: the encoder with a head, and convolutional ones.

Axes: N studies, z y x tokens, Z Y X voxels, T tokens of a study, L with its special ones, P voxels
of a patch, D width, M levels.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmv_jax.evaluate.encoders.base import early_layers
from mmv_jax.evaluate.encoders.trained import TrainedEncoder
from mmv_jax.evaluate.finetune.segmentation_heads import make_head
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.models.backbone import Backbone
from mmv_jax.models.cnn import Classifier, UNet
from mmv_jax.models.kinds import CLS, PATCH, REGISTER
from mmv_jax.models.segmentation import resize

HEAD = "global-local"  # of the transformers, where the task is a segmentation
WIDTH = 8  # of the convolutional networks: 0.5 million parameters


@dataclass(frozen=True)
class CommonGrid:
    """The common grid of a task's studies: each lies in its low corner, the rest is background."""

    tokens: tuple[int, int, int]
    voxels: tuple[int, int, int]


class Transformer(nn.Module):
    """The encoder with a head.

    The head is a decoder of tokens if `answers` is a grid, else one number from CLS and the mean
    token. Every study is a row of its own with all tokens in their places, so nothing has to be
    unpacked. `params` holds "encoder" and "head".
    """

    encoder: Backbone
    head: nn.Module
    answers: tuple[int, int, int] | None

    def __call__(
        self,
        voxels: Float[Array, "N Z Y X"],
        kept: Bool[Array, "N z y x"],
        coords: Float[Array, "N L 3"],
    ) -> Float[Array, "N Z Y X"] | Float[Array, " N"]:
        if self.answers is None:
            return self.head(self.pooled(voxels, kept, coords))[:, 0]
        out, cls, tokens = self.encoded(voxels, kept, coords)
        # Times the kept places: only `tokens` is exactly 0 at padding, the earlier blocks are not.
        n, special = len(voxels), 1 + self.encoder.registers
        early = (
            out["blocks"][jnp.array(early_layers(self.encoder.depth))][:, :, special:]
            * kept.reshape(n, -1)[None, :, :, None]
        )
        levels = jnp.concatenate([early, tokens[None]]).reshape(
            -1, n, *kept.shape[1:], tokens.shape[-1]
        )
        return resize(self.head(levels, cls, self.answers), voxels.shape[1:])[..., 0]

    def pooled(
        self,
        voxels: Float[Array, "N Z Y X"],
        kept: Bool[Array, "N z y x"],
        coords: Float[Array, "N L 3"],
    ) -> Float[Array, "N 2*D"]:
        """CLS and the mean token, which a head of one number reads."""
        _, cls, tokens = self.encoded(voxels, kept, coords)
        # Tokens that were not kept are 0.
        mean = tokens.sum(axis=1) / kept.reshape(len(kept), -1).sum(axis=1)[:, None]
        return jnp.concatenate([cls, mean], axis=1)

    def encoded(
        self,
        voxels: Float[Array, "N Z Y X"],
        kept: Bool[Array, "N z y x"],
        coords: Float[Array, "N L 3"],
    ) -> tuple[dict[str, Array], Float[Array, "N D"], Float[Array, "N T D"]]:
        """The encoder's output, and of its last block CLS and the patch tokens."""
        special, n = 1 + self.encoder.registers, len(voxels)
        # CLS and registers stand first and have no pixels: their patches are 0.
        patches = jnp.pad(
            to_patches(voxels, kept.shape[1:], self.encoder.patch), ((0, 0), (special, 0), (0, 0))
        )
        seen = kept.reshape(n, -1)
        # Kinds of the special tokens: CLS, then one for each register.
        first = jnp.broadcast_to(
            jnp.array([CLS, *range(REGISTER, REGISTER + special - 1)]), (n, special)
        )
        # Kind 0 is padding, and so is its segment 0: no token attends to
        # patches that were not kept.
        kinds = jnp.concatenate([first, jnp.where(seen, PATCH, 0)], axis=1)
        out = self.encoder(patches, coords, kinds, (kinds > 0).astype(jnp.int32))
        return out, out["tokens"][:, 0], out["tokens"][:, special:]


class Convolutional(nn.Module):
    """A network of voxels with the signature of `Transformer`; it sees the same images, no
    coordinates.
    """

    network: nn.Module

    def __call__(
        self,
        voxels: Float[Array, "N Z Y X"],
        kept: Bool[Array, "N z y x"],
        coords: Float[Array, "N L 3"],
    ) -> Array:
        return self.network(voxels[..., None])[..., 0]


def to_patches(
    voxels: Float[Array, "N Z Y X"], tokens: tuple[int, ...], patch: tuple[int, int, int]
) -> Float[Array, "N T P"]:
    """All patches of studies, in the order z, y, x.

    A planar study is one slice, repeated through the patch's depth (as `data.tokens.to_patches`).
    """
    (n, depth), (tz, ty, tx), (pz, py, px) = voxels.shape[:2], tokens, patch
    cut_up = voxels.reshape((n, tz, depth // tz, ty, py, tx, px)).transpose((0, 1, 3, 5, 2, 4, 6))
    # A planar study has a depth of 1 here; broadcasting repeats the slice through the patch.
    return jnp.broadcast_to(cut_up, (n, tz, ty, tx, pz, py, px)).reshape(
        n, tz * ty * tx, pz * py * px
    )


def make_model(protocol: str, trained: TrainedEncoder, task: Task, frame: CommonGrid) -> nn.Module:
    """Make the network of a protocol: "finetune", "scratch" or "supervised".

    The first two are the encoder with a head; the last is convolutional.
    """
    masks = KINDS[task.kind].is_mask
    if protocol == "supervised":
        return Convolutional(UNet(1, width=WIDTH) if masks else Classifier(1, width=WIDTH))
    # A head of zeros passes no gradient back at first.
    if not masks:
        return Transformer(trained.encoder, nn.Dense(1, kernel_init=nn.initializers.zeros), None)
    head, answers = make_head(HEAD, frame.voxels[0] == 1, frame.tokens, frame.voxels)
    return Transformer(trained.encoder, head, answers)
