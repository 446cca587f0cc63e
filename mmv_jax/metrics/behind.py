"""How many patients a metric rests on, and below how many no interval is given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

FEWEST = 5  # patients (of each class) below which no interval is given
OF_CLASSES = frozenset(
    {"auroc", "auprc", "auprc_skill", "brier", "calibration", "calibration_slope"}
)
Parts = Callable[[np.ndarray], list[np.ndarray]]


def rests_on(parts: Parts, *, of_group: bool = False) -> Callable[[Any], Any]:
    """Marks a metric of one's own: of each of these parts of the truth (boolean, [N]) it needs
    `FEWEST` patients, as the AUROC does of each class.

    Args:
      of_group: whether it is of a group of the studies, whose patients alone count.
    """

    def mark(metric: Any) -> Any:
        metric.parts, metric.of_group = parts, of_group
        return metric

    return mark


@dataclass(frozen=True)
class Behind:
    """Number of patients behind a metric, and of its rarer class (all patients if it has no
    classes).
    """

    all: int
    rarer: int
    of: str

    @classmethod
    def of_metrics(
        cls, metrics: tuple[Any, ...], truth: np.ndarray, patients: np.ndarray
    ) -> "Behind":
        of_classes = any(isinstance(m, str) and m in OF_CLASSES for m in metrics)
        # A metric of classes is only as certain as its rarer class allows.
        parts = [truth == 1, truth != 1] if of_classes else [np.ones(len(truth), bool)]
        of = " of a class" if of_classes else ""
        if marked := [m for m in metrics if hasattr(m, "parts")]:
            parts, of = [part for m in marked for part in m.parts(truth)], " of a class"
        rarer = min(len(np.unique(patients[part])) for part in parts)
        if any(m.of_group for m in marked):
            # Of two groups the smaller one is the less certain, however many the other has.
            return cls(rarer, rarer, " of a group or class")
        return cls(len(np.unique(patients)), rarer, of)

    @property
    def too_few(self) -> str:
        """The reason why there is no interval; empty if there are enough patients."""
        return f"fewer than {FEWEST} patients{self.of}" if self.rarer < FEWEST else ""

    def quantile(self, tail: float) -> float:
        """Student's quantile, times the factor that makes the spread of a bootstrap unbiased."""
        # With n patients a bootstrap's variance is (n - 1) / n of the unbiased one.
        return float(np.sqrt(self.rarer / (self.rarer - 1)) * stats.t.ppf(tail, self.all - 1))
