"""How often intervals hold the truth: a small part of the table of docs/results.md.

The whole table, in about an hour of processor time:

  python -m mmv_jax.metrics.simulate docs/measured/coverage.json
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from mmv_jax.metrics.closed_form import placement_variance
from mmv_jax.metrics.simulate import (
    Simulated,
    coverage,
    differences,
    heavy_shift,
    measure,
    ours,
    percentile,
)

MEASURED = Path(__file__).parents[2] / "docs" / "measured" / "coverage.json"


@pytest.mark.parametrize(
    "cell",
    [
        Simulated("AUROC", 0.8, (5, 20)),
        Simulated("AUROC", 0.9, (10, 20), 3),
        Simulated("AUROC", 0.8, (7, 33), 3, mixed=True),
        Simulated("AUROC, positives twice as wide", 0.9, (10, 90)),  # 89 % by Newcombe's spread
        Simulated("AUROC, heavy tails", 0.97, (50, 200)),  # 86 % by the variance of normal scores
        Simulated("proportion", 0.8, (30, 0), 3),
        Simulated("R²", 0.0, (20, 0)),
    ],
    ids=lambda c: f"{c.what} {c.name}",
)
def test_an_interval_covers(cell):
    assert 91.5 <= coverage(cell, ours, repeats=250) <= 99  # the simulation's own error is 1.4


def test_the_percentile_bootstrap_does_not_cover_where_positives_are_few():
    """The simulation can tell: what the intervals are better than fails in it."""
    assert coverage(Simulated("AUROC", 0.95, (5, 20)), percentile, repeats=150) < 88


def test_equally_good_encoders_are_rarely_told_apart():
    held, rejected = differences(Simulated("AUROC", 0.8, (10, 30)), 0.0, repeats=60)
    assert rejected <= 12  # of 5 wanted, error 2.8
    assert held >= 88


@pytest.mark.parametrize("level", [0.6, 0.9, 0.97])
def test_the_shift_of_heavy_tails_gives_the_auroc(level):
    """By the distribution of a difference, integrated on a grid."""
    at = np.linspace(-400, 400, 800_001)
    mass = t.pdf(at, 3) * t.cdf(at + heavy_shift(level), 3)
    assert mass.sum() * (at[1] - at[0]) == pytest.approx(level, abs=1e-4)


def test_heavy_tails_keep_their_share_of_the_largest_variance():
    """What the bound nearer to 0.5 assumes: that of normal scores falls, and of t (3) does not."""
    rng = np.random.default_rng(0)
    high, low = rng.standard_t(3, size=(2, 100_000))
    for level, normal in ((0.6, 0.33), (0.9, 0.25), (0.97, 0.17)):
        placed = np.searchsorted(np.sort(low), high + heavy_shift(level)) / len(low)
        assert placed.var() / level / (1 - level) == pytest.approx(1 / 3, rel=0.1)
        of_normal = placement_variance(np.array(level), 0.5) / level / (1 - level)
        assert float(of_normal) == pytest.approx(normal, abs=0.01)


def test_a_measurement_goes_on_where_it_was_stopped(tmp_path):
    cells = [Simulated("proportion", 0.8, (20, 0)), Simulated("proportion", 0.9, (20, 0))]
    measure(tmp_path / "x.json", cells[:1], 20, 5)
    first = json.loads((tmp_path / "x.json").read_text())["metrics"]
    measure(tmp_path / "x.json", cells, 30, 5)
    both = json.loads((tmp_path / "x.json").read_text())["metrics"][
        "proportion, 20 patients, 1 each"
    ]
    assert both["0.8"] == first["proportion, 20 patients, 1 each"]["0.8"]
    assert set(both) == {"0.8", "0.9"}


def recorded(pattern):
    """What the table says of the rows that match, in %."""
    rows = json.loads(MEASURED.read_text())["metrics"].items()
    found = [own for task, own in rows if re.match(pattern, task)]
    return np.array([value["% held"]["value"] for own in found for value in own.values()])


@pytest.mark.parametrize(
    ("rows", "cells", "least"),
    [
        (r"AUROC, \d", 92, 92.5),
        ("AUROC, positives twice as wide", 28, 93),
        ("AUROC, negatives twice as wide", 28, 93),
        ("AUROC, exponential", 28, 92),
        ("AUROC, heavy tails", 76, 93),
    ],
)
def test_the_recorded_coverage_is_near_what_is_claimed(rows, cells, least):
    held = recorded(rows)
    assert len(held) == cells
    assert held.min() >= least and held.max() <= 97.5
    assert np.mean((held >= 93) & (held <= 97)) > 0.95
