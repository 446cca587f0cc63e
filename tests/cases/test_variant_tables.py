"""Further forms of what tables say wrongly: dates, people and places, numbers that are none, words
that count as missing, ids, columns under other names.
"""

from pathlib import Path

import numpy as np
import pytest
from made import chest, manifest, png
from planted import run_here

from mmv_jax.manifests.manifest import Line, read_manifest
from mmv_jax.manifests.spelling import one_spelling, spellings
from mmv_jax.store.ingest import ingest
from mmv_jax.store.labels import carry, choose_columns
from mmv_jax.store.odd_columns import odd_columns
from mmv_jax.store.read import Store
from mmv_jax.store.workers import ENGINES

N = 40


def chosen(values: list[str], name: str = "c1") -> tuple[dict[str, type], list[str]]:
    """What becomes of a column that repeats these values over patients of one study each."""
    cells = [{name: values[n % len(values)]} for n in range(N)]
    return choose_columns(cells, [f"p{n}" for n in range(N)])


DATES = (
    ("12. März 2019", "13. März 2019"), ("12 mars 2019", "13 avril 2019"),
    ("12 de marzo de 2019", "13 de enero de 2019"), ("Mar-2019", "Apr-2019"),
    ("03.2019", "04.2019"), ("2019-Q1", "2019-Q2"), ("Q1 2019", "Q2 2019"),
    ("2019-W12", "2019-W13"), ("20190312T101112", "20190313T101112"),
    ("20190312101112", "20190313101112"), ("12|03|2019", "13|03|2019"),
    ("12_03_2019", "13_03_2019"), ("2019 03 12", "2019 03 13"), ("12.3.", "13.3."),
    ("2019年3月12日", "2019年3月13日"), ("12-III-2019", "13-IV-2019"), ("1 April", "2 April"),
    ("12th March 2019", "13th March 2019"), ("Mon 12.03.19", "Tue 13.03.19"),
    ("2019.0312", "2019.0313"), ("12/2019", "11/2019"),
    # counts of days and seconds
    ("43536", "43537"), ("43536.5", "43537.25"), ("737495", "737496"),
    ("1552384000", "1552470400"), ("1552384000000", "1552470400000"),
)  # fmt: skip
NO_DATES = (
    ("3+4", "4+3"), ("stage II", "stage III"), ("1", "2"), ("80-89", "90+"), ("T1N0M0", "T2N1M0"),
    ("0.5", "2.25"), ("BI-RADS 3", "BI-RADS 4"), ("May", "not"), ("120", "43536"),
    ("grade 1 of 3", "grade 2 of 3"), ("2018", "2019"), ("v1", "v2"),
)  # fmt: skip
PERSONAL = (
    ("SAMPLE^ANNA", "EXAMPLE^BOB"), ("A. Sample", "B. Example"), ("Fr. Sample", "Hr. Example"),
    ("Sr. Garcia", "Sra. Lopez"), ("+49 151 1000001", "+49 151 1000002"),
    ("(089) 123-456", "(089) 123-457"), ("123-45-6789", "123-45-6780"), ("H-1234567", "H-1234568"),
    ("192.168.0.1", "192.168.0.2"), ("1.2.3456.7.8", "1.2.3456.7.9"), ("SW1A 1AA", "SW1A 2AA"),
    ("K1A 0B1", "K1A 0B2"), ("1234 AB", "1235 AB"), ("Hauptstr. 5", "Hauptstr. 7"),
    ("12 Main Street", "13 Main Street"), ("00:1A:2B:3C:4D:5E", "00:1A:2B:3C:4D:5F"),
    ("DE89370400440532013000", "DE89370400440532013001"),
)  # fmt: skip
NAMES = (
    "birthyear", "yob", "geburtsjahr", "jahrgang", "zipcode", "postal_code", "PostalCode", "county",
    "latitude", "serial", "account", "licence plate", "kvnr", "naissance",
)  # fmt: skip


@pytest.mark.parametrize("values", DATES, ids=lambda pair: pair[0])
def test_dates_in_any_order_stay_behind(values):
    assert chosen(list(values)) == ({}, ["c1"])


@pytest.mark.parametrize("values", NO_DATES, ids=lambda pair: pair[0])
def test_grades_and_measurements_are_no_dates(values):
    assert list(chosen(list(values))[0]) == ["c1"]


@pytest.mark.parametrize("values", PERSONAL, ids=lambda pair: pair[0])
def test_people_places_and_numbers_of_records_stay_behind(values):
    assert chosen(list(values)) == ({}, ["c1"])


@pytest.mark.parametrize("name", NAMES)
def test_more_columns_that_identify_by_their_names(name):
    assert chosen(["1931", "1932"], name) == ({}, [name])


@pytest.mark.parametrize("values", [("1_2", "3_4"), ("inf", "1"), ("1e400", "1"), ("١", "٢")])
def test_what_only_python_takes_for_a_number_is_text(values):
    columns, _ = chosen(list(values))
    assert columns == {"c1": str}
    assert carry({"c1": values[0]}, columns) == {"label_c1": values[0]}


@pytest.mark.parametrize(
    "cell, years",
    [("045Y", 45), ("018M", 1.5), ("45 years", 45), ("97 Jahre", 90), ("93Y", 90), ("60", 60)],
)
def test_ages_of_any_form_are_years(cell, years):
    columns, _ = chosen([cell, "050Y"], "age")
    assert columns == {"age": float}
    assert carry({"age": cell}, columns) == {"label_age": years}


# ---- columns that are probably meant otherwise


