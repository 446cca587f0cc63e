"""What a network must do to be fitted like all others, and the record of one fit."""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from mmv_jax.evaluate.finetune.gradient_descent import Fitted, Recipe
from mmv_jax.evaluate.kinds.mask_scores import Segmented

FORWARD = 8  # studies at a time, where nothing is learnt
HEAD_VERSION = 1  # of the heads with which fine-tuning begins; part of the name of a kept fit
# Masks of the test studies, or their predicted probabilities or numbers.
Answer = Segmented | Float[np.ndarray, " M"]


class Learner(Protocol):
    """A network and the studies of one task. It reads test studies in `answer` alone."""

    def fit(self, recipe: Recipe, seed: int) -> Fitted:
        """Fit on train, stopped by val; the same seed gives the same parameters."""

    def answer(self, fitted: Fitted, batch: int) -> Answer:
        """Answers for the test studies, `batch` studies at a time."""


@dataclass(frozen=True)
class Fit:
    """One fit.

    Attributes:
      answer: None of a fit that only val has judged.
      score: on val, by which fits of one network are compared; larger is better.
      epoch: the one that val chose; 0: before the first.
      epochs: how many were run until val stopped the fit.
      seconds: of processor time (user and system, all threads of this process), compilation and
        test included.
    """

    answer: Answer | None
    score: float
    epoch: int
    epochs: int
    seconds: float


def told(fitted: Fitted | Fit) -> str:
    """The epoch that val chose, and after how many the fit was stopped, in words."""
    return f"epoch {fitted.epoch} of {fitted.epochs}"


def learn(learner: Learner, recipe: Recipe, seed: int, *, tested: bool) -> Fit:
    """Fit once. Only a fit that is `tested` reads the test studies, when it is over."""
    # Not wall time: that would count the other programs of a shared machine.
    began = time.process_time()
    fitted = learner.fit(recipe, seed)
    # `answer` is the one place that opens test studies.
    answer = learner.answer(fitted, recipe.batch) if tested else None
    seconds = time.process_time() - began
    return Fit(answer, fitted.score, fitted.epoch, epochs=fitted.epochs, seconds=seconds)
