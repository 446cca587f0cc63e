"""Cohorts as hospitals send them: what is read, what is left out and counted, what is told."""

import csv
import json

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.outcomes.cohort import check_covariates, read_cohort
from mmv_jax.outcomes.run import evaluate_cohort

WOMEN = 60


def table(**changes):
    """Columns of a cohort of 60 women; a change is a column, or {row: cell} of one."""
    rng = np.random.default_rng(1)
    columns = {
        "patient_id": [f"w{n}" for n in range(WOMEN)],
        "time_years": [f"{x:.3f}" for x in 1 + rng.random(WOMEN) * 9],
        "event": [str(n % 5 % 3) for n in range(WOMEN)],
        "area_mm2": [f"{n % 4 * 9.5:g}" for n in range(WOMEN)],
        "age": [str(45 + n % 30) for n in range(WOMEN)],
        "sbp": [f"{x:.1f}" for x in 125 + rng.normal(size=WOMEN) * 9],
        "smoker": [str(n % 3 % 2) for n in range(WOMEN)],
    }
    for name, change in changes.items():
        own = dict(enumerate(columns.get(name, ())))
        own |= change if isinstance(change, dict) else dict(enumerate(change))
        columns[name] = [own[n] for n in range(WOMEN)]
    return columns


def write(path, columns, *, separator=",", encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))
    return path


def read(path, columns, adjust=("sbp", "smoker"), **form):
    return read_cohort(write(path / "c.csv", columns, **form), covariates=adjust, also=["hdl"])


@pytest.mark.parametrize(
    "form",
    [{"separator": ";"}, {"separator": "\t"}, {"encoding": "utf-16"}, {"encoding": "utf-8-sig"}],
    ids=str,
)
def test_separators_and_encodings_of_spreadsheets_are_read(tmp_path, form):
    plain, other = (read(tmp_path, table(), **each) for each in ({}, form))
    np.testing.assert_array_equal(plain.column("sbp"), other.column("sbp"))
    assert other.line.tolist() == plain.line.tolist()


def test_capitals_of_our_names_do_not_matter_and_the_users_own_stay(tmp_path):
    columns = {
        {"age": "Age", "time_years": "Time Years"}.get(name, name.upper()): cells
        for name, cells in table().items()
    }
    assert "sbp" in read(tmp_path, columns).covariates
    assert "SBP" in read(tmp_path, columns, adjust=("SBP",)).covariates


LEFT_OUT = {
    "no area": ({"area_mm2": {3: "", 4: "NA"}}, "no area_mm2", [5, 6]),
    "an area in a code": ({"area_mm2": {3: "999", 5: "-9"}}, "no area_mm2", [5, 7]),
    "no age": ({"age": {3: "unknown"}}, "no age", [5]),
    "no follow-up": ({"time_years": {5: ""}, "event": {5: ""}}, "no follow-up", [7]),
    "censored at no time": ({"time_years": {5: "."}, "event": {5: "0"}}, "no follow-up", [7]),
    "men": ({"Sex": ["M" if n < 2 else "F" for n in range(WOMEN)]}, "the sex of a man", [2, 3]),
}


@pytest.mark.parametrize("changes, why, lines", LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_who_cannot_be_analysed_is_left_out_counted_and_told(tmp_path, changes, why, lines):
    cohort = read(tmp_path, table(**changes))
    assert [(left.why, left.women) for left in cohort.left] == [(why, len(lines))]
    assert not set(lines) & set(cohort.line.tolist()) and len(cohort) == WOMEN - len(lines)
    assert f"{len(lines)} of 60 lines have {why} and are left out." in cohort.notes
    assert not any("not read" in note for note in cohort.notes)


def test_an_area_of_99_is_an_area(tmp_path):
    assert len(read(tmp_path, table(area_mm2={3: "99"}))) == WOMEN


CELLS = {  # changes, column, rows that are missing, note
    "words among numbers": (
        {"sbp": {2: "high", 5: "120/80"}},
        "sbp",
        [2, 5],
        "lines 4, 7 have a sbp that is not a number. They count as missing.",
    ),
    "a code far away": ({"sbp": {2: "999"}}, "sbp", [2], "sbp: 1 cells are 999, which means not"),
    "a negative code": ({"sbp": {2: "-9"}}, "sbp", [2], "sbp: 1 cells are -9, which means not"),
    "impossible": ({"sbp": {2: "0"}}, "sbp", [2], "line 4 has a sbp that cannot be in mmHg."),
    "another unit": ({"sbp": {2: "16.4"}}, "sbp", [2], "They look like kPa."),
    "yes and no": (
        {"smoker": ["Y" if n % 3 % 2 else "no" for n in range(WOMEN)]},
        "smoker",
        [],
        "smoker: words for yes and no are read as 1 and 0.",
    ),
    "1, 2 and 9": (
        {"smoker": ["1" if n % 3 % 2 else "29"[n % 10 == 0] for n in range(WOMEN)]},
        "smoker",
        [n for n in range(0, WOMEN, 10) if not n % 3 % 2],
        "which means not known beside the other values",
    ),
}


@pytest.mark.parametrize("changes, name, rows, note", CELLS.values(), ids=CELLS.keys())
def test_a_cell_of_a_covariate_is_missing_and_told_and_refuses_nothing(
    tmp_path, changes, name, rows, note
):
    cohort = read(tmp_path, table(**changes))
    assert np.flatnonzero(np.isnan(cohort.column(name))).tolist() == rows
    assert any(note in each for each in cohort.notes)
    clean = read(tmp_path, table()).column(name)
    known = np.isfinite(cohort.column(name))
    if name == "sbp" or "yes" in note:
        np.testing.assert_array_equal(cohort.column(name)[known], clean[known])


def test_a_column_in_the_other_unit_keeps_its_numbers_and_loses_those_of_ours(tmp_path):
    kpa = [f"{float(cell) / 7.5:.2f}" for cell in table()["sbp"]]
    cohort = read(tmp_path, table(sbp=[*kpa[:-1], "124"]))
    assert np.flatnonzero(np.isnan(cohort.column("sbp"))).tolist() == [WOMEN - 1]
    assert any("cannot be in kPa" in note and "look like mmHg" in note for note in cohort.notes)


def test_many_words_among_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match="a sbp that is not a number, while other lines have"):
        read(tmp_path, table(sbp=dict.fromkeys(range(20), ">140")))


