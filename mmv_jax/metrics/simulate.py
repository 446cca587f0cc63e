"""How often intervals hold the truth, by simulation, beside the percentile bootstrap.

  python -m mmv_jax.metrics.simulate docs/measured/coverage.json

writes the tables of docs/results.md. A cell of 2,000 test sets has a standard error of 0.5 % where
95 % are held. All cells take about an hour of processor time; the command goes on where it was
stopped.
"""

import argparse
import json
import platform
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from mmv_jax.metrics.intervals import interval, paired
from mmv_jax.metrics.resamples import patient_weights
from mmv_jax.metrics.weighted import METRICS

ALIKE = 0.5  # share of a score's variance that is the patient's own
FAILED = 0.02  # share of studies whose Dice is 0
Test = tuple[np.ndarray, np.ndarray, np.ndarray]  # truth, predicted, patients
Bounds = Callable[[str, np.ndarray, np.ndarray, np.ndarray], tuple[float, float]]


@dataclass(frozen=True)
class Simulated:
    """What is simulated.

    Attributes:
      what: a key of `DRAWN`.
      level: how good the predictions are: an AUROC, a proportion; else not read.
      sizes: patients with and without the finding, else (patients, 0).
      studies: of a patient.
      mixed: whether the finding comes and goes between the studies of a patient.
    """

    what: str
    level: float
    sizes: tuple[int, int]
    studies: int = 1
    mixed: bool = False

    @property
    def name(self) -> str:
        a, b = self.sizes
        size = f"{a} + {b} patients" if b else f"{a} patients"
        return f"{size}, {self.studies} each" + (", mixed" if self.mixed else "")

    @property
    def metric(self) -> str:
        return DRAWN[self.what][0]


def draw(cell: Simulated, rng: np.random.Generator) -> Test:
    """One test set."""
    truth, noise, patients = _begun(cell, rng)
    return *DRAWN[cell.what][1](cell, truth, noise, rng), patients


