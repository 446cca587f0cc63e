"""The cohort table: every mistake is named with its lines, and nobody is left out in silence."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmv_jax.errors import UserError
from mmv_jax.outcomes.cohort import (
    check_covariates,
    complete_cases,
    read_cohort,
    severity,
    split_names,
)

HEADER = ["patient_id", "time_years", "event", "area_mm2", "age", "sbp", "site"]


def good_rows(women=40):
    rng = np.random.default_rng(1)
    time, sbp = 1 + rng.random(women) * 9, 120 + rng.normal(size=women) * 9
    return [
        [
            f"w{i}",
            f"{time[i]:.3f}",
            str(i % 3),
            f"{(i % 4) * 9.0:g}",
            str(45 + i % 30),
            f"{sbp[i]:.1f}",
            "north" if i % 2 else "south",
        ]
        for i in range(women)
    ]


def write(path, rows, header=HEADER):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_good_file_is_read_as_it_stands(tmp_path):
    rows = good_rows()
    cohort = read_cohort(write(tmp_path / "cohort.csv", rows), covariates=["age", "sbp", "site"])
    assert len(cohort) == 40
    assert cohort.line.tolist() == list(range(2, 42))
    np.testing.assert_array_equal(cohort.time_years, [float(row[1]) for row in rows])
    np.testing.assert_array_equal(cohort.event, [int(row[2]) for row in rows])
    np.testing.assert_array_equal(cohort.column("sbp"), [float(row[5]) for row in rows])
    assert cohort.names_of(["age", "sbp", "site"]) == ("age", "sbp", "site=south")
    assert cohort.notes == ("site is text: its 2 levels are compared with the most common, north.",)


DEFECTS = {
    # name: (row, column, what the cell becomes, what the message says)
    "negative time": (3, "time_years", "-0.5", "line 5 has a negative time_years"),
    "event without time": (4, "time_years", "", "line 6 has an event without a time"),
    "a competing death without time": (4, "time_years", "", "line 6 has an event without a time"),
    "time in words": (3, "time_years", "two", "line 5 has a time_years that is not a number"),
    "endless time": (3, "time_years", "inf", "line 5 has a time_years that is not a number"),
    "time in days": (
        3,
        "time_years",
        "2190",
        "line 5 has a time_years above 80. If these are days",
    ),
    "no event": (3, "event", "", "line 5 has no event"),
    "unknown event code": (3, "event", "3", "line 5 has an event code other than 0"),
    "event code in words": (3, "event", "dead", "line 5 has an event code other than 0"),
    "half an event": (3, "event", "0.5", "line 5 has an event code other than 0"),
    "duplicate woman": (
        3,
        "patient_id",
        "w7",
        "lines 5, 9 have a patient_id that another line has too",
    ),
    "no id": (3, "patient_id", " ", "line 5 has no patient_id"),
    "follow-up in months": (
        3,
        "time_years",
        "72",
        "line 5 has an age and a time_years that make her older than 110. If the times are months",
    ),
    "an area in words": (3, "area_mm2", "<0.1", "line 5 has no area_mm2, or one that is not"),
    "negative area": (3, "area_mm2", "-1", "line 5 has a negative area_mm2"),
    "a child": (3, "age", "5", "line 5 has no age between 18 and 110"),
    "an age that is capped": (3, "age", "90+", "line 5 has no age between 18 and 110"),
    "age in months": (3, "age", "640", "line 5 has no age between 18 and 110"),
    "an id that a spreadsheet rounded": (
        3,
        "patient_id",
        "1.2E+11",
        "line 5 has a patient_id that a spreadsheet has rounded",
    ),
    "a text level that could name a woman": (
        3,
        "site",
        "Gertrude",
        "site is text with 3 levels, the rarest in 1 line",
    ),
}


@pytest.mark.parametrize("row, column, cell, message", DEFECTS.values(), ids=DEFECTS.keys())
def test_a_wrong_cell_is_refused_by_its_line_and_not_quoted(tmp_path, row, column, cell, message):
    rows = good_rows()
    rows[row][HEADER.index(column)] = cell
    with pytest.raises(UserError) as error:
        read_cohort(write(tmp_path / "cohort.csv", rows), covariates=["sbp", "site"])
    assert str(error.value).startswith("cohort.csv: ")
    assert message in str(error.value)
    assert "Gertrude" not in str(error.value)
    assert "w7" not in str(error.value)
    assert "\n" not in str(error.value)  # one mistake, one complaint


LATE = {
    "none": ("NA", "line 5 has no entry_years"),
    "words": ("late", "line 5 has an entry_years that is not a number"),
    "before the mammogram": ("-1", "line 5 has a negative entry_years"),
    "never at risk": ("30", "line 5 has an entry_years that is not before time_years"),
}


@pytest.mark.parametrize("cell, message", LATE.values(), ids=LATE.keys())
def test_a_wrong_entry_is_refused(tmp_path, cell, message):
    rows = [[*row, "0"] for row in good_rows()]
    rows[3][-1] = cell
    path = write(tmp_path / "cohort.csv", rows, [*HEADER, "entry_years"])
    with pytest.raises(UserError, match=message):
        read_cohort(path)


def test_a_late_entry_is_read_kept_and_told(tmp_path):
    rows = [[*row, "0.5" if i % 4 else "0"] for i, row in enumerate(good_rows())]
    path = write(tmp_path / "cohort.csv", rows, [*HEADER, "entry_years"])
    cohort = read_cohort(path, covariates=["sbp", "site"])
    assert cohort.where(np.arange(40) < 5).entry_years.tolist() == [0, 0.5, 0.5, 0.5, 0]
    assert any(note.startswith("30 women come under observation after") for note in cohort.notes)


def test_codes_and_words_for_missing_are_missing(tmp_path):
    rows = [[*row, str(i % 2)] for i, row in enumerate(good_rows())]
    for i, cell in enumerate(["9", "9", "unknown", "N/A", "#N/A", "-"]):
        rows[i][-1] = cell
    path = write(tmp_path / "cohort.csv", rows, [*HEADER, "smoker"])
    cohort = read_cohort(path, covariates=["smoker"])
    assert np.isnan(cohort.column("smoker")).tolist() == [True] * 6 + [False] * 34
    assert cohort.notes[0].startswith("smoker: 2 cells are 9, which means not known")


def test_follow_up_that_may_be_months_is_told(tmp_path):
    rows = good_rows()
    for row in rows:
        row[1], row[4] = "30", "50"
    notes = read_cohort(write(tmp_path / "cohort.csv", rows)).notes
    assert notes[0].startswith("Half of the women are followed for more than 30 years.")


def test_all_mistakes_are_told_at_once_and_many_lines_are_counted(tmp_path):
    rows = good_rows()
    for row in rows[:9]:
        row[1] = "-1"
    rows[20][4] = "4"
    with pytest.raises(UserError) as error:
        read_cohort(write(tmp_path / "cohort.csv", rows))
    first, second = str(error.value).split("\n")
    assert "lines 2, 3, 4, 5, 6 and 4 more have a negative time_years" in first
    assert "line 22 has no age" in second


def test_lines_are_those_of_the_file_below_empty_lines_and_quoted_breaks(tmp_path):
    rows = good_rows()
    rows[0][6] = "north\nwing"
    rows.insert(1, [])
    rows[3][1] = "-2"
    path = write(tmp_path / "cohort.csv", rows)
    with pytest.raises(UserError, match="line 6 has a negative time_years"):
        read_cohort(path)
    assert path.read_text().split("\n")[5].startswith("w2,-2")


HEADERS = {
    "a column is missing": (
        ["patient_id", "time", "event", "area_mm2", "age", "sbp", "site"],
        "the header has no time_years",
    ),
    "a column twice": (
        ["patient_id", "time_years", "event", "area_mm2", "age", "age", "site"],
        "more than once",
    ),
    "a column in another unit": (
        ["patient_id", "time_months", "event", "area_mm2", "age", "sbp", "site"],
        "the header has no time_years",
    ),
}


@pytest.mark.parametrize("header, message", HEADERS.values(), ids=HEADERS.keys())
def test_a_wrong_header_is_refused(tmp_path, header, message):
    with pytest.raises(UserError, match=message):
        read_cohort(
            write(tmp_path / "cohort.csv", [row[: len(header)] for row in good_rows()], header)
        )


CONTENTS = {
    "nothing at all": (b"", "the header has no patient_id"),
    "no lines": (",".join(HEADER).encode(), "a header and no lines"),
    "a spreadsheet": (b"PK\x03\x04\xff\xfe\x00\x9c", "not UTF-8"),
    "an open quote": (",".join(HEADER).encode() + b'\nw1,1,0,0,50,"120,x\n', "not a CSV line"),
    "a line too short": (",".join(HEADER).encode() + b"\nw1,1,0\n", "line 2 has not as many cells"),
    "no outcome": (
        ",".join(HEADER).encode() + b"\nw1,1,0,0,50,120,x\nw2,2,2,0,50,120,x\n",
        "no line has event 1",
    ),
}


@pytest.mark.parametrize("content, message", CONTENTS.values(), ids=CONTENTS.keys())
def test_a_file_that_is_no_cohort_is_refused(tmp_path, content, message):
    path = tmp_path / "cohort.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_cohort(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such cohort file"):
        read_cohort(tmp_path / "absent.csv")


ADJUSTMENTS = {
    "unknown": (["bmi"], "there is no column bmi.*age, sbp, site"),
    "twice": (["sbp", "sbp"], "adjust names sbp twice"),
    "the outcome itself": (["event"], "adjust names event, which is no covariate"),
}


@pytest.mark.parametrize("adjust, message", ADJUSTMENTS.values(), ids=ADJUSTMENTS.keys())
def test_an_adjustment_that_cannot_be_is_refused(tmp_path, adjust, message):
    with pytest.raises(UserError, match=message):
        read_cohort(write(tmp_path / "cohort.csv", good_rows()), covariates=adjust)


def test_ids_that_no_mammogram_has_are_refused_and_mammograms_without_follow_up_told(tmp_path):
    path = write(tmp_path / "cohort.csv", good_rows())
    areas = {f"w{i}": float(i) for i in range(45)}
    cohort = read_cohort(path, areas=areas)
    # and not the column of the file
    np.testing.assert_array_equal(cohort.area_mm2, np.arange(40.0))
    assert cohort.notes == (
        "5 women with mammograms are not in the cohort file and are not analysed.",
        "Columns that are not read: sbp, site.",
    )
    del areas["w3"], areas["w9"]
    with pytest.raises(UserError, match="lines 5, 11 have a patient_id that no mammogram has"):
        read_cohort(path, areas=areas)
    # w0 has mammograms of which none counts: an unknown area is no zero, and no mistake of the file
    known = read_cohort(path, areas={f"w{i}": float(i or "nan") for i in range(40)})
    np.testing.assert_array_equal(known.area_mm2, np.arange(1.0, 40.0))
    assert known.line[0] == 3 and known.notes[0].startswith(
        "1 of 40 women have mammograms of which"
    )
    with pytest.raises(UserError, match="nobody can be analysed: 40 with no mammogram that"):
        read_cohort(path, areas={f"w{i}": float("nan") for i in range(40)})


def test_women_without_a_covariate_are_counted(tmp_path):
    rows = good_rows()
    rows[1][5], rows[2][5], rows[4][6] = "", "NA", ""
    cohort = read_cohort(write(tmp_path / "cohort.csv", rows), covariates=["sbp", "site"])
    kept = complete_cases(cohort, cohort.names_of(["sbp", "site"]))
    assert len(kept) == 37
    assert kept.line.tolist() == [line for line in range(2, 42) if line not in (3, 4, 6)]
    assert (
        "3 of 40 women (7.5 %), with 2 of the outcomes, lack a covariate (sbp 2, site=south 1)"
        in kept.notes[-1]
    )
    assert complete_cases(kept, ["sbp"]) is kept


def test_a_column_that_nobody_asked_for_is_read_where_it_has_numbers_and_told_where_not(tmp_path):
    rows = [[*row, "ever" if i < 3 else "0"] for i, row in enumerate(good_rows())]
    cohort = read_cohort(
        write(tmp_path / "cohort.csv", rows, [*HEADER, "smoker"]), also=["smoker", "bmi"]
    )
    assert list(cohort.covariates) == ["smoker"]
    assert np.isnan(cohort.covariates["smoker"]).sum() == 3
    assert cohort.notes == (
        (
            "smoker: 3 cells are not numbers and count as missing for the published risks. Write 0"
            " and 1 for no and yes."
        ),
        "Columns that are not read: sbp, site.",
    )


def test_covariates_without_information_are_refused(tmp_path):
    path = write(
        tmp_path / "cohort.csv",
        [[*row, "1", row[5], str(int(row[2] == "1"))] for row in good_rows()],
        [*HEADER, "one", "copy", "hit"],
    )
    cohort = read_cohort(path, covariates=["sbp", "one", "copy", "hit"])
    check_covariates(cohort, ["sbp", "age"])
    with pytest.raises(UserError, match="covariate one is the same for all 40 women"):
        check_covariates(cohort, ["sbp", "one"])
    with pytest.raises(UserError, match=r"covariate copy follows from the ones before it \(sbp\)"):
        check_covariates(cohort, ["sbp", "copy"])
    with pytest.raises(UserError, match="no outcome happened on one side of the covariate hit"):
        check_covariates(cohort, ["hit"])


def test_a_follow_up_of_no_time_is_told(tmp_path):
    rows = good_rows()
    rows[0][1] = "0"
    assert (
        "1 women have a follow-up of 0 years"
        in read_cohort(write(tmp_path / "cohort.csv", rows)).notes[0]
    )


@given(
    st.lists(st.floats(0, 1000), max_size=50),
    st.lists(st.integers(0, 300), min_size=3, max_size=3, unique=True).map(sorted),
)
def test_severity_counts_the_thresholds_passed(areas, thresholds):
    expected = [sum(area > threshold for threshold in thresholds) for area in areas]
    assert severity(np.array(areas, float), thresholds).tolist() == expected


@pytest.mark.parametrize(
    "thresholds", [(0, 10), (0, 25, 10), (-1, 10, 25)], ids=["two", "falling", "negative"]
)
def test_thresholds_must_be_three_rising_areas(thresholds):
    with pytest.raises(UserError, match="three rising areas"):
        severity(np.zeros(3), thresholds)


def test_names_are_split_at_commas():
    assert split_names("age, sbp,,") == ("age", "sbp")
    assert split_names("") == ()


CELLS = st.sampled_from(
    [
        "",
        "0",
        "1",
        "2",
        "-1",
        "5.5",
        "nan",
        "inf",
        "1e400",
        "x",
        "w1",
        "é",
        '"',
        "0x1f",
        "1_0",
        " 3 ",
        "\x00",
    ]
)


@given(st.lists(st.lists(CELLS, min_size=7, max_size=7), max_size=6))
def test_any_cells_give_a_cohort_or_a_user_error(tmp_path_factory, rows):
    path = write(tmp_path_factory.mktemp("any") / "cohort.csv", rows)
    try:
        cohort = read_cohort(path, covariates=["sbp", "site"])
    except UserError:
        return
    assert np.all(
        np.isfinite(cohort.time_years) & (cohort.time_years >= 0) & (cohort.area_mm2 >= 0)
    )
    assert set(cohort.event) <= {0, 1, 2}