def test_an_age_of_dicom_is_read_and_years_of_birth_are_named(tmp_path):
    dicom = read(tmp_path, table(age=[f"{int(age):03d}Y" for age in table()["age"]]))
    np.testing.assert_array_equal(dicom.age, read(tmp_path, table()).age)
    with pytest.raises(UserError, match="These look like years of birth"):
        read(tmp_path, table(age=["1955"] * WOMEN))


REMARKS = {
    "outcomes and censored exchanged": (
        {"event": ["01"[n % 5 > 0] for n in range(WOMEN)]},
        "80 % of the women have the outcome. Check that event 1",
    ),
    "1 is censored and 2 the outcome": (
        {"event": ["12"[n % 5 == 0] for n in range(WOMEN)]},
        "No woman is censored (event 0). Check the codes",
    ),
    "pixels": (
        {"area_mm2": [str(n % 4 * 2000) for n in range(WOMEN)]},
        "Half of the areas above 0 exceed 250 mm²",
    ),
    "cm²": (
        {"area_mm2": [f"{n % 4 * 0.09:g}" for n in range(WOMEN)]},
        "Of the areas above 0, 95 % are below 1 mm²",
    ),
    "another spelling of an id": (
        {"patient_id": {1: "W-07"}},
        "lines 3, 9 have a patient_id that differs from another only by capitals",
    ),
    "another column": (
        {"hdl": [str(150 + n) for n in range(WOMEN)]},
        "hdl: the middle of its cells is outside 20 to 100 mg/dL. Check that the column",
    ),
}


@pytest.mark.parametrize("changes, note", REMARKS.values(), ids=REMARKS.keys())
def test_what_may_be_a_mistake_is_told(tmp_path, changes, note):
    assert any(each.startswith(note) for each in read(tmp_path, table(**changes)).notes)


def test_nothing_is_remarked_on_a_good_cohort(tmp_path):
    assert read(tmp_path, table()).notes == ()


def test_a_follow_up_into_the_future_is_refused(tmp_path):
    past = read(tmp_path, table(index_date=["2005-05-31", "31.5.2005"] * (WOMEN // 2)))
    assert len(past) == WOMEN
    with pytest.raises(UserError, match="line 4 has an index_date and a follow-up that together"):
        read(tmp_path, table(index_date=["2005-05-31"] * 2 + ["2099-05-31"] + ["2005"] * 57))


def test_the_area_itself_is_no_covariate(tmp_path):
    cm2 = [f"{float(area) / 100:.4f}" for area in table()["area_mm2"]]
    cohort = read(tmp_path, table(area_cm2=cm2), adjust=("area_cm2",))
    with pytest.raises(UserError, match="area_cm2 is the calcified area in another unit"):
        check_covariates(cohort, ["area_cm2"])


def test_outcomes_that_all_came_last_are_analysed_without_a_prediction(tmp_path):
    # With events exchanged, all outcomes come on the day that the study ended.
    last = {
        "time_years": ["12" if n % 5 else f"{1 + n / 10:g}" for n in range(WOMEN)],
        "event": ["01"[n % 5 > 0] for n in range(WOMEN)],
    }
    path = write(tmp_path / "c.csv", table(**last))
    text = evaluate_cohort(path, tmp_path / "out", adjust=("age",))
    assert "none came while others were followed" in text
    assert "prediction" not in json.loads((tmp_path / "out" / "metrics.json").read_text())
