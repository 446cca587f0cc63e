"""Several endpoints of one file: made from components, each with its own competing risk."""

import csv
import json

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.outcomes.apart import DEFINITIONS
from mmv_jax.outcomes.endpoints import ENDPOINTS, first_of, read_endpoints
from mmv_jax.outcomes.ratios import Women, hazard_ratios
from mmv_jax.outcomes.run import evaluate_cohort
from mmv_jax.outcomes.simulate import ADJUST, ENDPOINT_RATIOS, simulate_endpoints

NAMES = ("mace", "mace_without_death", "infarction", "stroke", "heart_failure", "death")
SMALL = {
    "patient_id": [f"p{n}" for n in range(6)],
    "age": ["50", "60", "70", "55", "65", "75"],
    "area_mm2": ["0", "5", "0", "12", "30", "0"],
    "follow_up_years": ["10", "4", "8", "6", "3", "9"],
    "infarction_years": ["2", "", "NA", "6", "", ""],
    "stroke_years": ["", "", "5", "", "1", ""],
    "heart_failure_years": ["7", "", "", "", "", ""],
    "death_years": ["", "4", "", "6", "", ""],
}


def write(path, columns):
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(columns)
        out.writerows(zip(*columns.values()))
    return path


def changed(**columns):
    return SMALL | columns


def events(cohort):
    return list(zip(cohort.time_years.tolist(), cohort.event.tolist()))


def test_each_endpoint_has_its_first_component_and_its_own_competing_death(tmp_path):
    found = read_endpoints(write(tmp_path / "c.csv", SMALL), NAMES)
    assert list(found) == list(NAMES)
    # an infarction on the day of death is the infarction
    assert events(found["infarction"]) == [(2, 1), (4, 2), (8, 0), (6, 1), (3, 0), (9, 0)]
    assert events(found["stroke"]) == [(10, 0), (4, 2), (5, 1), (6, 2), (1, 1), (9, 0)]
    assert events(found["death"]) == [(10, 0), (4, 1), (8, 0), (6, 1), (3, 0), (9, 0)]
    assert events(found["mace"]) == [(2, 1), (4, 1), (5, 1), (6, 1), (1, 1), (9, 0)]
    assert events(found["mace_without_death"]) == [(2, 1), (4, 2), (5, 1), (6, 1), (1, 1), (9, 0)]


def test_all_are_those_that_the_columns_allow(tmp_path):
    lacking = {name: cells for name, cells in SMALL.items() if name != "heart_failure_years"}
    found = read_endpoints(write(tmp_path / "c.csv", lacking), ["all"])
    assert list(found) == ["infarction", "stroke", "death", "ascvd"]
    assert any("without coronary_death_years" in note for note in found["ascvd"].notes)


def test_an_endpoint_that_nobody_had_is_told_and_costs_itself_alone(tmp_path):
    found = read_endpoints(
        write(tmp_path / "c.csv", changed(stroke_years=[""] * 6)), ["infarction", "stroke"]
    )
    assert list(found) == ["infarction"]
    assert any(note.startswith("stroke: no woman had it") for note in found["infarction"].notes)


def test_who_had_it_before_she_came_is_left_out_of_that_endpoint_alone(tmp_path):
    late = changed(entry_years=["3", "0", "0", "0", "0", "0"])
    found = read_endpoints(write(tmp_path / "c.csv", late), ["infarction", "heart_failure"])
    assert len(found["infarction"]) == 5 and len(found["heart_failure"]) == 6
    assert any("before they came under" in note for note in found["infarction"].notes)
    assert [left.women for left in found["infarction"].left] == [1]
    assert not found["heart_failure"].left


def test_who_had_it_before_the_mammogram_is_left_out_of_that_endpoint_alone(tmp_path):
    history = changed(stroke_years=["-2", *SMALL["stroke_years"][1:]])
    found = read_endpoints(write(tmp_path / "c.csv", history), ["infarction", "stroke"])
    assert [(left.why, left.women) for left in found["stroke"].left] == [
        ("it had happened before observation", 1)
    ]
    assert not found["infarction"].left and 2 not in found["stroke"].line


def test_who_has_no_follow_up_at_all_is_left_out_and_counted(tmp_path):
    nothing = {
        name: ["", *cells[1:]] if name.endswith("_years") else cells
        for name, cells in changed().items()
    }
    found = read_endpoints(write(tmp_path / "c.csv", nothing), ["infarction"])["infarction"]
    assert [(left.why, left.women) for left in found.left] == [("no follow-up", 1)]
    assert any("1 lines have no follow-up" in note for note in found.notes)


WRONG = {
    "another name": ({}, ["angina"], "endpoints names angina"),
    "no column": ({"death_years": None}, ["infarction"], "no death_years"),
    "no end": ({"follow_up_years": ["", *SMALL["follow_up_years"][1:]]}, NAMES, "line 2 has no fo"),
    "after the end": (
        {"stroke_years": ["11", *[""] * 5]},
        NAMES,
        "a stroke_years after the",
    ),
    "dead before": ({"death_years": ["-1", *[""] * 5]}, NAMES, "line 2 has a negative death_years"),
    "zero for none": (
        {"stroke_years": ["0"] * 5 + [""]},
        NAMES,
        "a stroke_years of 0 or less, as half of the women have",
    ),
    "-9 for none": ({"stroke_years": ["-9"] * 6}, NAMES, "a stroke_years of 0 or less"),
    "censoring times": (
        {"stroke_years": SMALL["follow_up_years"]},
        NAMES,
        "a stroke_years that is her follow_up_years, as half of the women have",
    ),
    "a word": (
        {"stroke_years": ["late", *[""] * 5]},
        NAMES,
        "a stroke_years that is no",
    ),
    "after death": ({"stroke_years": ["", "5", *[""] * 4]}, NAMES, "line 3 has a stroke_years"),
    "followed dead": ({"death_years": ["5", *[""] * 5]}, NAMES, "a follow_up_years beyond"),
}