def draw_pair(cell: Simulated, gap: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Truth, two predictions of the same studies, and patients.

    The second prediction's AUROC is lower by `gap`. Half of its noise is the first one's.
    """
    truth, noise, patients = _begun(cell, rng)
    other = (noise + rng.normal(size=len(noise))) / np.sqrt(2)
    worse = replace(cell, level=cell.level - gap)
    first, second = (
        DRAWN[cell.what][1](one, truth, its, rng)[1] for one, its in ((cell, noise), (worse, other))
    )
    return truth, first, second, patients


def _begun(cell: Simulated, rng: np.random.Generator) -> Test:
    """Truth, standard normal noise, and patients."""
    count = sum(cell.sizes)
    patients = np.repeat(np.arange(count), cell.studies)
    own = rng.normal(size=count)[patients]
    alike = ALIKE if cell.studies > 1 else 0.0
    noise = np.sqrt(alike) * own + np.sqrt(1 - alike) * rng.normal(size=len(patients))
    truth = (np.arange(count) < cell.sizes[0])[patients].astype(float)
    truth = rng.permutation(truth) if cell.mixed else truth
    return truth, noise, patients


def _scores(cell: Simulated, truth: np.ndarray, noise: np.ndarray, rng) -> tuple:
    """Binormal, both classes with the same spread."""
    return truth, noise + truth * stats.norm.ppf(cell.level) * np.sqrt(2)


def _wide_scores(cell: Simulated, truth: np.ndarray, noise: np.ndarray, rng) -> tuple:
    """Binormal, the positives twice as wide as the negatives."""
    return truth, np.where(truth == 1, 2 * noise + stats.norm.ppf(cell.level) * 5**0.5, noise)


def _wide_negatives(cell: Simulated, truth: np.ndarray, noise: np.ndarray, rng) -> tuple:
    """Binormal, the negatives twice as wide as the positives."""
    return truth, np.where(truth == 1, noise + stats.norm.ppf(cell.level) * 5**0.5, 2 * noise)


def _exponential(cell: Simulated, truth: np.ndarray, noise: np.ndarray, rng) -> tuple:
    """Exponential: the odds of the AUROC are the ratio of the means."""
    odds = cell.level / (1 - cell.level)
    return truth, -stats.norm.logsf(noise) * np.where(truth == 1, odds, 1.0)


def _heavy_scores(cell: Simulated, truth: np.ndarray, noise: np.ndarray, rng) -> tuple:
    """Student's t with three degrees of freedom, both classes with the same spread."""
    return truth, stats.t.ppf(stats.norm.cdf(noise), 3) + truth * heavy_shift(cell.level)


@lru_cache
def heavy_shift(level: float) -> float:
    """The shift that gives two classes of t scores (three degrees of freedom) this AUROC.

    The difference of two scores has the characteristic function ((1 + s) exp(-s))², s = √3 |x|.
    Gil-Pelaez's formula turns it into the distribution below.

    Source: Gil-Pelaez, Biometrika 38 (1951).
    """

    def probability(shift: float) -> float:
        y = shift / np.sqrt(3)
        z = 4 + y**2
        return 0.5 + (np.arctan(y / 2) + 2 * y / z + 4 * y / z**2) / np.pi

    return float(optimize.brentq(lambda shift: probability(shift) - level, -100, 100))


def _right(cell: Simulated, truth: np.ndarray, noise: np.ndarray, rng) -> tuple:
    right = (noise < stats.norm.ppf(cell.level)).astype(float)
    return right, right


def _dice(cell: Simulated, truth: np.ndarray, noise: np.ndarray, rng) -> tuple:
    """Skewed to the left, with a few that failed."""
    share = stats.norm.cdf(noise)
    found = stats.beta.ppf(((share - FAILED) / (1 - FAILED)).clip(1e-9), 9, 2)
    values = np.where(share < FAILED, 0.0, found)
    return values, values


def _distance(cell: Simulated, truth: np.ndarray, noise: np.ndarray, rng) -> tuple:
    """In mm, with a long tail."""
    values = np.exp(1 + 0.8 * noise)
    return values, values


def _number(cell: Simulated, truth: np.ndarray, noise: np.ndarray, rng) -> tuple:
    return noise, 0.7 * noise + 0.6 * rng.normal(size=len(noise))


DRAWN: dict[str, tuple[str, Callable]] = {  # what: the metric, and how truth and prediction arise
    "AUROC": ("auroc", _scores),
    "AUROC, positives twice as wide": ("auroc", _wide_scores),
    "AUROC, negatives twice as wide": ("auroc", _wide_negatives),
    "AUROC, exponential scores": ("auroc", _exponential),
    "AUROC, heavy tails": ("auroc", _heavy_scores),
    "AUPRC": ("auprc", _scores),
    "proportion": ("proportion", _right),
    "Dice": ("mean", _dice),
    "HD95": ("mean", _distance),
    "MAE": ("mae", _number),
    "R²": ("r2", _number),
}


def truth_of(cell: Simulated) -> float:
    """The metric in the population: known, or of a test set that is very large."""
    if cell.metric in ("auroc", "proportion"):
        return cell.level
    larger = max(200_000 // (sum(cell.sizes) * cell.studies), 1)
    a, b = cell.sizes
    many = Simulated(
        cell.what, cell.level, (a * larger, b * larger), cell.studies, mixed=cell.mixed
    )
    truth, predicted, _ = draw(many, np.random.default_rng(1))
    return float(METRICS[cell.metric](truth, predicted, np.ones((1, len(truth))))[0])


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
    """What the package gives."""
    found = interval(metric, truth, predicted, patients, resamples=1000)
    return found.low, found.high


def _generator(cell: Simulated) -> np.random.Generator:
    """The same sets for every kind of bounds, and others for every cell: errors do not agree."""
    return np.random.default_rng(zlib.crc32(f"{cell.what}, {cell.level:g}, {cell.name}".encode()))


def coverage(cell: Simulated, bounds: Bounds, repeats: int) -> float:
    """How often (in %) the bounds hold the truth, where bounds are given."""
    rng, truth, held = _generator(cell), truth_of(cell), []
    for _ in range(repeats):
        low, high = bounds(cell.metric, *draw(cell, rng))
        if not np.isnan(low):
            held.append(low <= truth <= high)
    return 100 * float(np.mean(held))


def differences(cell: Simulated, gap: float, repeats: int) -> tuple[float, float]:
    """How often (in %) the interval of a difference of AUROCs holds it, and how often p < 0.05.

    Args:
      gap: the true difference.
    """
    rng, held, rejected = np.random.default_rng(0), [], []
    for _ in range(repeats):
        truth, first, second, patients = draw_pair(cell, gap, rng)
        found = paired(cell.metric, truth, first, second, patients=patients, resamples=1000)
        # Two equal AUROCs may differ in their last bit.
        held.append(found.low - 1e-9 <= gap <= found.high + 1e-9)
        rejected.append(found.p < 0.05)
    return round(100 * float(np.mean(held)), 1), round(100 * float(np.mean(rejected)), 1)


LEVELS = (0.6, 0.8, 0.9, 0.97)
FEW = ((5, 15), (10, 10), (5, 45), (25, 25), (10, 90))
SIZES = (*FEW, (22, 216), (5, 495), (50, 450), (250, 250))
SOME = (*FEW, (22, 216), (50, 450))
CELLS = [
    *(Simulated("AUROC", t, size) for size in SIZES for t in LEVELS),
    *(Simulated("AUROC", t, size, 3) for size in SIZES for t in LEVELS),
    *(Simulated("AUROC", t, size, 3, mixed=True) for size in FEW for t in LEVELS),
    *(
        Simulated("AUROC, positives twice as wide", t, size)
        for size in SOME
        for t in LEVELS
    ),
    *(
        Simulated(what, t, size)
        for what in ("AUROC, negatives twice as wide", "AUROC, exponential scores")
        for size in SOME
        for t in LEVELS
    ),
    *(Simulated("AUROC, heavy tails", t, size, k) for k in (1, 3) for size in SOME for t in LEVELS),
    *(Simulated("AUROC, heavy tails", t, size, 3, mixed=True) for size in FEW for t in LEVELS),
    *(Simulated("proportion", t, (n, 0), k) for k in (1, 3) for n in (20, 50, 500) for t in LEVELS),
    *(Simulated("AUPRC", 0.8, size, k) for k in (1, 3) for size in FEW),
    *(
        Simulated(what, 0.0, (n, 0), k)
        for what in ("Dice", "HD95", "MAE", "R²")
        for k in (1, 3)
        for n in (20, 50, 200)
    ),
]  # fmt: skip

PAIRS = [
    Simulated(what, t, size)
    for what in ("AUROC", "AUROC, positives twice as wide", "AUROC, heavy tails")
    for size in ((8, 72), (20, 180))
    for t in (0.8, 0.9)
]


def measure(path: Path, cells: Sequence[Simulated], repeats: int, before: int) -> None:
    """Adds what is missing of the cells to a file of `docs/measured`."""
    record = json.loads(path.read_text()) if path.exists() else {"metrics": {}}
    record |= {
        "command": f"python -m mmv_jax.metrics.simulate {path.name}",
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, processor time only",
        "source": f"{repeats} test sets a cell, {before} for the percentile bootstrap",
    }
    for cell in cells:
        # What has levels has a row for each size; of the rest each is a column.
        row, column = (
            (f"{cell.what}, {cell.name}", f"{cell.level:g}")
            if cell.level
            else (f"one number a study, {cell.name}", cell.what)
        )
        own = record["metrics"].setdefault(row, {})
        if column in own:
            continue
        held = {"value": round(coverage(cell, ours, repeats), 1)}
        held["before"] = round(coverage(cell, percentile, before), 1)
        own[column] = {"% held": held}
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def measure_differences(path: Path, cells: Sequence[Simulated], repeats: int) -> None:
    """Adds what is missing of differences between two predictions to a file that `measure` made."""
    record = json.loads(path.read_text())
    for cell in cells:
        own = record["metrics"].setdefault(f"difference of {cell.what}, {cell.name}", {})
        for gap in (0.0, 0.05):
            column = f"{cell.level:g} − {cell.level - gap:g}"
            if column in own:
                continue
            held, rejected = differences(cell, gap, repeats)
            own[column] = {"% held": {"value": held}, "% p < 0.05": {"value": rejected}}
            path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--before", type=int, default=1000)
    asked = parser.parse_args()
    measure(asked.path, CELLS, asked.repeats, asked.before)
    measure_differences(asked.path, PAIRS, asked.repeats)
