"""AdamW and the schedules of a run, scaled from the batch size that they were tuned for."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mmv_jax.errors import UserError

Schedule = Callable[[Any], Float[Array, ""]]


def make_learning_rate(
    steps: int,
    rows: int,
    *,
    peak_lr: float,
    at_rows: int,
    warmup: float,
    decay: float | None = None,
) -> Schedule:
    """Make the learning rate: linear warm-up, then a half cosine down to 1 % of the peak, or a
    constant rate that falls at the end.

    The peak grows with the square root of the rows of a step.

    Args:
      steps: of the whole run.
      rows: of a step; `peak_lr` was tuned for `at_rows`.
      warmup: share of the steps.
      decay: share of the steps at the end in which a constant rate falls to 1 % of the peak, along
        1 minus a square root. None: a cosine.
    Raises:
      UserError: the warm-up, which takes at least one step, leaves no step after it, or `decay` is
        no share of the rest.

    Source: the square root for Adam: Malladi et al. (arXiv 2205.10287), section 4; DINOv2 does the
      same (arXiv 2304.07193, appendix A). The constant rate and its end: Hägele et al. (arXiv
      2405.18392), equation 1.
    """
    rising = max(1, round(warmup * steps))
    if steps <= rising:
        raise UserError(
            f"config.steps is {steps}, but the warm-up takes {rising} steps"
            f" (config.optimizer.warmup is {warmup}). Set --config.steps to {rising + 1} or more,"
            " or lower config.optimizer.warmup."
        )
    peak = peak_lr * (rows / at_rows) ** 0.5
    if decay is None:
        return optax.schedules.warmup_cosine_decay_schedule(
            0.0, peak, rising, decay_steps=steps, end_value=0.01 * peak
        )
    falling = round(decay * steps)
    if not 0 < falling <= steps - rising:
        raise UserError(
            f"config.optimizer.decay is {decay}: {falling} of {steps} steps, but it takes from 1 to"
            f" {steps - rising} after the warm-up. Leave it out for a cosine."
        )

    def fall(step) -> Float[Array, "*steps"]:
        return peak * (1 - 0.99 * jnp.sqrt(jnp.clip(step / falling, 0, 1)))

    return optax.schedules.join_schedules(
        (
            optax.schedules.linear_schedule(0.0, peak, rising),
            optax.schedules.constant_schedule(peak),
            fall,
        ),
        (rising, steps - falling),
    )


def make_optimizer(
    steps: int,
    rows: int,
    *,
    peak_lr: float,
    at_rows: int,
    warmup: float,
    weight_decay: float,
    b2: float = 0.95,
    clip: float = 3.0,
    decay: float | None = None,
    weight_decay_end: float | None = None,
    decay_prototypes: bool = False,
    frozen_prototypes: float = 0.0,
    layer_decay: float = 1.0,
    patch_rate: float = 1.0,
    encoder: Any = None,
) -> optax.GradientTransformation:
    """Make AdamW with weight decay on the kernels of dense layers alone, and clipped gradients.

    Args:
      steps: of the whole run.
      rows: of a step.
      peak_lr: the learning rate after warm-up, for steps of `at_rows` rows.
      at_rows: rows of a step that the values were tuned for.
      warmup: share of the steps in which the learning rate rises.
      weight_decay: a step multiplies kernels by 1 - learning rate * weight_decay.
      b2: decay rate of the second moment.
      clip: the largest norm of a gradient.
      decay: share of the steps at the end in which a constant learning rate falls, so that a run
        can be prolonged from before them. None: the rate follows a cosine.
      weight_decay_end: the weight decay at the last step, on a cosine from `weight_decay`. None: it
        is constant.
      decay_prototypes: whether the prototypes of heads decay too.
      frozen_prototypes: share of the steps at the start in which prototypes do not move.
      layer_decay: each layer of the encoder has this many times the learning rate of the one above.
      patch_rate: factor of the learning rate of the kernel that embeds patches.
      encoder: the backbone, which knows its layers.
    Raises:
      UserError: a share or a factor is out of its range.

    Source: Loshchilov and Hutter (arXiv 1711.05101); b2 of 0.95 as in masked autoencoders (arXiv
      2111.06377, table 8). Schedules and factors: Oquab et al., DINOv2 (arXiv 2304.07193).
    """
    schedule = make_learning_rate(
        steps, rows, peak_lr=peak_lr, at_rows=at_rows, warmup=warmup, decay=decay
    )
    check_share("frozen_prototypes", frozen_prototypes)
    for name, factor in (("layer_decay", layer_decay), ("patch_rate", patch_rate)):
        if not 0 < factor <= 1:
            raise UserError(f"config.optimizer.{name} is {factor!r}. Set it above 0, at most 1.")
    decays = all_kernels if decay_prototypes else kernels
    wanes: float | Schedule = weight_decay
    if weight_decay_end is not None:
        wanes = _cosine(weight_decay, weight_decay_end, steps)
    parts = [
        # Clipped before Adam: otherwise one huge gradient would stay in its moments for long.
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, b1=0.9, b2=b2, weight_decay=wanes, mask=decays),
    ]
    if layer_decay < 1 or patch_rate < 1:
        # After AdamW, so that they are factors of the learning rate and not of the gradient, whose
        # scale Adam takes out again.
        rates = partial(
            rates_of_layers,
            encoder=encoder,
            layer_decay=layer_decay,
            patch_rate=patch_rate,
        )
        parts.append(
            optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates(updates)))
        )
    if frozen_prototypes:
        until = round(frozen_prototypes * steps)
        moves = optax.scale_by_schedule(lambda step: jnp.where(step < until, 0.0, 1.0))
        parts.append(optax.masked(moves, prototypes_of))
    return optax.chain(*parts)


def check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise UserError(f"config.optimizer.{name} is {share!r}. Set a share from 0 to below 1.")


def _cosine(start: float, end: float, steps: int) -> Schedule:
    def at(step) -> Float[Array, "*steps"]:
        part = jnp.minimum(step / max(steps - 1, 1), 1.0)
        return end + (start - end) * (jnp.cos(jnp.pi * part) + 1) / 2

    return at


def rates_of_layers(params: Any, *, encoder: Any, layer_decay: float, patch_rate: float) -> Any:
    """Factors of the learning rate, a number or an array a parameter.

    Args:
      params: of the student, by module; those that learn.
      encoder: its backbone.
    """
    rates = jax.tree.map(lambda leaf: 1.0, params)
    if "encoder" not in params:
        return rates
    own = jax.tree.map(
        # Of stacked blocks only the last ones may learn.
        lambda rate, leaf: rate[-len(leaf) :] if jnp.ndim(rate) else rate,
        encoder.layer_rates(params["encoder"], layer_decay),
        params["encoder"],
    )
    rates["encoder"] = jax.tree_util.tree_map_with_path(
        lambda path, rate: rate * patch_rate if _named(path, "patch") else rate, own
    )
    return rates


def _named(path: tuple, name: str) -> bool:
    return any(getattr(part, "key", None) == name for part in path)


def all_kernels(params: Any) -> Any:
    """A tree that is True at the kernels of dense layers and at prototypes."""
    return jax.tree.map(operator.or_, kernels(params), prototypes_of(params))


def prototypes_of(params: Any) -> Any:
    """A tree that is True at the prototypes of heads."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _named(path, "prototypes"), params)


