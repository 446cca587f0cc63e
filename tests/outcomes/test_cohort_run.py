"""A cohort file becomes numbers and a page."""

import csv
import html
import json
import re

import pytest
from ml_collections import ConfigDict

from mmv_jax.commands.keys import cohort_keys
from mmv_jax.config import NEEDED, load_config
from mmv_jax.errors import UserError
from mmv_jax.outcomes.analysis import Group
from mmv_jax.outcomes.cohort import split_names
from mmv_jax.outcomes.page import baseline
from mmv_jax.outcomes.run import evaluate_cohort, evaluate_config
from mmv_jax.outcomes.simulate import ADJUST, simulate_cohort


@pytest.fixture(scope="module")
def cohort_file(tmp_path_factory):
    women = simulate_cohort(4000, 0)
    path = tmp_path_factory.mktemp("cohort") / "women.csv"
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(
            ["patient_id", "time_years", "event", "area_mm2", "age", *women.covariates, "name"]
        )
        columns = (
            women.time_years,
            women.event,
            women.area_mm2,
            women.age,
            *women.covariates.values(),
        )
        for i, row in enumerate(zip(*columns)):
            out.writerow([f"patient{i:05}", *(f"{value:.6g}" for value in row), f"Sentinel{i}"])
    return path


@pytest.fixture(scope="module")
def results(cohort_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "new"
    text = evaluate_cohort(cohort_file, workdir, adjust=ADJUST, config='{"cohort": "women.csv"}')
    return (
        text,
        json.loads((workdir / "metrics.json").read_text()),
        (workdir / "report.html").read_text(),
    )


def test_the_numbers_are_written_and_said(results):
    text, metrics, _ = results
    value = metrics["cox_adjusted"]["severe"]["hazard_ratio"]["value"]
    assert f"severe      {value:.3f}" in text
    assert metrics["fine_gray"]["per_mm2"]["hazard_ratio"]["n"] == 4000


def test_the_page_says_when_and_of_what_file_it_is_and_that_it_is_no_device(results):
    _, _, page = results
    assert "no medical device" in page
    assert re.search(r"<dt>evaluated</dt><dd>\d{4}-\d\d-\d\d", page)
    assert "<dt>file</dt><dd>women.csv (digest" in page


def test_the_page_has_every_part_and_needs_no_network(results):
    page = results[2]
    for title in (
        "The women",
        "Incidence by severity",
        "Hazard ratios",
        "By age",
        "What calcification adds",
        "Are the hazards proportional",
        "What to know",
    ):
        assert f"<h2>{title}" in page
    assert page.count("<svg") >= 6
    assert "at risk" in page
    assert "&#34;cohort&#34;" in page
    assert "<script" not in page
    assert not re.search(r"""(src|href)="(?!data:|#)""", page)


def test_no_woman_is_named(results):
    for text in (results[0], json.dumps(results[1]), html.unescape(results[2])):
        assert "patient0" not in text
        assert "Sentinel" not in text


@pytest.mark.full  # the next test has the same values, from a config of before
def test_the_config_of_the_repository_is_the_call(cohort_file, tmp_path, results):
    config = load_config(
        "experiments/eval_outcomes.py",
        [f"--config.cohort={cohort_file}", f"--config.adjust={','.join(ADJUST)}"],
    )
    evaluate_cohort(
        config.cohort,
        tmp_path,
        adjust=split_names(config.adjust),
        thresholds=config.thresholds,
        horizons=config.horizons,
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == results[1]


def test_a_config_of_before_has_none_of_the_newer_keys(cohort_file, tmp_path, results):
    needed = {name for name, key in cohort_keys().items() if key.default is NEEDED}
    values = {"cohort": str(cohort_file), "adjust": ",".join(ADJUST)}
    values |= {"thresholds": (0.0, 10.0, 25.0), "horizons": (5.0, 10.0)}
    assert needed == set(values)
    evaluate_config(ConfigDict(values), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == results[1]


def test_areas_from_images_stand_for_the_column(cohort_file, tmp_path, results):
    with open(cohort_file, newline="") as file:
        areas = {row["patient_id"]: 2 * float(row["area_mm2"]) for row in csv.DictReader(file)}
    evaluate_cohort(cohort_file, tmp_path, areas=areas)
    doubled = json.loads((tmp_path / "metrics.json").read_text())["cox_unadjusted"]["per_mm2"][
        "hazard_ratio"
    ]["value"]
    by_column = results[1]["cox_unadjusted"]["per_mm2"]["hazard_ratio"]["value"]
    assert by_column == pytest.approx(doubled**2)


def test_a_file_with_mistakes_leaves_nothing_behind(cohort_file, tmp_path):
    lines = cohort_file.read_text().splitlines()
    lines[7] = lines[8]
    (tmp_path / "bad.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match="bad.csv: lines 8, 9 have a patient_id"):
        evaluate_cohort(tmp_path / "bad.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_group_without_follow_up_has_no_rate():
    groups = [Group("mild", 10, 4, 0, years, (1.0, 2.0, 3.0), {}) for years in (0.0, 1000.0)]
    last = baseline(groups).lines[-1]
    assert [cell.text for cell in last] == ["outcomes per 1,000 woman-years", "—", "4.0 (1.1–10.2)"]
