"""Fit of the segmentation model to mammograms with truth.

In this room only this file sees a training config; the functions it calls take plain arguments.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from mmv_jax.bac.infer import Finder
from mmv_jax.bac.measure import Measure
from mmv_jax.bac.mine import mistakes
from mmv_jax.bac.model import (
    INPUTS,
    TileSegmenter,
    make_model,
    position_loss,
    segmentation_loss,
)
from mmv_jax.bac.sample import Sampler
from mmv_jax.bac.tiles import TileShape
from mmv_jax.checkpoint import Checkpoints, restore_items
from mmv_jax.config import to_dict
from mmv_jax.errors import UserError
from mmv_jax.models.sizes import make_encoder
from mmv_jax.store.read import Store
from mmv_jax.train.health import Patience
from mmv_jax.train.log import Log
from mmv_jax.train.optimizer import make_optimizer
from mmv_jax.train.step import keep_finite
from mmv_jax.train.steps import take_steps
from mmv_jax.train.workdir import DONE, check_studies, keep_config, unite_patients

# config keys that may change between a fit and its resume
MAY_CHANGE = {"data.store", "init", "checkpoint", "measure"}


def fit(config: ConfigDict, workdir: Path) -> None:
    """Train to `config.steps`, resuming from the newest complete checkpoint of `workdir`, if any.

    Raises:
      WorkFailed: the loss was not finite for several steps in a row; the last checkpoint is good.
      UserError: the store has no truth, `config.init` is an encoder of another shape, or `workdir`
        holds a fit of another config or other studies.
    """
    model, shape = make_model(to_dict(config))
    measure = Measure(**config.measure.to_dict())
    tx = make_optimizer(config.steps, config.rows, **config.optimizer)
    last = LastWeights.of(config)
    keep_config(config, workdir, MAY_CHANGE)
    store = Store.open(config.data.store)
    sampler = Sampler(
        store, shape, seed=config.seed, splits=tuple(config.data.splits), mix=tuple(config.data.mix)
    )
    state = init_state(model, shape, tx=tx, seed=config.seed, init=config.init)
    step_fn = jit_fit_step(model, tx)
    seen = _seen(store, sampler, config)
    with Checkpoints(
        workdir, {**to_dict(config), "pretraining": seen}, **config.checkpoint
    ) as checkpoints:
        first, items = checkpoints.restore_newest(_items(state))
        if first:
            # Other studies would give other tiles at the same step, so a resume refuses them.
            before = checkpoints.config_of(first)["pretraining"]
            check_studies(before, seen, config.data.store)
            checkpoints.config["pretraining"] = unite_patients(seen, before)
        else:
            # left by a fit whose checkpoints were deleted
            for stale in workdir.glob("mistakes-*.npz"):
                stale.unlink()
        state = _state(items)
        with Log(workdir, first, config.steps) as log:
            write = _writer(log)
            take = partial(_take, step_fn)
            for start, end in spans(first, config.steps, config.data.mine_at):
                # The last mining that was due: a resume reads its points from their file.
                if mined := [at for at in config.data.mine_at if at <= start]:
                    finder = Finder(model, state["params"], shape, measure)
                    sampler.look_at(
                        mistakes(finder, sampler, workdir / f"mistakes-{mined[-1]}.npz")
                    )
                batches = zip(range(start, end), _ahead(sampler, start, config.rows))
                # Also saved at a span's end: the mining after it takes long.
                save = partial(_save, checkpoints, end, last)
                state = take_steps(take, state, batches, write=write, save=save)
            if first >= config.steps:
                log.say(f"All {config.steps} steps are done. {DONE}")


def _take(
    step_fn: Callable, step: int, state: dict[str, Any], batch: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    return step_fn(state, batch)


@dataclass(frozen=True)
class LastWeights:
    """Weights of the last checkpoint: a mean of those of the fit and those that it began with.

    Between a model and what further training makes of it the mean often is better than both: it
    keeps what one has learned and the other forgotten.

    Source: arXiv 2109.01903, equation 1 (weight-space ensembles, where `share` is 1 - alpha).

    Attributes:
      steps: of the fit.
      init: the checkpoint that it began with.
      share: of its weights, 0 to 1.
    """

    steps: int
    init: str
    share: float

    @classmethod
    def of(cls, config: ConfigDict) -> "LastWeights":
        """Of a fit's config; its `init_share` is 0 if it has none.

        Raises:
          UserError: a share that is not between 0 and 1, or one of no other fit.
        """
        share = config.get("init_share", 0.0)
        if not 0 <= share < 1:
            raise UserError(f"config.init_share is {share}, but must be 0 or more and below 1.")
        if share and (not config.init or "measure" not in restore_items(config.init, ())[1]):
            raise UserError(
                f"config.init_share is {share}, but config.init is no fit to mammograms: there are"
                " no weights of its head to take a mean with. Leave it out."
            )
        return cls(config.steps, config.init, share)

    def __call__(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
        """The items to save after this number of steps."""
        if step < self.steps or not self.share:
            return items
        # Read again, as the fit has given the memory of its first weights to later ones.
        before = restore_items(self.init, ("encoder", "head"))[0]
        mean = jax.tree.map(
            lambda old, new: self.share * old + (1 - self.share) * new,
            before,
            {name: items[name] for name in before},
        )
        return items | mean


def _save(
    checkpoints: Checkpoints,
    end: int,
    last: LastWeights,
    step: int,
    state: dict[str, Any],
    *_: Callable,
) -> bool:
    checkpoints.save_if_due(step + 1, last(step + 1, _items(state)), now=step + 1 == end)
    return False


def _seen(store: Store, sampler: Sampler, config: ConfigDict) -> dict[str, Any]:
    """Studies of a fit, and the patients that it or its initial encoder has seen."""
    seen = {
        "key_fingerprint": store.key_fingerprint,
        "patients": _patients(store, config.data.splits),
        "studies": sampler.digest,
    }
    if not config.init:
        return seen
    # for a checkpoint that does not record whom it has seen
    unknown = {"key_fingerprint": "unknown", "patients": []}
    return unite_patients(seen, restore_items(config.init, ())[1].get("pretraining") or unknown)


def _writer(log: Log) -> Callable[[int, Mapping[str, Any]], None]:
    """Function that writes a step's metrics.

    It raises `WorkFailed` if several in a row are not finite.
    """
    patience = Patience("Lower config.optimizer.peak_lr.")

    def write(step: int, metrics: Mapping[str, Any]) -> None:
        log.write(step, metrics)
        patience.see(step, skipped=bool(metrics["skipped"]))

    return write


def spans(first: int, steps: int, mine_at: Sequence[int]) -> list[tuple[int, int]]:
    """Steps from `first` to `steps`, cut where hard negatives are mined; `mine_at` is ascending.

    Example:
      >>> spans(5, 30, (10, 20))
      [(5, 10), (10, 20), (20, 30)]
    """
    # A resume past `steps` gives an empty span, not one that runs backwards.
    cuts = [first, *(at for at in mine_at if first < at < steps), max(first, steps)]
    return list(pairwise(cuts))


def init_state(
    model: TileSegmenter, shape: TileShape, tx: optax.GradientTransformation, seed: int, init: str
) -> dict[str, Any]:
    """Parameters, optimizer state and step.

    Args:
      init: a checkpoint whose encoder is used, and its head if it is of another fit; "" for fresh
        weights.
    """
    row = shape.empty(1)
    # Fresh weights depend only on the key and on shapes: an empty row is enough.
    # By the method that reaches every module, or the auxiliary task has no weights.
    method = "with_positions" if model.position else "__call__"
    params = _drawn(model, method, jax.random.key(seed), [row[name] for name in INPUTS])
    if init:
        params = {**params, **_weights_of(init, model, params)}
    opt_state = jax.jit(tx.init)(params)  # one program, and not one for each shape
    return {"params": params, "opt_state": opt_state, "step": jnp.zeros((), jnp.int32)}


@partial(jax.jit, static_argnums=(0, 1))
def _drawn(model: TileSegmenter, method: str, key: jax.Array, inputs: list) -> Any:
    return model.init(key, *inputs, method=method)["params"]


# Fields of a backbone that do not affect the shape of its weights.
FREE = {"parent", "name", "attention", "remat", "dtype", "drop_path"}


def _weights_of(init: str, model: TileSegmenter, params: Any) -> dict[str, Any]:
    """Encoder of a checkpoint, and the head if it was fitted to mammograms.

    Raises:
      UserError: they belong to another model.
    """
    config = restore_items(init, ())[1]
    trained, wanted = make_encoder(**config["encoder"]), model.encoder
    if type(trained) is type(wanted):
        # A backbone is a dataclass: all fields that shape its weights must be equal.
        names = {field.name for field in fields(trained)} - FREE
        told = [
            f"{name} {getattr(trained, name)} and not {getattr(wanted, name)}"
            for name in sorted(names)
            if getattr(trained, name) != getattr(wanted, name)
        ]
    else:
        told = [f"backbone {type(trained).__name__} and not {type(wanted).__name__}"]
    if told:
        raise UserError(
            f"config.init: that checkpoint's encoder has {', '.join(told)}. Set config.encoder to"
            " that of its run, or pretrain one with this group."
        )
    # Only a fit on mammograms has measuring rules, and with them a head.
    weights = restore_items(init, ("encoder", "head") if "measure" in config else ("encoder",))[0]
    if "head" in weights and jax.tree.map(jnp.shape, weights["head"]) != jax.tree.map(
        jnp.shape, params["head"]
    ):
        raise UserError(
            "config.init: that checkpoint's head is another. Set config.head to that of its run:"
            f" {config['head']}."
        )
    return weights


def fit_step(
    state: dict[str, Any],
    batch: Mapping[str, jax.Array],
    *,
    model: TileSegmenter,
    tx: optax.GradientTransformation,
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """One training step: (state, batch) -> (state, metrics).

    If the gradient is not finite, only the step counter changes.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        inputs, auxiliary = [batch[name] for name in INPUTS], {}
        if model.position:
            logits, placed = model.apply({"params": params}, *inputs, method="with_positions")
            auxiliary["position"] = position_loss(placed, batch["positions"], batch["places"])
        else:
            logits = model.apply({"params": params}, *inputs)
        entropy, dice_loss = segmentation_loss(logits, batch["truth"], batch["counted"])
        # A logit above 0 is a probability above one half.
        found = (logits > 0) * batch["counted"]
        hard = (2 * (found * batch["truth"]).sum() + 1) / (
            (found + batch["truth"] * batch["counted"]).sum() + 1
        )
        # Few pixels are calcified, so their mean cross-entropy is small beside one minus Dice.
        loss = 10 * entropy + dice_loss + model.position * auxiliary.get("position", 0.0)
        seen = {"entropy": entropy, "dice_loss": dice_loss, "dice": hard}
        return loss, seen | auxiliary

    (loss, seen), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"])
    norm = optax.tree.norm(grads)
    updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
    new = {
        "params": optax.apply_updates(state["params"], updates),
        "opt_state": opt_state,
        "step": state["step"],
    }
    kept, skipped = keep_finite(new, state, loss, norm)
    return {**kept, "step": state["step"] + 1}, {
        "loss": loss,
        **seen,
        "grad_norm": norm,
        "skipped": skipped,
    }


