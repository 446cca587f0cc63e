"""Heads in PyTorch on the features of slices: a number a study, and a mask a slice.

Axes: N studies, S slices of all of them, M blocks, h w tokens of a slice, D width of the tower, W
width of the head, Y X pixels.
"""

from itertools import zip_longest

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmv_jax.evaluate.finetune.segmentation_heads import FINEST, WIDTH
from mmv_jax.evaluate.finetune.slices import Slices
from mmv_jax.evaluate.kinds.features import LinearHead
from mmv_jax.models.segmentation import PRIOR, doublings

NARROWEST, ATTENTION_HEADS, EPSILON = 16, 4, 1e-6  # of the decoder, as in models/decoders.py


def pooled(
    cls: Float[Tensor, "S D"], grids: Float[Tensor, "M S h w D"], batch: Slices
) -> Float[Tensor, "N 2*D"]:
    """CLS and the mean patch token of each study, over all of its slices.

    Both are normalised, so one learning rate fits towers with small and with large features.
    """
    grid = grids[-1]
    patch = batch.counted.shape[1] // grid.shape[1]
    # Patches whose centre lies in the study.
    kept = batch.counted[:, patch // 2 :: patch, patch // 2 :: patch]
    mean = (grid * kept[..., None]).sum(dim=(1, 2)) / kept.sum(dim=(1, 2)).clamp(min=1)[:, None]
    # Split by study first: the mean is over the slices of a study, not of the batch.
    studies = (torch.stack([own.mean(dim=0) for own in x.split(batch.counts)]) for x in (cls, mean))
    return torch.cat([_plain(x) for x in studies], dim=1)


class NumberHead(nn.Module):
    """One number a study, linear in what `pooled` gives; 0 at first."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(2 * width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def begin(self, head: LinearHead | None) -> None:
        """Take the parameters of another head, if there is one."""
        if head is None:
            return
        with torch.no_grad():
            self.linear.weight.copy_(torch.as_tensor(head.kernel)[None])
            self.linear.bias.fill_(head.bias)

    def forward(
        self, cls: Float[Tensor, "S D"], grids: Float[Tensor, "M S h w D"], batch: Slices
    ) -> Float[Tensor, " N"]:
        return self.linear(pooled(cls, grids, batch))[:, 0]


class Ask(nn.Module):
    """Queries plus the output of their attention to keys."""

    def __init__(self):
        super().__init__()
        self.of_queries, self.of_keys = (
            nn.LayerNorm(WIDTH, eps=EPSILON),
            nn.LayerNorm(WIDTH, eps=EPSILON),
        )
        self.attention = nn.MultiheadAttention(WIDTH, ATTENTION_HEADS, batch_first=True)

    def forward(
        self, queries: Float[Tensor, "S Q W"], keys: Float[Tensor, "S K W"]
    ) -> Float[Tensor, "S Q W"]:
        keys = self.of_keys(keys)
        return queries + self.attention(self.of_queries(queries), keys, keys, need_weights=False)[0]


class Doubling(nn.Module):
    """One step of `models.segmentation.Upsample`.

    Each place gets children of its own, a level of the tower is added, a convolution smooths the
    seams.
    """

    def __init__(self, before: int, after: int, sides: tuple[int, ...], skip: int | None):
        super().__init__()
        self.sides, self.skip = sides, nn.Linear(skip, after) if skip else None
        self.spread, self.conv = nn.Linear(before, 4 * after), nn.Conv2d(after, after, 3, padding=1)
        self.norm = nn.LayerNorm(after, eps=EPSILON)

    def forward(
        self, x: Float[Tensor, "S W h w"], level: Float[Tensor, "S u v D"] | None
    ) -> Float[Tensor, "S V Y X"]:
        # Linear and LayerNorm want channels last, convolutions channels first.
        x = F.pixel_shuffle(self.spread(x.movedim(1, -1)).movedim(-1, 1), 2)
        # Changes nothing unless the target grid is not exactly twice the last one.
        x = F.interpolate(x, size=self.sides, mode="bilinear")
        if self.skip is not None and level is not None:
            x = x + F.interpolate(
                self.skip(_plain(level)).movedim(-1, 1), size=self.sides, mode="bilinear"
            )
        return _gelu(self.norm(self.conv(x).movedim(1, -1))).movedim(-1, 1)


class MaskHead(nn.Module):
    """`models.segmentation.GlobalLocalDecoder` for slices.

    CLS attends to the patches, each patch to CLS and all patches; then the grid doubles up to the
    pixels.
    """

    def __init__(self, width: int, levels: int, tokens: tuple[int, int], pixels: tuple[int, int]):
        super().__init__()
        self.local, self.whole = nn.Linear(width, WIDTH), nn.Linear(width, WIDTH)
        self.global_asks, self.local_asks = Ask(), Ask()
        grids = doublings(tokens, tuple(min(v, t * FINEST[2]) for t, v in zip(tokens, pixels)))[1:]
        # Half as many channels at each doubling, down to the narrowest.
        channels = [max(WIDTH >> n, NARROWEST) for n in range(len(grids) + 1)]
        steps = zip(channels, channels[1:], grids)
        self.steps = nn.ModuleList(
            Doubling(a, b, sides, width if n < levels - 1 else None)
            for n, (a, b, sides) in enumerate(steps)
        )
        self.logits = nn.Linear(channels[-1], 1)
        self.apply(_init_as_flax)
        # Attention adds 0 at first, so that each patch starts with its own token alone.
        nn.init.zeros_(self.local_asks.attention.out_proj.weight)
        # After `apply`, which sets every bias to 0.
        nn.init.constant_(self.logits.bias, PRIOR)

    def forward(
        self, cls: Float[Tensor, "S D"], grids: Float[Tensor, "M S h w D"], batch: Slices
    ) -> Float[Tensor, "S Y X"]:
        *early, deepest = grids
        local = self.local(_plain(deepest.flatten(1, 2)))
        whole = self.global_asks(self.whole(_plain(cls))[:, None], local)
        x = _gelu(self.local_asks(local, torch.cat([whole, local], dim=1))).mT.unflatten(
            2, deepest.shape[1:3]
        )
        # The deepest level joins first; steps beyond the last level get None.
        for step, level in zip_longest(self.steps, early[::-1][: len(self.steps)]):
            x = step(x, level)
        logits = self.logits(x.movedim(1, -1)).movedim(-1, 1)
        return F.interpolate(logits, size=batch.counted.shape[1:], mode="bilinear")[:, 0]


def _plain(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _init_as_flax(part: nn.Module) -> None:
    """Initialise like Flax: kernels by `nn.initializers.lecun_normal`, biases 0.

    The kernels of an attention's queries, keys and values are one parameter here.
    """
    for name, parameter in part.named_parameters(recurse=False):
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            # The standard deviation of a normal that is truncated at 2 is 0.8796.
            # parameter[0] holds the weights of one output, so its size is the fan-in.
            std = (parameter[0].numel()) ** -0.5 / 0.87962566103423978
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
