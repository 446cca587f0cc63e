"""End-to-end training of others' encoders in PyTorch (extra: torch), as
`end_to_end.EndToEnd` for ours.

A volume is learnt as it is encoded: slice by slice. Vectors are pooled by the mean, and each layer
of patches is learnt by its slice.

Axes: N studies, S slices of all of them, h w tokens of a slice, D width, Y X pixels as far as the
patches go, Z Y X voxels of a study's view.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial

import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmv_jax.data.crops import Geometry
from mmv_jax.evaluate.encoders.huggingface import HuggingFaceEncoder
from mmv_jax.evaluate.finetune.gradient_descent import (
    B2,
    CLIP,
    Fitted,
    Recipe,
    learning_rates,
    stopped_by_val,
)
from mmv_jax.evaluate.finetune.learner import FORWARD, Answer, told
from mmv_jax.evaluate.finetune.slices import Slices, augment, read_slices, whole_views
from mmv_jax.evaluate.finetune.torch_heads import MaskHead, NumberHead, pooled
from mmv_jax.evaluate.kinds.features import LinearHead
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.mask_scores import THRESHOLDS, cut, sweep
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.store.read import Store

# The most slices whose activations are kept for the backward pass. With more slices, each chunk is
# computed again for its gradient.
AT_ONCE = 16


class TunedTower(nn.Module):
    """A copy of a tower that learns as a whole, with a head from a seed.

    The original tower is unchanged. The copy stays in evaluation mode: a step shows few studies, so
    batch norms keep the statistics of their training.
    """

    def __init__(self, encoder: HuggingFaceEncoder, masks: bool, seed: int):
        super().__init__()
        self.tower = deepcopy(encoder.model).eval().requires_grad_(True)
        self.encoder = replace(encoder, model=self.tower)
        with torch.no_grad():
            # A blank image shows levels, grid and width of any tower.
            _, grids = self.look(torch.zeros(1, encoder.side, encoder.side))
        levels, _, h, w, width = grids.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pixels = (h * encoder.patch, w * encoder.patch)
            self.head = MaskHead(width, levels, (h, w), pixels) if masks else NumberHead(width)

    def look(
        self, images: Float[Tensor, "S side side"]
    ) -> tuple[Float[Tensor, "S D"], Float[Tensor, "M S h w D"]]:
        return self.encoder.forward(images)

    def forward(self, batch: Slices) -> Float[Tensor, " N"] | Float[Tensor, "S Y X"]:
        return self.head(*self.looked(batch), batch)

    def pooled(self, batch: Slices) -> Float[Tensor, "N 2*D"]:
        """What a head of one number reads."""
        return pooled(*self.looked(batch), batch)

    def looked(self, batch: Slices) -> tuple[Float[Tensor, "S D"], Float[Tensor, "M S h w D"]]:
        """What the tower makes of every slice."""
        parts = batch.images.split(AT_ONCE)
        # Reentrant checkpoints pass no gradient unless an input requires one, and images do not.
        look = partial(checkpoint, self.look, use_reentrant=False) if len(parts) > 1 else self.look
        cls, grids = zip(*map(look, parts))
        return torch.cat(cls), torch.cat(grids, dim=1)


@dataclass(frozen=True)
class TowerLearner:
    """A copy of an encoder of others that learns a task as a whole, a `Learner`.

    Training and val use masks on the slices that the model sees. The threshold and the test use
    whole views; logits between two slices are interpolated. Studies are read when they are first
    needed, and once for all fits.
    """

    encoder: HuggingFaceEncoder
    store: Store
    geometry: Geometry
    task: Task

    def fit(self, recipe: Recipe, seed: int) -> Fitted:
        """Fit on train, stopped by val; `params` are the model's `state_dict`."""
        (train, _), (val, _), kind = self._train, self._val, self._kind
        # A new copy for each fit, so that no fit begins where another one ended.
        model = TunedTower(self.encoder, kind.is_mask, seed)
        if isinstance(model.head, NumberHead):
            model.head.begin(self._first_head)
        optimizer, rates = make_adamw(model, recipe), learning_rates(len(train.counts), recipe)
        generator = torch.Generator().manual_seed(seed)

        def step(lines: np.ndarray, number: int) -> None:
            for group in optimizer.param_groups:
                # The schedule of `fit`, times the rate of the group's layer.
                group["lr"] = float(rates[number]) * group["rate"]
            batch = augment(train[lines], generator)
            optimizer.zero_grad()
            kind.torch_loss(model(batch), batch.truth, batch.counted).backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()

        # `state_dict` returns the live tensors, which later steps change: hence clones.
        def copy() -> dict[str, Tensor]:
            return {name: tensor.clone() for name, tensor in model.state_dict().items()}

        def score() -> float:
            found = outputs(model, val, recipe.batch)
            if kind.is_mask:
                # On slices, not whole views. Over all val studies at once, as `Kind.score` does it:
                # soft Dice is of a batch as a whole.
                return -float(kind.torch_loss(found, val.truth, val.counted))
            return kind.score(answers(kind, found), val.truth.numpy(), ())

        count = len(train.counts)
        return stopped_by_val(step, score, copy, count=count, recipe=recipe, seed=seed)

    def answer(self, fitted: Fitted, batch: int) -> Answer:
        """Masks of the test studies, at the threshold that is best on val; or predictions."""
        kind = self._kind
        # The seed does not matter: all parameters are replaced.
        model = TunedTower(self.encoder, kind.is_mask, seed=0)
        model.load_state_dict(fitted.params)
        test, test_scenes = self._read("test")
        found = outputs(model, test, batch)
        if not kind.is_mask:
            return answers(kind, found)
        val, scenes = self._val
        of_val = whole_views(outputs(model, val, batch), val.counts, scenes)
        threshold = float(THRESHOLDS[int(sweep(of_val, scenes).argmax())])
        views = whole_views(found, test.counts, test_scenes)
        return cut(views, test_scenes, threshold, told(fitted))

    @cached_property
    def _train(self) -> tuple[Slices, list[Scene]]:
        return self._read("train")

    @cached_property
    def _val(self) -> tuple[Slices, list[Scene]]:
        return self._read("val")

    @cached_property
    def _first_head(self) -> LinearHead | None:
        model = TunedTower(self.encoder, masks=False, seed=0)
        parts = {"train": self._train[0], "val": self._val[0]}
        seen = [outputs(model.pooled, part, FORWARD).numpy() for part in parts.values()]
        truth = np.concatenate([part.truth.numpy() for part in parts.values()])
        split = np.repeat(list(parts), [len(x) for x in seen])
        return self._kind.first_head(np.concatenate(seen), truth, split)

    @cached_property
    def _kind(self) -> Kind:
        return KINDS[self.task.kind].fitted_to(self._train[0].truth.numpy())

    def _read(self, part: str) -> tuple[Slices, list[Scene]]:
        own = self.task[self.task.split == part]
        return read_slices(self.encoder, self.store, self.geometry, own)


