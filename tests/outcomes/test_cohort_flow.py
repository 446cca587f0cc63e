"""The flow of a cohort counts every woman once; STROBE's items are answered by what was done."""

import csv
import json

import numpy as np
import pytest

from mmv_jax.outcomes.analysis import analyse
from mmv_jax.outcomes.cohort import Left
from mmv_jax.outcomes.run import evaluate_cohort
from mmv_jax.outcomes.simulate import ADJUST, simulate_cohort, write_cohort
from mmv_jax.outcomes.stated import strobe
from mmv_jax.report.checklist import CLAIM, STROBE, answered
from mmv_jax.report.page import remake

WOMEN, UNMEASURED = 1500, 4
GAPS = {"sbp": (10, 11, 12, 13, 14), "smoker": (14, 15, 16)}  # line 14 lacks both


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The rows of a cohort with gaps, and the workdir of its evaluation."""
    folder = tmp_path_factory.mktemp("flow")
    write_cohort(folder / "women.csv", WOMEN, 3)
    with (folder / "women.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for column, places in GAPS.items():
        for n in places:
            rows[n][column] = ""
    with (folder / "women.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    areas = {row["patient_id"]: float(row["area_mm2"]) for row in rows}
    # The first women have mammograms of which none counts.
    areas |= {row["patient_id"]: np.nan for row in rows[:UNMEASURED]}
    evaluate_cohort(folder / "women.csv", folder / "out", adjust=ADJUST, areas=areas)
    return rows, folder / "out"


def events(rows, code):
    return sum(float(row["event"]) == code for row in rows)


def test_every_line_of_the_file_is_counted_once(planted):
    rows, out = planted
    flow = json.loads((out / "protocol.json").read_text())["flow"]
    lacking = {n for places in GAPS.values() for n in places}
    used = [row for n, row in enumerate(rows) if n >= UNMEASURED and n not in lacking]
    unmeasured, incomplete = flow["left_out"]
    assert flow["lines"] == WOMEN
    assert (unmeasured["women"], incomplete["women"]) == (UNMEASURED, 7)
    assert unmeasured["outcomes"] == events(rows[:UNMEASURED], 1)
    assert incomplete["outcomes"] == events([rows[n] for n in lacking], 1)
    assert incomplete["by_column"] == {name: len(places) for name, places in GAPS.items()}
    assert flow["analysed"] == len(used) == WOMEN - UNMEASURED - 7
    assert flow["outcomes"] == events(used, 1)
    assert (flow["competing_deaths"], flow["censored"]) == (events(used, 2), events(used, 0))
    assert sum(of["women"] for of in flow["by_severity"].values()) == flow["analysed"]


def test_the_page_shows_the_flow_and_is_made_anew_from_its_file(planted):
    out = planted[1]
    page = (out / "report.html").read_text()
    assert "<h2>Flow of women" in page and "left out: a covariate is missing <b>7</b>" in page
    assert "<h2>Checklist of STROBE" in page and "<h2>Checklist of Metrics Reloaded" in page
    (out / "report.html").unlink()
    remake(out)
    assert (out / "report.html").read_text() == page


def test_the_protocol_answers_every_item_and_by_what_was_done(planted):
    protocol = json.loads((planted[1] / "protocol.json").read_text())
    assert [item["item"] for item in protocol["strobe_2007"]] == list(STROBE)
    said = {item["item"]: item for item in protocol["strobe_2007"]}
    assert "multiple imputation" in said["12c"]["where"]
    assert said["7"]["fulfilled"] == "partly"  # nobody says what the event is
    assert [item["fulfilled"] for item in protocol["metrics_reloaded"]] == ["no"]


def test_a_complete_cohort_of_a_named_endpoint_is_answered_otherwise():
    analysis = analyse(simulate_cohort(1500, 4), adjust=("age",), horizons=())
    said = {item.item: item for item in strobe(analysis, "mace")}
    assert said["7"].fulfilled == "yes" and "mace" in said["7"].where
    assert said["12c"].where == "no covariate is missing"
    assert (analysis.flow.lines, analysis.flow.left) == (1500, ())


def test_a_record_of_women_left_out_is_kept_by_what_is_taken_of_a_cohort():
    cohort = simulate_cohort(50, 0).without(Left("planted", 3, 1))
    assert cohort.where(cohort.age > 0).left == (Left("planted", 3, 1),)


@pytest.mark.parametrize("change", ["one fewer", "one more"])
def test_answers_that_do_not_fit_the_items_are_refused(change):
    answers = dict.fromkeys(CLAIM, ("yes", "here"))
    if change == "one fewer":
        del answers["44"]
    else:
        answers["45"] = ("yes", "here")
    with pytest.raises(ValueError, match="do not fit"):
        answered(CLAIM, answers)
