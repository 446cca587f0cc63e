"""The interface of a kind of task: its truth, probe, metrics, loss and figures.

Axes: N studies of a task, M of its test, D width, K draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float

from mmv_jax.evaluate.kinds.features import LinearHead, Probed
from mmv_jax.metrics.intervals import Interval
from mmv_jax.metrics.weighted import Weighted

if TYPE_CHECKING:  # a task imports its kind, so this file cannot import the task
    from mmv_jax.evaluate.tasks.task import Task


class Kind:
    """A kind of task. Derive from it, and register an instance in `kinds.table.KINDS`.

    Kinds with one number a study define `read_labels`, `probe` and `fit_draws`. `loss`,
    `torch_loss`, `answer` and `score` are needed only for end-to-end protocols.

    Attributes:
      metrics: by name, a key of `metrics.weighted.METRICS` or a function of the same form. The
        first one is the headline, by which encoders are compared.
      lower_is_better: the metrics of which less is better.
      labels: the report's names of the metrics, also of those of `more_metrics`.
      judged: the metrics whose differences are tested; the headline alone where it is empty.
      many_columns: whether a study's truth is several numbers, from the list of columns in `label`
        (`read_many`).
      end_to_end: whether networks can learn it end to end; else only frozen features are probed.
      is_mask: whether the output is a mask of each study, and not a number.
      locates: whether lesions are looked for in the map behind that mask.
      has_classes: whether a label is 0 or 1 and the prediction is the probability of 1. The report
        then draws ROC curves and reliability diagrams.
      chance: the headline of a guess, as a line of the figure; None for none.
      scale: what the first column of the truth holds, by which odd values are told: "numbers",
        "classes", or "" for neither.
      shares_axis: whether all tasks of this kind have the same unit, and so share a figure.
    """

    metrics: Mapping[str, str | Weighted]
    lower_is_better: frozenset[str] = frozenset()
    labels: Mapping[str, str] = {}
    judged: tuple[str, ...] = ()
    many_columns = False
    end_to_end = True
    is_mask = False
    locates = False
    has_classes = False
    chance: float | None = None
    shares_axis = False
    scale = ""

    @property
    def headline(self) -> str:
        """The name of the metric by which encoders are compared."""
        # A dict keeps its order, so the first metric of a kind is its headline.
        return next(iter(self.metrics))

    def label_of(self, metric: str) -> str:
        """The name of a metric in the report."""
        return self.labels.get(metric, metric)

    def read_labels(
        self, values: pd.Series, *, task: str, label: str, positive: Any
    ) -> Float[np.ndarray, " N"]:
        """The truth of each study, NaN where it is unknown.

        Args:
          values: of a column of the store.
          task, label: names of the task and the column, for messages.
          positive: from the config; each kind gives it its own meaning.
        """
        raise NotImplementedError

    def read_many(
        self, values: pd.DataFrame, *, task: str, positive: Any
    ) -> Float[np.ndarray, "N C"]:
        """As `read_labels`, where `many_columns`: a line is left out where all of it is NaN."""
        raise NotImplementedError

    def names_of(self, values: pd.DataFrame) -> tuple[str, ...]:
        """The names of the columns of `read_many`, for messages."""
        return tuple(map(str, values))

    def odd_truth(
        self,
        labels: Float[np.ndarray, "N *C"],
        *,
        patients: np.ndarray,
        names: Sequence[str],
        positive: Any,
    ) -> Iterator[str]:
        """A sentence for each way in which a truth that can be learnt is probably meant otherwise.

        Args:
          names: of the columns of the truth.
          positive: from the config.
        """
        yield from ()

    def check_split(self, task: "Task", split: str) -> None:
        """Refuse a split on which nothing can be learnt or measured.

        Raises:
          UserError: the split is such a one.
        """

    def probe(self, x: Float[np.ndarray, "N D"], tasks: Sequence["Task"]) -> list[Probed]:
        """Fit a linear probe for each task; all tasks have the same studies and split."""
        raise NotImplementedError

    def more_metrics(self, task: "Task", x: Float[np.ndarray, "N D"]) -> dict[str, Interval]:
        """Metrics of the headline features that need no probe."""
        return {}

    def shown_first(self, labels: Float[np.ndarray, " n"]) -> list[Bool[np.ndarray, " n"]]:
        """Groups of the studies of train; a few-shot draw begins with one study of each."""
        return []

    def fit_draws(
        self, x: Float[np.ndarray, "N D"], task: "Task", drawn: Bool[np.ndarray, "N K"]
    ) -> Float[np.ndarray, "K M *C"]:
        """Predictions on the test studies by K probes, each fitted on the studies of train in one
        draw, with the strength that the studies of val in this draw choose.
        """
        raise NotImplementedError

    def fitted_to(self, truth: np.ndarray) -> "Kind":
        """This kind with the statistics of train's truth that an end-to-end fit needs."""
        return self

    def first_head(
        self, x: Float[np.ndarray, "N D"], truth: Float[np.ndarray, " N"], split: np.ndarray
    ) -> LinearHead | None:
        """The linear head from which fine-tuning begins: a probe of the encoder as it was.

        It is fitted on train, with the strength that val chooses. None: zeros.

        Args:
          x: CLS and the mean token of the studies of train and val.
          split: "train" or "val" of each.
        Returns:
          The head whose outputs `answer` reads.

        Source: Kumar et al. (arXiv 2202.10054), LP-FT: the gradients of a fresh head distort the
          encoder's features before it has learnt to read them.
        """
        return None

    def loss(self, out: Array, truth: Array, counted: Array) -> Float[Array, ""]:
        """The loss of an end-to-end fit.

        Args:
          out: of the network, a number for each study or voxel.
          truth: of the same shape.
          counted: which voxels belong to the studies.
        """
        raise NotImplementedError

    def torch_loss(self, out: Any, truth: Any, counted: Any) -> Any:
        """`loss` for PyTorch tensors, used to fine-tune an encoder from elsewhere."""
        raise NotImplementedError

    def answer(self, out: Array) -> Array:
        """Predictions from the output of a network."""
        return out

    def score(self, answers: Any, truth: np.ndarray, scenes: Sequence[Any]) -> float:
        """The score of predictions on val, by which a fit is stopped; larger is better.

        Args:
          answers: an array; of masks any iterable, one study after the other.
          scenes: of the studies, if the predictions are masks.
        """
        raise NotImplementedError
