"""How often intervals hold the truth: a small part of the table of docs/results.md.

The whole table, in half an hour of processor time:

  python -m mmv_jax.metrics.simulate docs/measured/coverage.json
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mmv_jax.metrics.simulate import Simulated, coverage, measure, ours, percentile, rejections

MEASURED = Path(__file__).parents[2] / "docs" / "measured" / "coverage.json"


@pytest.mark.parametrize(
    "cell",
    [
        Simulated("AUROC", 0.8, (5, 20)),
        Simulated("AUROC", 0.9, (10, 20), 3),
        Simulated("AUROC", 0.8, (7, 33), 3, mixed=True),
        Simulated("AUROC, positives twice as wide", 0.9, (10, 90)),  # 89 % by Newcombe's spread
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
    assert rejections(Simulated("AUROC", 0.8, (10, 30)), repeats=60) <= 12  # of 5 wanted, error 2.8


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
        (r"AUROC, \d", 92, 93),
        ("AUROC, positives twice as wide", 28, 92.5),
        ("AUROC, negatives twice as wide", 8, 93),
        ("AUROC, exponential", 8, 93),
    ],
)
def test_the_recorded_coverage_is_near_what_is_claimed(rows, cells, least):
    held = recorded(rows)
    assert len(held) == cells
    assert held.min() >= least
    assert np.mean((held >= 93) & (held <= 97)) > 0.85