def kernels(params: Any) -> Any:
    """A tree that is True at the kernels of dense layers.

    Kernels are found by name, since biases of scanned layers have two axes too.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) == "kernel", params
    )


@dataclass(frozen=True)
class Ema:
    """The moving averages of the student: the teacher, and averages for evaluation.

    Attributes:
      momentum: the teacher's, as a function of the step.
      steps: of the run.
      averages: the share of the run that each average covers.
    """

    momentum: Schedule
    steps: int
    averages: tuple[float, ...]

    def __call__(self, step) -> Float[Array, ""]:
        return self.momentum(step)

    def share(self, number: int, step) -> Float[Array, ""]:
        """The weight of the student in the update of an average after a step.

        The first steps are averaged evenly, so that nothing of the random start remains.
        """
        # 1 / (step + 1) makes a plain mean of all steps.
        # The constant share takes over once that mean covers the wanted memory.
        return jnp.maximum(1 / (step + 1.0), 1 / max(self.averages[number] * self.steps, 1.0))


def make_ema(
    steps: int,
    rows: int,
    *,
    start: float,
    at_rows: int,
    averages: Sequence[float] = (),
    end: float = 1.0,
) -> Ema:
    """Make the teacher's momentum: from `start` to `end` on a half cosine, scaled to the rows of a
    step.

    A step with κ times the rows moves the teacher like κ small steps. So its momentum is `start **
    κ` for κ = rows / at_rows.

    A short run must not end with a teacher that still remembers its random start. Therefore its
    memory, 1 / (1 - momentum), is at most a twentieth of the run at first. Towards the end the
    teacher hardly moves. That is good for a target, but such a teacher is out of date in a short
    run. Evaluate an average instead.

    Args:
      start: the momentum at the first step, for steps of `at_rows` rows.
      at_rows: rows of a step that `start` was tuned for.
      averages: shares of the run, at most two, such as (0.05, 0.02). For each, a moving average of
        the student's encoder with that memory is kept. Evaluation reads the first; `config.weights`
        of an evaluation chooses the other. With none, the teacher is evaluated.
      end: the momentum at the last step, for steps of `at_rows` rows. That of `start` makes it
        constant, as in DINOv3.
    Raises:
      UserError: a share or `end` is not above 0 and at most 1, or there are more than two shares.

    Source: Busbridge et al., How to Scale Your EMA (arXiv 2307.13813), equation 4; the cosine is
      DINO's (arXiv 2104.14294).
    """
    shares = tuple(averages)
    if len(shares) > 2 or not all(isinstance(s, int | float) and 0 < s <= 1 for s in shares):
        raise UserError(
            f"config.ema.averages is {shares!r}, but must be shares of the run. Set at most two"
            " numbers above 0 and at most 1, such as (0.05, 0.02)."
        )
    if not 0 < end <= 1:
        raise UserError(f"config.ema.end is {end!r}. Set a momentum above 0, at most 1.")
    last = end ** (rows / at_rows)
    # A memory of steps / 20 is a momentum of 1 - 20 / steps; below 20 steps it is 0.
    first = min(start ** (rows / at_rows), 1 - min(1.0, 20 / steps))

    def momentum(step) -> Float[Array, ""]:
        # The cosine term falls from 1 at step 0 to 0 at the last step, and stays there.
        return last - (last - first) * (jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0)) + 1) / 2

    return Ema(momentum, steps, shares)


def make_teacher_temperature(
    steps: int, *, start: float = 0.04, end: float = 0.07, warmup: float = 0.3
) -> Schedule:
    """Make the teacher's temperature: sharp targets first, softer ones after `warmup` of the steps.

    Args:
      start, end: at the first step, and from the end of the warm-up on.
      warmup: share of the steps.
    Raises:
      UserError: a temperature is too low to be computed in float32, or the share is none.

    Source: Caron et al., DINO (arXiv 2104.14294), appendix D.
    """
    if not min(start, end) >= 0.03 or not 0 <= warmup <= 1:
        raise UserError(
            f"config.teacher_temperature: start {start!r}, end {end!r}, warmup {warmup!r}. Set"
            " temperatures from 0.03 on, and a share of the steps from 0 to 1."
        )
    return optax.schedules.linear_schedule(start, end, max(1, round(warmup * steps)))
