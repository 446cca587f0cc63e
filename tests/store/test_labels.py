"""Which columns of a manifest cross into a store."""

import math

import pytest

from mmv_jax.store.labels import carry, choose_columns

N = 40
CARRIED = {
    "numbers": [str(n / 7) for n in range(N)],
    "zero or one": [str(n % 2) for n in range(N)],
    "numbers and gaps": ["", "3"] * (N // 2),
    "sex": ["M", "F"] * (N // 2),
    "few short texts": ["COVID-19", "other pneumonia"] * (N // 2),
    "pixel counts": [str(9_990 + n) for n in range(N)],
    "long counts that repeat": ["1234567", "2345678"] * (N // 2),
}
LEFT = {
    "persons": [f"Person {n}" for n in range(N)],
    "few texts that hardly repeat": [f"ward {n // 1.5}" for n in range(N)],
    "many texts": [f"text {n % 33}" for n in range(10 * 33)],
    "long texts": ["a sentence about a patient, which has no end"] * N,
    "dates": [f"2019-03-{n % 20 + 1:02}" for n in range(N)],
    "dates as numbers": [f"201903{n % 5 + 10}" for n in range(N)],
    "paths": ["a/b", "a/c"] * (N // 2),
    "files": ["one.png", "two.png"] * (N // 2),
    "addresses": ["someone@example.org"] * N,
    "six digits, of a record or of pixels": [str(100_000 + n) for n in range(N)],
    "record numbers": [str(10_000_000 + 37 * n) for n in range(N)],
    "nothing": [""] * N,
}
NAMES = (
    "PatientName",
    "patient_name",
    "mrn",
    "StudyDate",
    "birth_date",
    "accession number",
    "file",
    "StudyInstanceUID",
    "radiologist",
    "comments",
)
NAMES += (
    "patient",
    "Subject",
    "CASE",
    "PATIENTID",
    "STUDYID",
    "accessionnumber",
    "Record No.",
    "PATIENT_1",
)


def persons(n: int, studies: int = 1) -> list[str]:
    """A patient of each of n lines, who has so many studies in a row."""
    return [f"person {line // studies}" for line in range(n)]


@pytest.mark.parametrize("values", CARRIED.values(), ids=CARRIED.keys())
def test_measurements_and_categories_are_carried(values):
    columns, left = choose_columns([{"column": value} for value in values], persons(len(values)))
    assert (list(columns), left) == (["column"], [])


@pytest.mark.parametrize("values", LEFT.values(), ids=LEFT.keys())
def test_what_may_name_someone_stays_behind_and_is_told(values):
    assert choose_columns([{"column": value} for value in values], persons(len(values))) == (
        {},
        ["column"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_column_whose_name_identifies_stays_behind_whatever_it_holds(name):
    assert choose_columns([{name: str(n % 2)} for n in range(N)], persons(N)) == ({}, [name])


SEVERAL = 3  # studies of each of 20 patients, and what says the same of all of a patient's
OF_PATIENTS = {
    "names": ("who", lambda n: f"Miller, Anna {n}", None),
    "six digits": ("number", lambda n: str(100_003 + 37 * n), None),
    "record numbers": ("number", lambda n: str(10_000_003 + 37 * n), None),
    "record numbers as floats": ("number", lambda n: f"{10_000_003 + 37 * n}.0", None),
    "a measurement by its name": ("lung_ml", lambda n: str(2003 + 37 * n), float),
    "a measurement by its fraction": ("density", lambda n: f"{n + 0.5}", float),
    "a category": ("stage", lambda n: f"stage {n % 4}", str),
    "an age in its column": ("patient_age", lambda n: str(40 + n), float),
}


@pytest.mark.parametrize("name, of, kind", OF_PATIENTS.values(), ids=OF_PATIENTS.keys())
def test_what_stands_for_a_patient_with_several_studies_stays_behind(name, of, kind):
    lines = [{name: of(n // SEVERAL)} for n in range(20 * SEVERAL)]
    assert choose_columns(lines, persons(len(lines), SEVERAL)) == (
        ({}, [name]) if kind is None else ({name: kind}, [])
    )


def test_accession_numbers_of_two_series_each_stay_behind():
    # two series an accession, two accessions a patient
    lines = [{"number": str(10_000_003 + 37 * (n // 2))} for n in range(80)]
    assert choose_columns(lines, persons(80, 4)) == ({}, ["number"])


def test_few_patients_cannot_tell_a_number_that_stands_for_them():
    lines = [{"grade": str(n // 2)} for n in range(8)]
    assert choose_columns(lines, persons(8, 2))[0] == {"grade": float}


def test_two_persons_of_a_short_manifest_are_no_categories():
    assert choose_columns([{"reader": "Miller"}, {"reader": "Smith"}], persons(2)) == (
        {},
        ["reader"],
    )


def test_codes_are_carried_however_short_the_manifest():
    assert choose_columns([{"view": "PA"}, {"view": "AP"}], persons(2))[0] == {"view": str}


def test_cells_become_numbers_texts_and_gaps():
    labels = carry(
        {"age": "36", "sex": "F", "note": "x"},
        {"age": float, "sex": str, "view": str, "edema": float},
    )
    assert math.isnan(labels.pop("label_edema"))
    assert labels == {"label_age": 36.0, "label_sex": "F", "label_view": None}


def test_what_the_store_has_and_where_an_image_comes_from_is_carried_for_one_study():
    line = {"source": "TotalSegmentator tests", "finding": "effusion", "remark": "odd thing"}
    assert choose_columns([line], ["p"]) == ({"source": str}, ["finding", "remark"])
    carried = {"finding": {"effusion", "normal"}, "remark": {"another"}}
    found = choose_columns([line], ["p"], carried)
    assert found == ({"source": str, "finding": str}, ["remark"])
    for name in ("Jane Doe", "Quandtmeyer", "J. Doe", "12345678"):
        assert choose_columns([{"source": name}], ["p"]) == ({}, ["source"])