def jit_fit_step(model: TileSegmenter, tx: optax.GradientTransformation) -> Callable:
    """`fit_step`, compiled. The old state gives its memory to the new one: do not read it again."""
    return jax.jit(partial(fit_step, model=model, tx=tx), donate_argnums=0)


def _ahead(sampler: Sampler, first: int, rows: int) -> Iterator[dict[str, Any]]:
    """Batches from step `first` on, each read while the device computes with the one before."""
    with ThreadPoolExecutor(1) as pool:
        step, waiting = first, pool.submit(sampler.batch, first, rows)
        while True:
            ready, step = waiting.result(), step + 1
            # Reading early changes nothing, as a batch depends only on its step.
            waiting = pool.submit(sampler.batch, step, rows)
            yield ready


def _items(state: Mapping[str, Any]) -> dict[str, Any]:
    """Items of a checkpoint; those that `mmv bac` needs are separate from those for a resume."""
    params = dict(state["params"])
    needed = {name: params.pop(name) for name in ("encoder", "head")}
    rest = {"opt_state": state["opt_state"], "step": state["step"]}
    # The auxiliary task's weights, where there are any: nothing but a resume reads them.
    return {**needed, "state": rest | ({"auxiliary": params} if params else {})}


def _state(items: Mapping[str, Any]) -> dict[str, Any]:
    """State of a fit from the items of a checkpoint."""
    rest = dict(items["state"])
    auxiliary = rest.pop("auxiliary", {})
    params = {"encoder": items["encoder"], "head": items["head"], **auxiliary}
    return {"params": params, **rest}


def _patients(store: Store, splits: Sequence[str]) -> list[str]:
    index = store.index
    return sorted(set(index["patient"][index["split"].isin(list(splits))]))
