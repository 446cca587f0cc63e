"""Encoders of others learn a task end to end, in PyTorch (extra: torch): what `supervised.learn` is
for our own.

A volume is learnt as it is encoded: slice by slice, vectors pooled by the mean, each layer of
patches by its slice.
Axes: N studies, S slices of all of them, h w tokens of a slice, D width, Y X pixels as far as the
  patches go, Z Y X voxels of a study's view.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest

import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmv_jax.data.crops import Geometry
from mmv_jax.data.resample import read_crop_mask
from mmv_jax.evaluate.encoders.huggingface import HuggingFaceEncoder
from mmv_jax.evaluate.finetune.end_to_end import GAIN, OFFSET, SHIFT
from mmv_jax.evaluate.finetune.gradient_descent import (
    B2,
    CLIP,
    Recipe,
    learning_rates,
    stopped_by_val,
)
from mmv_jax.evaluate.finetune.segmentation_heads import FINEST, WIDTH
from mmv_jax.evaluate.kinds.segmentation import THRESHOLDS, Segmented, cut, sweep
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.models.segmentation import PRIOR, doublings
from mmv_jax.store.read import Store

# slices of which the backward pass finds everything in memory; of more, each chunk is computed
# again when its gradient is asked for
AT_ONCE = 16
NARROWEST, ATTENTION_HEADS, EPSILON = 16, 4, 1e-6  # of the decoder, as in models/decoders.py


@dataclass(frozen=True)
class Slices:
    """Slices of studies, one study after the other.

    Attributes:
      images: 0 to 1, as `HuggingFaceEncoder.slices` shows them.
      counts: slices of each study.
      counted: which pixels belong to the study's own view.
      truth: a number a study, or where the structure is in each slice.
    """

    images: Float[Tensor, "S side side"]
    counts: list[int]
    counted: Bool[Tensor, "S Y X"]
    truth: Float[Tensor, " N"] | Bool[Tensor, "S Y X"]

    def __getitem__(self, lines: Int[np.ndarray, " B"]) -> "Slices":
        ends = np.cumsum(self.counts)
        own = torch.from_numpy(
            np.concatenate([np.arange(ends[n] - self.counts[n], ends[n]) for n in lines])
        )
        truth = self.truth[own if self.truth.ndim > 1 else torch.from_numpy(lines)]
        return Slices(
            self.images[own].float(), [self.counts[n] for n in lines], self.counted[own], truth
        )


def read_slices(
    foreign: HuggingFaceEncoder, store: Store, geometry: Geometry, task: Task
) -> tuple[Slices, list[Scene]]:
    """Reads all studies of a task (a part of one: `task[task.split == "train"]`); of a segmentation
    also the whole views, for its scores.
    """
    crops, kept = foreign.views(geometry[task.studies])
    side = foreign.side - foreign.side % foreign.patch
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    scenes: list[Scene] = []
    for n, study in enumerate(task.studies.tolist()):
        # half the memory, and still finer than 8 bits
        shown = foreign.slices(store, geometry, study, crops[n]).astype(np.float16)
        own, there = np.zeros((2, len(shown), side, side), bool)
        tokens = tuple(map(slice, crops.tokens[n].tolist()))
        inside = (slice(None), *(slice(part.stop * foreign.patch) for part in tokens[1:]))
        own[inside] = True
        if KINDS[task.kind].is_mask:
            mask = task.structure(
                read_crop_mask(store, geometry, i=study, crop=crops[n], mask=task.mask)
            )
            there[inside] = foreign.layers(mask)
            scenes.append(
                Scene(
                    np.zeros((0, 1), np.float32), kept[n][tokens], mask, float(crops.spacing_mm[n])
                )
            )
        parts.append((shown, own, there))
    images, counted, masks = (torch.from_numpy(np.concatenate(found)) for found in zip(*parts))
    truth = masks if KINDS[task.kind].is_mask else torch.from_numpy(task.labels.astype(np.float32))
    return Slices(images, [len(shown) for shown, *_ in parts], counted, truth), scenes


class NumberHead(nn.Module):
    """One number a study: linear in CLS and the mean patch token over all slices, 0 at first.

    Both are normalised, so that one learning rate fits towers whose features are small and towers
    whose features are large.
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(2 * width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, cls: Float[Tensor, "S D"], grids: Float[Tensor, "M S h w D"], batch: Slices
    ) -> Float[Tensor, " N"]:
        grid = grids[-1]
        patch = batch.counted.shape[1] // grid.shape[1]
        # patches whose centre lies in the study
        kept = batch.counted[:, patch // 2 :: patch, patch // 2 :: patch]
        mean = (grid * kept[..., None]).sum(dim=(1, 2)) / kept.sum(dim=(1, 2)).clamp(min=1)[:, None]
        pooled = (
            torch.stack([own.mean(dim=0) for own in x.split(batch.counts)]) for x in (cls, mean)
        )
        return self.linear(torch.cat([_plain(x) for x in pooled], dim=1))[:, 0]


class Ask(nn.Module):
    """Queries and what they learn from keys by attention."""

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
    """One step of `models.decoders.Upsample`: children of their own for each place, a level of the
    tower joins, a convolution mends the seams.
    """

    def __init__(self, before: int, after: int, sides: tuple[int, ...], skip: int | None):
        super().__init__()
        self.sides, self.skip = sides, nn.Linear(skip, after) if skip else None
        self.spread, self.conv = nn.Linear(before, 4 * after), nn.Conv2d(after, after, 3, padding=1)
        self.norm = nn.LayerNorm(after, eps=EPSILON)

    def forward(
        self, x: Float[Tensor, "S W h w"], level: Float[Tensor, "S u v D"] | None
    ) -> Float[Tensor, "S V Y X"]:
        x = F.pixel_shuffle(self.spread(x.movedim(1, -1)).movedim(-1, 1), 2)
        x = F.interpolate(x, size=self.sides, mode="bilinear")
        if self.skip is not None and level is not None:
            x = x + F.interpolate(
                self.skip(_plain(level)).movedim(-1, 1), size=self.sides, mode="bilinear"
            )
        return _gelu(self.norm(self.conv(x).movedim(1, -1))).movedim(-1, 1)


class MaskHead(nn.Module):
    """`models.decoders.GlobalLocalDecoder` of slices: CLS asks the patches, each patch asks CLS and
    all patches, then up to the pixels.
    """

    def __init__(self, width: int, levels: int, tokens: tuple[int, int], pixels: tuple[int, int]):
        super().__init__()
        self.local, self.whole = nn.Linear(width, WIDTH), nn.Linear(width, WIDTH)
        self.global_asks, self.local_asks = Ask(), Ask()
        grids = doublings(tokens, tuple(min(v, t * FINEST[2]) for t, v in zip(tokens, pixels)))[1:]
        channels = [max(WIDTH >> n, NARROWEST) for n in range(len(grids) + 1)]
        steps = zip(channels, channels[1:], grids)
        self.steps = nn.ModuleList(
            Doubling(a, b, sides, width if n < levels - 1 else None)
            for n, (a, b, sides) in enumerate(steps)
        )
        self.logits = nn.Linear(channels[-1], 1)
        self.apply(_init_as_flax)
        nn.init.zeros_(self.local_asks.attention.out_proj.weight)
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
        for step, level in zip_longest(self.steps, early[::-1][: len(self.steps)]):
            x = step(x, level)
        logits = self.logits(x.movedim(1, -1)).movedim(-1, 1)
        return F.interpolate(logits, size=batch.counted.shape[1:], mode="bilinear")[:, 0]


class Tuned(nn.Module):
    """A copy of a tower, all of which learns, with a head from a seed. The tower that is given
    stays as it is.

    The copy stays in evaluation mode: a step shows few studies, so batch norms keep the statistics
    that they were trained with.
    """

    def __init__(self, foreign: HuggingFaceEncoder, masks: bool, seed: int):
        super().__init__()
        self.tower = deepcopy(foreign.model).eval().requires_grad_(True)
        self.foreign = replace(foreign, model=self.tower)
        with torch.no_grad():
            _, grids = self.look(torch.zeros(1, foreign.side, foreign.side))
        levels, _, h, w, width = grids.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pixels = (h * foreign.patch, w * foreign.patch)
            self.head = MaskHead(width, levels, (h, w), pixels) if masks else NumberHead(width)

    def look(
        self, images: Float[Tensor, "S side side"]
    ) -> tuple[Float[Tensor, "S D"], Float[Tensor, "M S h w D"]]:
        return self.foreign.forward(images)

    def forward(self, batch: Slices) -> Float[Tensor, " N"] | Float[Tensor, "S Y X"]:
        parts = batch.images.split(AT_ONCE)
        look = partial(checkpoint, self.look, use_reentrant=False) if len(parts) > 1 else self.look
        cls, grids = zip(*map(look, parts))
        return self.head(torch.cat(cls), torch.cat(grids, dim=1), batch)


def learn_huggingface(
    foreign: HuggingFaceEncoder,
    store: Store,
    geometry: Geometry,
    task: Task,
    recipe: Recipe,
    seed: int,
) -> Segmented | tuple[Float[np.ndarray, " M"], str]:
    """Fine-tunes a copy of an encoder of others on train, stopped by the loss on val, and then
    reads the test studies for the first time.

    Masks are learnt, and val is asked, on the slices that the model sees; the threshold and the
    test are of whole views, logits between two slices interpolated. Seeded: the same call gives the
    same answer.

    Returns:
      As `supervised.learn`.
    """
    (train, _), (val, scenes) = (
        read_slices(foreign, store, geometry, task[task.split == part]) for part in ("train", "val")
    )
    kind = KINDS[task.kind].fitted_to(train.truth.numpy())
    model = Tuned(foreign, kind.is_mask, seed)
    optimizer, rates = make_adamw(model, recipe), learning_rates(len(train.counts), recipe)
    generator = torch.Generator().manual_seed(seed)

    def step(lines: np.ndarray, number: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = float(rates[number]) * group["rate"]
        batch = augment(train[lines], generator)
        optimizer.zero_grad()
        kind.torch_loss(model(batch), batch.truth, batch.counted).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    def outputs(part: Slices) -> Tensor:
        studies = np.arange(len(part.counts))
        with torch.no_grad():
            return torch.cat(
                [
                    model(part[studies[at : at + recipe.batch]])
                    for at in range(0, len(studies), recipe.batch)
                ]
            )

    def copy() -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def score() -> float:
        return -float(kind.torch_loss(outputs(val), val.truth, val.counted))

    fitted = stopped_by_val(step, score, copy, count=len(train.counts), recipe=recipe, seed=seed)
    model.load_state_dict(fitted.params)
    test, test_scenes = read_slices(foreign, store, geometry, task[task.split == "test"])
    choice = f"epoch {fitted.epoch}"
    if not kind.is_mask:
        return np.asarray(kind.answer(jnp.asarray(outputs(test).numpy()))), choice
    threshold = float(
        THRESHOLDS[int(sweep(whole_views(outputs(val), val.counts, scenes), scenes).argmax())]
    )
    return cut(whole_views(outputs(test), test.counts, test_scenes), test_scenes, threshold, choice)


def whole_views(
    logits: Float[Tensor, "S Y X"], counts: list[int], scenes: Sequence[Scene]
) -> Iterator[Float[np.ndarray, "Z Y X"]]:
    """The probabilities of one study after the other on the grid of its view."""
    for own, scene in zip(logits.split(counts), scenes):
        _, y, x = scene.truth.shape
        yield (
            F.interpolate(own[None, None, :, :y, :x], size=scene.truth.shape, mode="trilinear")[
                0, 0
            ]
            .sigmoid()
            .numpy()
        )


def augment(batch: Slices, generator: torch.Generator) -> Slices:
    """`supervised.augment` of slices, those of a study all alike: other contrast, brightness and
    place.
    """

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        values = low + (high - low) * torch.rand(len(batch.counts), *shape, generator=generator)
        return values.repeat_interleave(torch.tensor(batch.counts), dim=0)

    gain, offset = drawn(1 - GAIN, 1 + GAIN, 1, 1), drawn(-OFFSET, OFFSET, 1, 1)
    most = float(batch.images.shape[-1] // SHIFT)
    by = drawn(-most, most + 1, 2).floor().long()
    # contrast is about the middle of 0 to 1
    images = (gain * (2 * move(batch.images, by) - 1) + offset + 1) / 2
    truth = move(batch.truth, by) if batch.truth.ndim > 1 else batch.truth
    return replace(batch, images=images, counted=move(batch.counted, by), truth=truth)


def move(x: Tensor, by: Int[Tensor, "S 2"]) -> Tensor:
    """Each slice [S, Y, X] shifted by its pixels; what comes in at a border is what stood there."""
    lines, columns = (
        (torch.arange(size)[None] + own[:, None]).clamp(0, size - 1)
        for size, own in zip(x.shape[1:], by.T)
    )
    return x[torch.arange(len(x))[:, None, None], lines[:, :, None], columns[:, None]]


def make_adamw(model: Tuned, recipe: Recipe) -> torch.optim.AdamW:
    """As `train.optimizer.make_optimizer`: decay on the kernels alone. A group has a `rate`, by
    which the learning rate of a step is multiplied.
    """
    rates = tower_rates([name for name, _ in model.tower.named_parameters()], recipe.layer_decay)
    kernels = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    kernels |= {
        id(module.in_proj_weight)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    groups: dict[tuple[float, float], list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        rate = rates[name.removeprefix("tower.")] if name.startswith("tower.") else 1.0
        groups[rate, recipe.weight_decay if id(parameter) in kernels else 0.0].append(parameter)
    described = [
        {"params": own, "rate": rate, "weight_decay": decay}
        for (rate, decay), own in groups.items()
    ]
    return torch.optim.AdamW(described, lr=recipe.peak_lr, betas=(0.9, B2))


def tower_rates(names: Sequence[str], decay: float) -> dict[str, float]:
    """What the learning rate of each parameter of a tower is multiplied by, as
    `finetune.layer_rates`: by `decay` once more a layer below.

    Args:
      names: of the parameters, in the order in which the tower is run. What they share up to their
        last number is a layer; what has no number embeds where it comes before all layers, else it
        belongs to the head.

    Example:
      >>> tower_rates(["embed.weight", "layer.0.weight", "layer.1.weight", "norm.weight"], 0.5)
      {'embed.weight': 0.125, 'layer.0.weight': 0.25, 'layer.1.weight': 0.5, 'norm.weight': 1.0}
    """
    numbered = [re.match(r"((?:.*\.)?\d+)\.", name) for name in names]
    depth, layers = len({found[1] for found in numbered if found}), dict[str, int]()
    rates, level = {}, -1
    for name, found in zip(names, numbered):
        if found:
            level = layers.setdefault(found[1], len(layers))
        elif layers:
            level = depth
        rates[name] = decay ** (depth - level)
    return rates


def _plain(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _init_as_flax(part: nn.Module) -> None:
    """Kernels as `nn.initializers.lecun_normal` draws them, biases 0; queries, keys and values of
    an attention are one kernel here, alike.
    """
    for name, parameter in part.named_parameters(recurse=False):
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            # of a normal whose tails beyond 2 are cut off
            std = (parameter[0].numel()) ** -0.5 / 0.87962566103423978
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