def answers(kind: Kind, found: Float[Tensor, " N"]) -> Float[np.ndarray, " N"]:
    """Predictions from the outputs of a model."""
    return np.asarray(kind.answer(jnp.asarray(found.numpy())))


def outputs(model: Callable[[Slices], Tensor], part: Slices, batch: int) -> Tensor:
    """A model's outputs for all studies of a part, `batch` studies at a time."""
    studies = np.arange(len(part.counts))
    with torch.no_grad():
        parts = [model(part[studies[at : at + batch]]) for at in range(0, len(studies), batch)]
        return torch.cat(parts)


def make_adamw(model: TunedTower, recipe: Recipe) -> torch.optim.AdamW:
    """Make AdamW as `train.optimizer.make_optimizer`, with weight decay on the kernels alone.

    Each group has a `rate`, which multiplies the learning rate of a step.
    """
    rates = tower_rates([name for name, _ in model.tower.named_parameters()], recipe.layer_decay)
    # By identity, since the scale of a norm is called "weight" too.
    kernels = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    # Attention has the kernel of queries, keys and values as a parameter of its own.
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
    """Factors of the learning rate, one a parameter of a tower: `decay` times the factor of the
    layer above.

    Args:
      names: of the parameters, in the order of the forward pass. Parameters with the same name up
        to their last number form a layer. One without a number is an embedding if it comes before
        all layers, else it belongs to the head.

    Example:
      >>> tower_rates(["embed.weight", "layer.0.weight", "layer.1.weight", "norm.weight"], 0.5)
      {'embed.weight': 0.125, 'layer.0.weight': 0.25, 'layer.1.weight': 0.5, 'norm.weight': 1.0}
    """
    # Greedy, so up to the last number: of "encoder.layer.3.attn.bias" the layer "encoder.layer.3".
    numbered = [re.match(r"((?:.*\.)?\d+)\.", name) for name in names]
    depth, layers = len({found[1] for found in numbered if found}), dict[str, int]()
    # Level -1 is what comes before all layers, such as the patch embedding.
    rates, level = {}, -1
    for name, found in zip(names, numbered):
        if found:
            level = layers.setdefault(found[1], len(layers))
        elif layers:
            # After the layers, such as a last norm: decay ** 0, the full rate.
            level = depth
        rates[name] = decay ** (depth - level)
    return rates
