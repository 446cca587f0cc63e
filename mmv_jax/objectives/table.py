"""The table of loss terms, and the terms that a config asks for."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import flax.linen as nn

from mmv_jax.errors import UserError
from mmv_jax.objectives.can import CanTerm
from mmv_jax.objectives.diet import DietTerm
from mmv_jax.objectives.dino import DinoTerm
from mmv_jax.objectives.distil import DistilTerm
from mmv_jax.objectives.gram import GramTerm
from mmv_jax.objectives.ibot import IbotTerm
from mmv_jax.objectives.koleo import KoleoTerm
from mmv_jax.objectives.latent import LatentTerm
from mmv_jax.objectives.mae import MaeTerm
from mmv_jax.objectives.term import Term
from mmv_jax.registry import Registry

# The loss sums the terms in this order.
TERMS: Registry[type[Term]] = Registry("loss term")
TERMS.register("dino", DinoTerm)
TERMS.register("ibot", IbotTerm)
TERMS.register("koleo", KoleoTerm)
TERMS.register("mae", MaeTerm)
TERMS.register("distil", DistilTerm)
TERMS.register("can", CanTerm)
TERMS.register("diet", DietTerm)
TERMS.register("latent", LatentTerm)
TERMS.register("gram", GramTerm)


def weights_of(group: Mapping[str, Any]) -> dict[str, float]:
    """The terms of a config's group `objective` with a weight above 0, in the table's order.

    A term that the config does not name has the weight 0.

    Raises:
      UserError: a weight is not a number of at least 0.
    """
    weights = {name: group.get(name, 0.0) for name in TERMS}
    for name, weight in weights.items():
        # True is an int in Python; `not weight >= 0` refuses NaN as well.
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
            raise UserError(
                f"config.objective.{name} is {weight!r}, but is the weight of a loss term. Set a"
                " number that is 0 or above."
            )
    return {name: float(weight) for name, weight in weights.items() if weight > 0}


def needs_of(group: Mapping[str, Any]) -> frozenset[str]:
    """The needs of a config's terms, by the names in `term.py`."""
    terms = [TERMS[name] for name in weights_of(group)]
    return frozenset().union(*(term.needs | term.more_needs(group) for term in terms))


def make_terms(encoder: nn.Module, group: Mapping[str, Any]) -> dict[str, Term]:
    """Make the terms of a config's group `objective`, with their options.

    Raises:
      UserError: a key is neither a term nor an option of one, or the value of an option does not
        fit.
    """
    known = {name: options_of(kind) for name, kind in TERMS.items()}
    # A config may keep the options of a term whose weight is 0.
    keys = sorted({*TERMS, *(key for options in known.values() for key in options)})
    for key in group:
        if key not in keys:
            close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            advice = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(keys)}."
            raise UserError(
                f"config.objective.{key} does not exist. {advice} A loss term of your own is"
                " registered by a file that config.plugins names."
            )
    return {
        name: TERMS[name](encoder, **{key: group[key] for key in known[name] if key in group})
        for name in weights_of(group)
    }


def options_of(kind: type[Term]) -> list[str]:
    """The names of a term's options.

    Example:
      >>> options_of(MaeTerm)
      ['decoder_width', 'decoder_depth', 'decoder_heads', 'clean_targets', 'decode_share']
    """
    return [field.name for field in fields(kind) if field.name != "encoder"]


def verdicts(metrics: Mapping[str, float | int], group: Mapping[str, Any]) -> list[str]:
    """Faults in the metrics of a step, one sentence each, by all terms of a config."""
    return [words for name in weights_of(group) for words in TERMS[name].verdict(metrics, group)]
