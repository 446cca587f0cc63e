"""Health of the features during training: figures, and a verdict in words.

Axes: N crops, D width.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from mmv_jax.errors import WorkFailed
from mmv_jax.metrics.features import feature_std, rankme
from mmv_jax.objectives.table import verdicts

STEPS = 3  # a run stops after so many steps in a row that are not finite


class Patience:
    """Counter of steps in a row that are not finite.

    Args:
      advice: a sentence on what to change.
    """

    def __init__(self, advice: str):
        self._advice, self._in_a_row = advice, 0

    def see(self, step: int, *, skipped: bool) -> None:
        """Count a step.

        Raises:
          WorkFailed: this was the last of `STEPS` skipped steps in a row.
        """
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= STEPS:
            raise WorkFailed(
                f"the loss or its gradient was not finite for {STEPS} steps in a row (to step"
                f" {step}). They changed no weight. {self._advice} The same command goes on from"
                " the last checkpoint."
            )


WINDOW = 512  # features in one estimate: those of a small batch are too few for a rank
FEWEST = 32  # with fewer features no rank is computed
LOW_STD, LOW_RANK = 0.02, 1.5  # below these, features have collapsed


@dataclass(frozen=True)
class HealthOptions:
    """The group `health` of a config.

    Attributes:
      every: steps between the figures of the features.
      knn: for each modality the label that the kNN probe predicts; None for no probe.
      knn_every: steps between the probes.
    """

    every: int
    knn: Mapping[str, str] | None = None
    knn_every: int | None = None


@dataclass
class Health:
    """The features of a run's latest global crops, and a verdict on them.

    Args:
      objective: the config's group of that name; its loss terms judge the numbers of a step.
    """

    objective: Mapping[str, Any] = field(default_factory=dict)
    _features: deque = field(default_factory=lambda: deque(maxlen=WINDOW))
    _first_rank: float | None = None
    _last_std: float | None = None

    def add(self, features: Float[np.ndarray, "N D"]) -> None:
        """Add the features of a step; rows of zeros are padding."""
        self._features.extend(features[np.abs(features).sum(axis=1) > 0])

    def figures(self) -> dict[str, float]:
        """`rank` and `std` of the latest features; empty if there are fewer than `FEWEST`.

        `rank` is RankMe (arXiv 2210.02885) of the centred features. `std` is that of the unit
        features times sqrt(D): 1 if they fill the sphere, 0 if they are one point.
        """
        if len(self._features) < FEWEST:
            return {}
        x = np.stack(self._features)
        return {
            # Centred: otherwise the mean is one large singular value, and the rank seems low.
            "rank": rankme(x - x.mean(axis=0)[None]),
            "std": feature_std(x) * math.sqrt(x.shape[1]),
        }

    def verdict(
        self, metrics: Mapping[str, float | int], figures: Mapping[str, float]
    ) -> list[str]:
        """Faults of the features and the loss, one sentence each; empty if there is none."""
        words = []
        if figures:
            words += self._of_features(figures["rank"], figures["std"])
            # The first rank stays the reference of the whole run;
            # the std is compared with the figure before.
            self._first_rank, self._last_std = self._first_rank or figures["rank"], figures["std"]
        return words + verdicts(metrics, self.objective)

    def _of_features(self, rank: float, std: float) -> list[str]:
        if self._first_rank is None or self._last_std is None:
            # Deep encoders begin near the identity: at first their features are all alike.
            return []
        # A std that has grown by a tenth since the last figures is no collapse: the features are
        # moving apart again.
        if (std < LOW_STD or rank < LOW_RANK) and std < 1.1 * self._last_std:
            return [
                f"COLLAPSE: all studies have nearly the same features (rank {rank:.1f}, std"
                f" {std:.3f} of 1). Stop the run; lower optimizer.peak_lr, lengthen"
                " optimizer.warmup, or raise objective.koleo."
            ]
        if rank < 0.25 * self._first_rank:
            return [
                f"The rank of the features has fallen from {self._first_rank:.1f} to {rank:.1f}:"
                " they are about to collapse if this goes on."
            ]
        return []
