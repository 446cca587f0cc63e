"""The simulations of docs/results.md, small, and what their recorded figures must say."""

import json
from pathlib import Path

import numpy as np
import pytest
from measured_outcomes import counted_areas, endpoint_rows, known_gain, seen_again, wrong_times

from mmv_jax.outcomes.endpoints import ENDPOINTS
from mmv_jax.outcomes.simulate import simulate_cohort, write_cohort

MEASURED = Path(__file__).parents[2] / "docs" / "measured"
RATIO, HELD = "hazard ratio of severe", "% of intervals that hold it"


def recorded(name):
    return json.loads((MEASURED / f"{name}.json").read_text())["metrics"]


def test_the_index_examination_has_the_area_that_the_hazard_follows():
    cohort = simulate_cohort(500, 0)
    views = seen_again(cohort, 0)
    np.testing.assert_array_equal(counted_areas(views, {}), cohort.area_mm2)
    later = counted_areas(views, None)
    again = np.array([view.examination.endswith(".1") for view in views]).sum()
    assert 0.3 < again / 500 < 0.7 and np.all(later >= cohort.area_mm2)
    assert np.sum(later > cohort.area_mm2) > 50


def test_a_wrong_time_biases_and_ours_does_not():
    for name, row in wrong_times(4, 4000).items():
        truth, wrong, ours = (
            row[column][RATIO]["value"] for column in ("truth", "wrong analysis", "ours")
        )
        assert abs(np.log(ours / truth)) < 0.35
        if "any half" not in name:
            assert wrong < ours


def test_the_recorded_wrong_times_are_wrong_and_ours_hold():
    found = recorded("wrong_times")
    assert len(found) == 4
    for name, row in found.items():
        assert 92 <= row["ours"][HELD]["value"] <= 98
        assert row["truth"][RATIO]["value"] == pytest.approx(row["ours"][RATIO]["value"], rel=0.03)
        if name.startswith("immortal") or "above all" in name:
            assert row["wrong analysis"][RATIO]["ci95"][1] < 0.85 * row["truth"][RATIO]["value"]


def test_every_recorded_seed_fits_and_ratios_are_recovered():
    for row in recorded("outcome_seeds").values():
        assert row["seeds that fit"]["hazard ratio"]["text"] == "100 of 100"
        low, high = row["mean over seeds"]["hazard ratio"]["ci95"]
        assert low <= row["truth"]["hazard ratio"]["value"] <= high


def test_endpoints_are_told_apart():
    ratio = {"hazard_ratio": {"value": 2.0, "ci95": [1.5, 2.5]}}
    models = ("cox_adjusted", "fine_gray")
    found = {f"{name}/{m}": dict.fromkeys(("mild", "moderate", "severe"), ratio)
             for name in ENDPOINTS for m in models}  # fmt: skip
    rows = endpoint_rows(found)
    assert "Fine–Gray" in rows["stroke"]["severe"] and "Fine–Gray" not in rows["mace"]["severe"]
    assert (
        rows["stroke"]["severe"]["truth"]["value"] == 1.9 and "truth" not in rows["death"]["mild"]
    )
    for name in ("infarction", "stroke", "heart failure"):
        for cell in recorded("endpoints")[name].values():
            low, high = cell["Cox, adjusted"]["ci95"]
            assert low <= cell["truth"]["value"] <= high


def test_a_known_gain_is_told_and_none_is_not():
    pytest.importorskip("pyprevent")
    few = known_gain(2, 2000)
    assert set(few) == set(recorded("known_gain"))
    for row in recorded("known_gain").values():
        assert row["% that tell one"]["× 100"]["value"] <= 6


@pytest.mark.parametrize("endpoints", [False, True])
def test_a_cohort_is_written_with_empty_cells_for_what_did_not_happen(tmp_path, endpoints):
    write_cohort(tmp_path / "women.csv", 50, 0, endpoints=endpoints)
    header, *lines = (tmp_path / "women.csv").read_text().splitlines()
    assert len(lines) == 50 and header.startswith("patient_id,") and "nan" not in " ".join(lines)
    assert ("follow_up_years" in header) == endpoints and (",," in lines[0]) == endpoints