def told(name: str, values: list[str], kind: type | None = str) -> list[tuple[int, str]]:
    about = dict(split="train", modality="CT", spacing_mm=None, unit=None, masks={})
    lines = [
        Line(number=n, study_id=f"{n}", patient_id=f"{n}", path=Path(f"{n}"),
             labels={name: value} if value else {}, **about)
        for n, value in enumerate(values, 2)
    ]  # fmt: skip
    return [(line, code) for line, code, _ in odd_columns(lines, {name: kind} if kind else {})]


ODD = {
    ("mask", ("a.png", "b.png")): [(2, "odd_column")],
    ("mask_liver", ("", "b.nii.gz")): [(3, "odd_column")],
    ("segmentation", ("a.nii", "b.nii")): [(2, "odd_column")],
    ("liver_seg", ("x/a.nrrd", "x/b.nrrd")): [(2, "odd_column")],
    ("PixelSpacing", ("0.5", "0.7")): [(2, "odd_column")],
    ("units", ("HU", "HU")): [(2, "odd_column")],
    ("finding", ("+", "-", "+")): [(3, "word_for_missing")],
    ("severity", ("mild", "none", "severe")): [(3, "word_for_missing")],
    ("severity", ("mild", "None", "")): [(3, "word_for_missing")],
    ("thickness", ("1,5", "2,5")): [(2, "odd_numbers")],
    ("share", ("50%", "60%")): [(2, "odd_numbers")],
    ("change", ("1", "\u22121")): [(3, "odd_numbers")],
    ("size", ("5", "<5", "12 mm")): [(3, "odd_numbers")],
    ("size", ("5", "inf")): [(3, "odd_numbers")],
    # what is meant as it stands
    ("severity", ("mild", "", "severe")): [],
    ("flag", ("True", "None", "False")): [],
    ("stage", ("1", "2", "3a")): [],
    ("finding", ("yes", "NA", "no")): [],
    ("segment", ("left", "right")): [],
    ("roi_reader", ("a", "b")): [],
}


@pytest.mark.parametrize("case", ODD, ids=lambda case: f"{case[0]} {' '.join(case[1])}")
def test_columns_that_are_probably_meant_otherwise_are_told(case):
    assert told(case[0], list(case[1])) == ODD[case]


# ---- ids


@pytest.mark.parametrize(
    "one, other",
    [
        ("42", "\u0664\u0662"), ("42", "\u096a\u0968"), ("p1", "p1\u200b"), ("p1", "\ufeffp1"),
        ("42", "42.0"), ("P0042", "P42"), ("p\u20111", "p-1"), ("42", '="42"'), ("42", "'42"),
        ("a  b", "a b"), ("p1", "\uff50\uff11"), ("S-007-x", "S-7-x"),
    ],
)  # fmt: skip
def test_a_patient_whose_id_was_typed_or_exported_otherwise_is_one(tmp_path, one, other):
    assert one_spelling(one) == one_spelling(other)
    assert one in spellings(other) or other in spellings(one)
    rows = [{"patient_id": one}, {"patient_id": other, "split": "test"}]
    lines, refused = read_manifest(manifest(tmp_path, [row | {"path": "a"} for row in rows]))
    assert not lines and [why.code for why in refused] == ["patient_across_splits"] * 2


@pytest.mark.parametrize("one, other", [("1.2", "12"), ("p1", "p10"), ("a1", "b1"), ("1-1", "11")])
def test_ids_that_differ_stay_two(one, other):
    assert one_spelling(one) != one_spelling(other)
    assert one not in spellings(other) and other not in spellings(one)


@pytest.mark.parametrize(
    "column, cell, code",
    [
        ("patient_id", "NA", "missing_value"), ("patient_id", "unknown", "missing_value"),
        ("study_id", "nan", "missing_value"), ("path", "N/A", "missing_value"),
        ("modality", "", "missing_value"), ("patient_id", "1.23457E+11", "rounded_id"),
        ("study_id", "1,2E+9", "rounded_id"), ("organ_mask", "a.png", "mask_values"),
    ],
)  # fmt: skip
def test_cells_that_say_nothing_are_refused(tmp_path, column, cell, code):
    rows = [{"path": "a.png", column: cell}, {"path": "b.png"}]
    lines, refused = read_manifest(manifest(tmp_path, rows))
    assert [(why.number, why.code) for why in refused] == [(2, code)]
    assert [line.number for line in lines] == [3]


def test_words_for_missing_are_empty_cells_of_masks_and_units(tmp_path):
    words = {"organ_mask": "none", "unit": "n/a"}
    (line,), _ = read_manifest(manifest(tmp_path, [{"path": "a.png"} | words]))
    assert (line.masks, line.unit) == ({}, None)


@pytest.mark.parametrize("name", ["organ-mask", "organ mask", "organ_Mask", "organ_MASK"])
def test_mask_columns_of_any_spelling_are_masks(tmp_path, name):
    (line,), _ = read_manifest(manifest(tmp_path, [{"path": "a.png", name: "m.png"}]))
    assert list(line.masks) == ["organ"]


def test_warnings_of_a_table_are_written_once_and_quote_no_cell(tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES, "local", run_here)
    rows = []
    for n in range(4):
        png(tmp_path / f"{n}.png", (chest() // 16 + n).astype(np.uint8))
        rows.append({"path": f"{n}.png", "severity": ("mild", "none")[n % 2], "size": "1,5"})
    rows.append(rows[0] | {"remark": "SENTINEL"})
    path = manifest(tmp_path, rows)
    for _ in range(2):
        report = ingest([path], tmp_path / "store", timeout_s=60.0)
    assert report.told == {"word_for_missing": 1, "odd_numbers": 1, "file_twice": 1}
    text = (tmp_path / "store" / "warnings.jsonl").read_text()
    assert text.count("\n") == 4 and "SENTINEL" not in text and "mild" not in text
    assert len(Store.open(tmp_path / "store")) == 5