@pytest.mark.parametrize("change, names, message", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_is_refused_by_its_line(tmp_path, change, names, message):
    columns = {name: cells for name, cells in changed(**change).items() if cells is not None}
    with pytest.raises(UserError, match=message) as told:
        read_endpoints(write(tmp_path / "c.csv", columns), names)
    assert "p1" not in str(told.value)


def test_an_endpoint_is_the_least_of_its_components():
    rng = np.random.default_rng(0)
    end = rng.uniform(1, 10, 200)
    times = {c: np.where(rng.random(200) < 0.5, rng.uniform(0, 1, 200) * end, np.inf) for c in "ab"}
    times["death"] = np.where(rng.random(200) < 0.3, end, np.inf)
    time, event = first_of(end, times, ("a", "b"))
    for n in range(200):
        first = min(times["a"][n], times["b"][n])
        expected = (first, 1) if np.isfinite(first) else (end[n], 2 if times["death"][n] else 0)
        if not np.isfinite(times["death"][n]) and not np.isfinite(first):
            expected = (end[n], 0)
        assert (time[n], event[n]) == expected


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endpoints")
    columns = simulate_endpoints(2_500, 0)
    cells = {"patient_id": [f"patient{n:05}" for n in range(2_500)]} | {
        name: ["" if np.isnan(v) else f"{v:.6g}" for v in values]
        for name, values in columns.items()
    }
    path = write(folder / "women.csv", cells)
    text = evaluate_cohort(path, folder / "out", adjust=ADJUST, endpoints=["all"], horizons=(10.0,))
    return text, json.loads((folder / "out/metrics.json").read_text()), folder / "out/report.html"


def test_the_ratios_of_each_component_are_recovered(run):
    held = []
    for name, ratios in ENDPOINT_RATIOS.items():
        if name == "death":
            continue  # its simulated hazard has the fatal infarctions in it
        for level, truth in zip(("mild", "moderate", "severe"), ratios):
            low, high = run[1][f"{name}/cox_adjusted"][level]["hazard_ratio"]["ci95"]
            held.append(low <= truth <= high)
    assert len(held) == 9 and sum(held) >= 8


def test_each_score_stands_beside_its_own_endpoint_alone(run):
    beside = {
        name: {s for s in ("ASCVD (pooled cohort equations)", "PREVENT", "PREVENT-ASCVD",
                           "PREVENT-HF") if s in run[1].get(f"{name}/prediction", {})}
        for name in ENDPOINTS
    }  # fmt: skip
    assert beside == {
        "mace": set(),
        "mace_without_death": set(),
        "infarction": set(),
        "stroke": set(),
        "heart_failure": {"PREVENT-HF"},
        "death": set(),
        "ascvd": {"ASCVD (pooled cohort equations)", "PREVENT-ASCVD"},
        "cvd": {"PREVENT"},
    }
    gains = run[1]["cvd/added_by_calcification"]["prevent"]
    assert {"c_index", "ipa_10_years", "net_benefit_10_years"} <= set(gains)


def test_both_versions_of_the_paper_have_their_lines(run):
    _, metrics, page = run
    for name, definition in DEFINITIONS.items():
        assert "severe" in metrics[f"{name}/cox_{definition.score}_adjusted"]
    assert "journal_death_competing/fine_gray_prevent_adjusted" in metrics
    assert "preprint/fine_gray" not in metrics  # nothing competes with death
    chosen, every = (
        metrics[f"{name}/cox_adjusted"]["severe"]["hazard_ratio"]["n"]
        for name in ("preprint", "preprint_all_women")
    )
    assert chosen < every
    text = page.read_text()
    for title in ("Endpoints apart", "Each score against its own", "By the paper’s definitions"):
        assert title.replace("’", "&#39;") in text or title.replace("’", "'") in text
    assert "patient0" not in text


def test_fine_gray_differs_from_cox_only_where_death_competes(run):
    metrics = run[1]
    value = {
        (name, task): metrics[f"{name}/{task}"]["severe"]["hazard_ratio"]["value"]
        for name in ("death", "infarction")
        for task in ("cox_adjusted", "fine_gray")
    }
    assert value["death", "fine_gray"] == pytest.approx(value["death", "cox_adjusted"], rel=0.01)
    assert value["infarction", "fine_gray"] != pytest.approx(
        value["infarction", "cox_adjusted"], rel=0.002
    )


def test_the_endpoints_ratios_are_those_of_its_own_cohort(run, tmp_path):
    """The stroke column of the run is that of a run of strokes alone."""
    folder = run[2].parents[1]
    cohort = read_endpoints(folder / "women.csv", ["stroke"], covariates=ADJUST)["stroke"]
    group = np.searchsorted([0.0, 10.0, 25.0], cohort.area_mm2)
    women = Women(cohort, group, levels=(1, 2, 3), names=ADJUST, splines=("age",))
    alone = hazard_ratios(women)[0]["cox_adjusted"]["moderate"].hazard_ratio
    found = run[1]["stroke/cox_adjusted"]["moderate"]["hazard_ratio"]["value"]
    assert found == pytest.approx(alone, rel=1e-9)
