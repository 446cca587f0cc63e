"""What fits may spend, alike for every network: epochs, settings that val chooses from, seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.evaluate.finetune.gradient_descent import Recipe
from mmv_jax.evaluate.finetune.learner import Fit, told


@dataclass(frozen=True)
class Budget:
    """`config.fit`: one budget for every network that is fitted by gradient descent.

    First the learning rate is chosen on val, then the layer decay at this rate; or the best of all
    pairs. Then the chosen setting is fitted with each seed, and only these fits are measured on
    test.

    Attributes:
      epochs: passes over the training studies, at most; the learning rate falls to 1 % over them.
      patience: epochs without a better score on val after which a fit ends, once it has bettered
        the score of its start.
      batch: studies a step.
      seeds: fits of the chosen setting; mean and standard deviation are given.
      studies: training studies of a task that fits see, at most; 0 for all (`tasks.fewer`).
      rates: learning rates to try, as multiples of the one that is usual for the network.
      layer_decays: to try where an encoder is fine-tuned: the factor of a layer's learning rate
        relative to the layer above. 1 is none; published values begin at 0.65.
      all_pairs: whether every rate is tried with every decay: nine trials, not five.

    Source of the layer decays: Bao et al., BEiT (arXiv 2106.08254), appendix; He et al., MAE (arXiv
      2111.06377), appendix A.
    """

    epochs: int = 50
    patience: int = 10
    batch: int = 16
    seeds: int = 3
    studies: int = 0
    rates: tuple[float, ...] = (0.25, 1.0, 4.0)
    layer_decays: tuple[float, ...] = (0.65, 0.8, 1.0)
    all_pairs: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Budget":
        """The budget with the options of a config.

        Raises:
          UserError: there is no such option, or its value is not possible.
        """
        # The fields are the options, so that none can be forgotten here.
        known = {field.name: field.default for field in fields(cls)}
        for name, value in options.items():
            if name not in known:
                raise UserError(f"config.fit.{name} does not exist. There are: {', '.join(known)}.")
            if isinstance(known[name], bool):
                if not isinstance(value, bool):
                    raise UserError(f"config.fit.{name} is {value!r}, but must be True or False.")
            elif isinstance(known[name], int):
                # `True` is an int in Python, and a config may hold one by mistake.
                least = 0 if name == "studies" else 1
                if not isinstance(value, int) or isinstance(value, bool) or value < least:
                    raise UserError(
                        f"config.fit.{name} is {value!r}, but must be a whole number from {least}"
                        " on."
                    )
            elif not _are_positive(value, most=1.0 if name == "layer_decays" else np.inf):
                limit = ", none above 1" if name == "layer_decays" else ""
                raise UserError(
                    f"config.fit.{name} is {value!r}, but must be a list of positive numbers"
                    f"{limit}."
                )
        # A list of the command line is a tuple here, so that equal budgets are equal.
        lists = {k: tuple(v) for k, v in options.items() if isinstance(known[k], tuple)}
        changed: dict[str, Any] = {**options, **lists}
        return cls(**changed)

    def bounds(self, recipe: Recipe) -> Recipe:
        """A network's recipe with the epochs, patience and batch of this budget."""
        return replace(recipe, epochs=self.epochs, patience=self.patience, batch=self.batch)


@dataclass(frozen=True)
class Tuned:
    """The setting that val chose, and all fits.

    Attributes:
      recipe: the chosen one.
      trials: the fits among which val chose; empty where there was one setting.
      fits: of the chosen recipe, one a seed.
    """

    recipe: Recipe
    trials: Sequence[Fit]
    fits: Sequence[Fit]


@dataclass(frozen=True)
class Spent:
    """What the fits behind a result have cost, over all structures of a task.

    Attributes:
      setting: the chosen one in words; of several structures one after the other.
      settings: how many val chose from.
      fits: those that choose and those that are measured.
      epochs: of all fits together; one is a pass over the training studies.
      seconds: of processor time, of all fits together.
      studies: training studies that each fit saw.
      by_seed: epochs of the measured fits, in words.
    """

    setting: str
    settings: int
    fits: int
    epochs: int
    seconds: float
    studies: int
    by_seed: Sequence[str]

    @classmethod
    def of(cls, parts: Sequence[Tuned], studies: int) -> "Spent":
        """The sum over the structures of a task, whose fits saw so many training studies."""
        # Trials are spent too, although test never sees them.
        fits = [fit for part in parts for fit in (*part.trials, *part.fits)]
        return cls(
            setting="; ".join(in_words(part.recipe) for part in parts),
            settings=max(len(parts[0].trials), 1),
            fits=len(fits),
            epochs=sum(fit.epochs for fit in fits),
            seconds=sum(fit.seconds for fit in fits),
            studies=studies,
            by_seed=[
                " and ".join(map(told, of_seed)) for of_seed in zip(*(part.fits for part in parts))
            ],
        )


def in_words(recipe: Recipe) -> str:
    """The setting of a recipe: 'learning rate 0.0005, layer decay 0.8'."""
    decay = f", layer decay {recipe.layer_decay:g}" if recipe.layer_decay != 1 else ""
    return f"learning rate {recipe.peak_lr:g}{decay}"


def tune(
    fit_once: Callable[[Recipe, int, bool], Fit],
    usual: Recipe,
    budget: Budget,
    seed: int,
    *,
    layered: bool,
) -> Tuned:
    """Choose learning rate and layer decay on val, then fit the chosen setting with each seed.

    The fits that choose have seed `seed`, the measured ones `seed + 1`, `seed + 2`, …: a lucky fit
    that won the choice is not measured itself.

    Args:
      fit_once: (recipe, seed, tested) -> fit.
      usual: the network's own recipe.
      layered: whether layers have decaying rates, as in fine-tuning.
    """
    # Recipes are frozen, so a setting that both steps ask for is fitted once.
    tried: dict[Recipe, Fit] = {}

    def best_of(recipes: Sequence[Recipe]) -> Recipe:
        if len(recipes) == 1:  # nothing to choose
            return recipes[0]
        for recipe in recipes:
            if recipe not in tried:
                tried[recipe] = fit_once(recipe, seed, False)
        # A fit that diverged at once has no score; among equals the first one is taken.
        return max(recipes, key=lambda recipe: np.nan_to_num(tried[recipe].score, nan=-np.inf))

    # Fresh layers have learnt nothing that a lower rate could keep.
    decays = budget.layer_decays if layered else (1.0,)
    bounded, rates = budget.bounds(usual), [usual.peak_lr * rate for rate in budget.rates]
    if budget.all_pairs:
        pairs = [(rate, decay) for rate in rates for decay in decays]
        chosen = best_of([replace(bounded, peak_lr=r, layer_decay=d) for r, d in pairs])
    else:
        # Rates are compared at the middle one of the decays. Five trials instead of nine: a network
        # of the usual depth changes more with the rate than with the decay.
        middle = replace(bounded, layer_decay=decays[len(decays) // 2])
        chosen = best_of([replace(middle, peak_lr=rate) for rate in rates])
        chosen = best_of([replace(chosen, layer_decay=decay) for decay in decays])
    fits = [fit_once(chosen, seed + n, True) for n in range(1, budget.seeds + 1)]
    return Tuned(chosen, list(tried.values()), fits)


def _are_positive(values: Any, most: float) -> bool:
    if not isinstance(values, (list, tuple)) or not values:
        return False
    # Text and booleans are no numbers, whatever Python thinks of the latter.
    plain = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in values)
    return plain and all(0 < x <= most and np.isfinite(x) for x in values)
