"""Fits by gradient descent with early stopping on val: heads, fine-tuning, supervised baselines.

Fine-tuning has layer-wise decay. This is the one file of the room that imports from training, for
its optimizer.

Axes: N studies, B studies of a step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mmv_jax.models.backbone import Backbone
from mmv_jax.train.optimizer import make_learning_rate, make_optimizer

WARMUP, B2, CLIP = 0.1, 0.999, 3.0  # share of the steps; of AdamW; the largest norm of a gradient
Batch = Mapping[str, Any]  # arrays of B studies each
Loss = Callable[[Any, Batch, Array], Float[Array, ""]]


@dataclass(frozen=True)
class Recipe:
    """Length and learning rate of a fit.

    Attributes:
      epochs: passes over the training studies, at most; the learning rate falls to 1 % over them.
      patience: epochs without a better score on val after which the fit ends, once it has bettered
        the score of its start.
      batch: studies a step.
      peak_lr, weight_decay: as in `config.optimizer`, for steps of `batch` studies.
      layer_decay: factor of a layer's learning rate relative to the layer above; 1 for none.
    """

    epochs: int = 40
    patience: int = 8
    batch: int = 16
    peak_lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 1.0


@dataclass(frozen=True)
class Fitted:
    """The best parameters on val, their score there, and their epoch (0: before the first).

    Attributes:
      epochs: how many were run before the fit was stopped.
    """

    params: Any
    score: float
    epoch: int
    epochs: int


def init_params(model: nn.Module, seed: int, *inputs: Any) -> Any:
    """The initial parameters of a model; `inputs` are those of a call.

    The generator is XLA's own. With JAX's default, compiling this for a U-Net took 22 s of
    processor time instead of 4.
    """
    return jax.jit(lambda key: model.init(key, *inputs)["params"])(jax.random.key(seed, impl="rbg"))


def fit(
    params: Any,
    loss_fn: Loss,
    data: Mapping[str, np.ndarray],
    score: Callable[[Any], float],
    recipe: Recipe,
    seed: int,
    encoder: Backbone | None = None,
) -> Fitted:
    """Minimise a loss over the training studies, and keep the parameters with the best score on
    val.

    Val is scored after every epoch.

    Args:
      params: at the start.
      loss_fn: (params, batch, key) -> loss; `batch` holds `recipe.batch` rows of each array of
        `data`.
      data: arrays [N, ...] of the training studies.
      score: of parameters on the val studies; larger is better.
      encoder: if given, `recipe.layer_decay` slows down its parameters, those under "encoder".
    Returns:
      The best on val. Test studies are not known here.
    """
    return fit_batches(
        params,
        loss_fn,
        lambda lines, _: {name: array[lines] for name, array in data.items()},
        count=len(next(iter(data.values()))),
        score=score,
        recipe=recipe,
        seed=seed,
        encoder=encoder,
    )


def fit_batches(
    params: Any,
    loss_fn: Loss,
    read: Callable[[np.ndarray, int], Batch],
    *,
    count: int,
    score: Callable[[Any], float],
    recipe: Recipe,
    seed: int,
    encoder: Backbone | None = None,
) -> Fitted:
    """As `fit`, of batches that are read when a step needs them.

    Args:
      read: (lines, step) -> the batch of these lines of the training data.
      count: of lines; an epoch is a pass over all of them.
    """
    rows, per_epoch = shape_of_epoch(count, recipe)
    # at_rows = rows: the recipe's rate is for its own batch, so it is not scaled by the rows.
    tx = make_optimizer(
        _scheduled(recipe, per_epoch),
        rows,
        peak_lr=recipe.peak_lr,
        at_rows=rows,
        warmup=WARMUP,
        weight_decay=recipe.weight_decay,
        b2=B2,
        clip=CLIP,
    )
    tx = optax.chain(tx, scale_by(layer_rates(params, recipe.layer_decay, encoder)))
    step_fn = jax.jit(_step(loss_fn, tx), donate_argnums=0)
    # A copy, since the step takes over the memory of its arguments.
    state = (jax.tree.map(jnp.array, params), jax.jit(tx.init)(params))
    key = jax.random.key(seed)

    def step(lines: np.ndarray, number: int) -> None:
        nonlocal state
        state = step_fn(
            state,
            read(lines, number),
            jax.random.fold_in(key, per_epoch + number),
        )

    return stopped_by_val(
        step,
        lambda: score(state[0]),
        copy=lambda: jax.tree.map(jnp.copy, state[0]),
        count=count,
        recipe=recipe,
        seed=seed,
    )


def shape_of_epoch(count: int, recipe: Recipe) -> tuple[int, int]:
    """Studies a step and steps an epoch, for `count` training studies."""
    rows = min(recipe.batch, count)
    # -(-a // b) is a / b rounded up.
    return rows, -(-count // rows)


def _scheduled(recipe: Recipe, per_epoch: int) -> int:
    """Steps of the schedule: at least two, since a warm-up needs a step after it."""
    # One epoch over few studies may be a single step.
    return max(recipe.epochs * per_epoch, 2)


def learning_rates(count: int, recipe: Recipe) -> Float[np.ndarray, " steps"]:
    """The learning rate of every step of a fit, as in `fit`, for optimizers outside optax."""
    rows, per_epoch = shape_of_epoch(count, recipe)
    steps = _scheduled(recipe, per_epoch)
    return np.asarray(
        jax.vmap(
            make_learning_rate(steps, rows, peak_lr=recipe.peak_lr, at_rows=rows, warmup=WARMUP)
        )(jnp.arange(steps))
    )


def stopped_by_val(
    step: Callable[[np.ndarray, int], None],
    score: Callable[[], float],
    copy: Callable[[], Any],
    count: int,
    recipe: Recipe,
    seed: int,
) -> Fitted:
    """The training loop of every fit, in any library, with early stopping by val.

    Args:
      step: learns from these rows of the training studies; steps are counted from 0.
      score: of the present model on val; larger is better.
      copy: the present parameters, in memory that no later step changes.
      count: of training studies. Every epoch is a pass over all of them, in a new order.
    """
    rows, per_epoch = shape_of_epoch(count, recipe)
    best, rng = Fitted(copy(), score(), epoch=0, epochs=0), np.random.default_rng(seed)
    for epoch in range(1, recipe.epochs + 1):
        # The last step is filled up with studies from the front.
        for n, lines in enumerate(np.resize(rng.permutation(count), (per_epoch, rows))):
            step(lines, (epoch - 1) * per_epoch + n)
        found = score()
        # NaN is never larger, so a diverged fit ends when its patience does. A fit that has not
        # bettered its start may do so when its learning rate has fallen, and has all its epochs.
        if found > best.score:
            best = Fitted(copy(), found, epoch, epochs=epoch)
        elif epoch - best.epoch >= recipe.patience and (best.epoch or not np.isfinite(found)):
            break
    # The best epoch is not the last one, unless the fit ran out of epochs.
    return replace(best, epochs=epoch)


def _step(loss_fn: Loss, tx: optax.GradientTransformation):
    def step(state: tuple[Any, Any], batch: Batch, key: Array) -> tuple[Any, Any]:
        params, opt_state = state
        updates, opt_state = tx.update(jax.grad(loss_fn)(params, batch, key), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return step


def layer_rates(params: Any, decay: float, encoder: Backbone | None) -> Any:
    """Factors of the learning rate, one a parameter.

    The backbone gives those under "encoder"; the head and all others have 1.

    Example:
      >>> layer_rates({"head": jnp.zeros(2)}, 0.5, None)
      {'head': 1.0}
    """
    rates = jax.tree.map(lambda _: 1.0, params)
    if encoder is None:
        return rates
    return {**rates, "encoder": encoder.layer_rates(params["encoder"], decay)}


def scale_by(rates: Any) -> optax.GradientTransformation:
    """A transformation that multiplies updates leaf by leaf.

    Use it after AdamW, so that weight decay is scaled as well.
    """
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda update, rate: update * rate, updates, rates)
    )


def in_batches(
    predict: Callable[[Batch], Array], data: Mapping[str, np.ndarray], batch: int
) -> np.ndarray:
    """`predict` over all rows of `data`, `batch` rows at a time.

    The last batch is filled up, so that only one shape is compiled.
    """
    count = len(next(iter(data.values())))
    rows = min(batch, count)
    # np.resize repeats studies from the front; `[:count]` drops their outputs.
    chunks = np.resize(np.arange(count), (-(-count // rows), rows))
    found = [
        np.asarray(predict({name: array[lines] for name, array in data.items()}))
        for lines in chunks
    ]
    return np.concatenate(found)[:count]
