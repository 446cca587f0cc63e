"""How often intervals hold the truth, by simulation, beside the percentile bootstrap.

The whole table, as Markdown, in about a quarter of an hour:

  pytest -q -s -m full tests/metrics/test_coverage.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from mmv_jax.metrics.intervals import interval, patient_weights
from mmv_jax.metrics.weighted import METRICS

ALIKE = 0.5  # share of a score's variance that is the patient's own


@dataclass(frozen=True)
class Cell:
    """What is simulated.

    Attributes:
      truth: of the metric, in the population.
      sizes: patients with and without the finding (of AUROC and AUPRC), else (patients, 0).
      studies: of a patient.
      mixed: whether the finding comes and goes between the studies of a patient.
    """

    metric: str
    truth: float
    sizes: tuple[int, int]
    studies: int = 1
    mixed: bool = False

    @property
    def name(self) -> str:
        a, b = self.sizes
        size = f"{a} + {b}" if b else f"{a}"
        return f"{self.metric} | {size} | {self.studies}{' (mixed)' if self.mixed else ''}"


def draw(cell: Cell, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth, predicted, patients) of one test set."""
    count = sum(cell.sizes)
    patients = np.repeat(np.arange(count), cell.studies)
    own = rng.normal(size=count)[patients]
    alike = ALIKE if cell.studies > 1 else 0.0
    noise = np.sqrt(alike) * own + np.sqrt(1 - alike) * rng.normal(size=len(patients))
    if cell.metric == "auroc":
        truth = (np.arange(count) < cell.sizes[0])[patients].astype(float)
        truth = rng.permutation(truth) if cell.mixed else truth
        return truth, noise + truth * stats.norm.ppf(cell.truth) * np.sqrt(2), patients
    if cell.metric == "proportion":
        right = (noise < stats.norm.ppf(cell.truth)).astype(float)
        return right, right, patients
    zeros = np.zeros(len(patients))  # "mae": the mean of |noise| is √(2/π)
    return zeros, noise, patients


def percentile(
    metric: str, truth: np.ndarray, predicted: np.ndarray, patients: np.ndarray
) -> tuple[float, float]:
    """The percentile bootstrap, for comparison."""
    drawn = METRICS[metric](truth, predicted, patient_weights(patients, 500))
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return float(low), float(high)


def ours(
    metric: str, truth: np.ndarray, predicted: np.ndarray, patients: np.ndarray
) -> tuple[float, float]:
    found = interval(metric, truth, predicted, patients)
    assert np.isnan(found.low) or found.low <= found.value <= found.high
    return found.low, found.high


def coverage(
    cell: Cell, bounds: Callable[..., tuple[float, float]], repeats: int
) -> tuple[float, float]:
    """How often (in %) the bounds hold the truth, and the mean width, where bounds are given."""
    rng, found = np.random.default_rng(0), []
    for _ in range(repeats):
        low, high = bounds(cell.metric, *draw(cell, rng))
        if not np.isnan(low):
            found.append((low <= cell.truth <= high, high - low))
    held, width = np.mean(found, axis=0)
    return 100 * float(held), float(width)


SIZES = ((5, 15), (5, 45), (10, 10), (8, 160), (25, 25), (22, 216), (100, 400))
ROWS = [
    *(("auroc", size, 1, False) for size in SIZES),
    *(("auroc", size, 3, False) for size in ((5, 15), (10, 10), (8, 48), (25, 140))),
    *(("auroc", size, 3, True) for size in ((3, 5), (5, 15), (7, 72), (25, 140))),
    *(("proportion", (n, 0), k, False) for k in (1, 3) for n in (20, 50, 166)),
    *(("mae", (n, 0), k, False) for k in (1, 3) for n in (20, 50, 166)),
]
TRUTHS = {
    "auroc": (0.6, 0.8, 0.9, 0.97),
    "proportion": (0.6, 0.8, 0.9, 0.97),
    "mae": (np.sqrt(2 / np.pi),),
}


@pytest.mark.parametrize(
    "cell",
    [
        Cell("auroc", 0.8, (5, 20)),
        Cell("auroc", 0.9, (10, 20), studies=3),
        Cell("auroc", 0.8, (7, 33), studies=3, mixed=True),
        Cell("proportion", 0.8, (30, 0), studies=3),
    ],
    ids=lambda c: c.name,
)
def test_an_interval_covers(cell):
    held, _ = coverage(cell, ours, repeats=250)
    assert 91.5 <= held <= 99  # the standard error of the simulation is 1.4


def test_the_percentile_bootstrap_does_not_cover_where_positives_are_few():
    """The simulation can tell: what the intervals are better than fails in it."""
    held, _ = coverage(Cell("auroc", 0.95, (5, 20)), percentile, repeats=150)
    assert held < 88


@pytest.mark.full
def test_coverage_from_five_of_each_class_on():
    print("\n| metric | patients | studies each | " + " | ".join(map(str, TRUTHS["auroc"])) + " |")
    print("| --- | --- | --- | " + "--- | " * 4)
    after = []
    for metric, sizes, studies, mixed in ROWS:
        cells = [Cell(metric, truth, sizes, studies, mixed=mixed) for truth in TRUTHS[metric]]
        old = [coverage(cell, percentile, repeats=250)[0] for cell in cells]
        new = [coverage(cell, ours, repeats=1000 if metric != "mae" else 250)[0] for cell in cells]
        after += new if metric == "auroc" else []
        texts = [f"{before:.1f} → {now:.1f}" for before, now in zip(old, new)]
        print(f"| {cells[0].name} | {' | '.join(texts)} |", flush=True)
    assert min(after) > 92
    assert np.mean([93 <= held <= 97 for held in after]) > 0.7
