"""What a kind of task has to say for itself: its truth, probe, metrics, loss and figures.

Axes: N studies of a task, M of its test, D width, K draws.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float

from mmv_jax.evaluate.kinds.features import Probed
from mmv_jax.metrics.intervals import Interval
from mmv_jax.metrics.weighted import Weighted

if TYPE_CHECKING:  # a task asks its kind, so this file cannot import it
    from mmv_jax.evaluate.tasks.task import Task


class Kind:
    """A kind of task. Derive from it, and register an instance in `kinds.table.KINDS`.

    Those with one number a study define `read_labels`, `probe` and `fit_draws`; `loss`,
    `torch_loss`, `answer` and `score` only where the config asks for end-to-end protocols.

    Attributes:
      metrics: by name, a key of `metrics.weighted.METRICS` or a function like those. The first one
        is the headline, which encoders are compared by.
      lower_is_better: the metrics of which less is better.
      labels: how the report names each metric, also those of `more_metrics`.
      is_mask: whether the answer is a mask of each study, and not a number.
      has_classes: whether a label is 0 or 1, and what is predicted is the probability of 1: the
        report draws ROC curves and reliability diagrams.
      chance: the headline of a guess, as a line of the figure; None for none.
      shares_axis: whether all tasks of this kind have the same unit, and so share a figure.
    """

    metrics: Mapping[str, str | Weighted]
    lower_is_better: frozenset[str] = frozenset()
    labels: Mapping[str, str] = {}
    is_mask = False
    has_classes = False
    chance: float | None = None
    shares_axis = False

    @property
    def headline(self) -> str:
        """The name of the metric that encoders are compared by."""
        # A dict keeps its order, so the metric that a kind lists first is its headline.
        return next(iter(self.metrics))

    def label_of(self, metric: str) -> str:
        """How the report names a metric."""
        return self.labels.get(metric, metric)

    def read_labels(
        self, values: pd.Series, *, task: str, label: str, positive: Any
    ) -> Float[np.ndarray, " N"]:
        """The truth of each study, NaN where it is unknown.

        Args:
          values: of a column of the store.
          task, label: names of the task and the column, for messages.
          positive: the config's, whose meaning is the kind's own.
        """
        raise NotImplementedError

    def check_split(self, task: "Task", split: str) -> None:
        """Raises UserError where nothing can be learnt from, or measured on, a split."""

    def probe(self, x: Float[np.ndarray, "N D"], tasks: Sequence["Task"]) -> list[Probed]:
        """Fits a linear probe for each task, all of which have the same studies and split."""
        raise NotImplementedError

    def more_metrics(self, task: "Task", x: Float[np.ndarray, "N D"]) -> dict[str, Interval]:
        """Metrics of the headline features that need no probe."""
        return {}

    def shown_first(self, labels: Float[np.ndarray, " n"]) -> list[Bool[np.ndarray, " n"]]:
        """Groups of the studies of train, one of each of which begins a few-shot draw."""
        return []

    def fit_draws(
        self, x: Float[np.ndarray, "N D"], task: "Task", drawn: Bool[np.ndarray, "N K"]
    ) -> Float[np.ndarray, "K M"]:
        """What probes predict for the test studies, each fitted on the studies of one draw."""
        raise NotImplementedError

    def fitted_to(self, truth: np.ndarray) -> "Kind":
        """This kind with what an end-to-end fit has to know of the truth of train."""
        return self

    def loss(self, out: Array, truth: Array, counted: Array) -> Float[Array, ""]:
        """The loss of an end-to-end fit.

        Args:
          out: of the network, a number a study or a voxel.
          truth: as large.
          counted: which voxels belong to the studies.
        """
        raise NotImplementedError

    def torch_loss(self, out: Any, truth: Any, counted: Any) -> Any:
        """`loss` of PyTorch's tensors, by which an encoder from elsewhere is fine-tuned."""
        raise NotImplementedError

    def answer(self, out: Array) -> Array:
        """What the output of a network predicts."""
        return out

    def score(self, answers: np.ndarray, truth: np.ndarray, scenes: Sequence[Any]) -> float:
        """How good answers on val are, by which a fit is stopped; larger is better.

        Args:
          scenes: of the studies, where the answers are masks.
        """
        raise NotImplementedError
