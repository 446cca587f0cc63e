"""Ids of one patient with other separators, of visits and of DICOM; cells of formulas, ages in
months, years of birth, hospitals; options that mean nothing.
"""

from pathlib import Path

import pytest
from made import manifest, png
from planted import run_here
from test_variant_tables import told

from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import Line, read_manifest
from mmv_jax.manifests.spelling import one_spelling, spellings
from mmv_jax.store.ingest import ingest
from mmv_jax.store.labels import carry, choose_columns
from mmv_jax.store.odd_columns import odd_columns
from mmv_jax.store.odd_lines import odd_lines
from mmv_jax.store.third_values import third_values
from mmv_jax.store.workers import ENGINES


@pytest.mark.parametrize(
    "one, other",
    [
        ("PAT-00123", "PAT_00123"), ("PAT-00123", "pat 123"), ("PAT-7", "PAT7"), ("p.7", "P7"),
        ("12-34", "12_34"), ("2019/007", "2019-007"),
    ],
)  # fmt: skip
def test_a_patient_with_another_separator_is_one(one, other):
    assert one_spelling(one) == one_spelling(other)
    assert one in spellings(other) or other in spellings(one)


@pytest.mark.parametrize("one, other", [("1-23", "12-3"), ("1-1", "11"), ("a-1-2", "a-12")])
def test_numbers_beside_a_separator_stay_two(one, other):
    assert one_spelling(one) != one_spelling(other)
    assert one not in spellings(other) and other not in spellings(one)


def line(n: int, **changes) -> Line:
    about = dict(number=n + 2, study_id=f"s{n}", path=Path(f"{n}"), patient_id=f"p{n}")
    rest = dict(split="train", modality="CXR", spacing_mm=None, unit=None, masks={}, labels={})
    return Line(**{**about, **rest, **changes})


def lines_of(ids: list[str], splits: str) -> list[Line]:
    names = {"t": "train", "v": "val", "e": "test"}
    return [
        line(n, patient_id=patient, split=names[split])
        for n, (patient, split) in enumerate(zip(ids, splits))
    ]


@pytest.mark.parametrize(
    "ids, splits, count",
    [
        (["p1_V1", "p1_V2"], "te", 1), (["p1-visit1", "p1-visit2"], "te", 1),
        (["p1_ses-01", "p1_ses-02"], "te", 1), (["p1_baseline", "p1_fu1"], "te", 1),
        (["p1_t0", "p1_t1"], "tv", 1), (["p1", "p1_scan2"], "te", 1),
        (["p1_V1", "p1_V2"], "tt", 0), (["p1_V1", "p2_V1"], "te", 0), (["a_1", "a_2"], "te", 0),
    ],
)  # fmt: skip
def test_visits_of_one_patient_in_two_splits_are_told(ids, splits, count):
    assert [code for _, code, _ in odd_lines(lines_of(ids, splits))] == ["odd_patients"] * count


def test_uids_for_patients_are_told():
    uids = [f"1.2.840.113619.{n}" for n in range(12)]
    assert [code for _, code, _ in odd_lines(lines_of(uids, "t" * 12))] == ["odd_patients"]
    versions = [f"1.2.{n}" for n in range(12)]
    assert not list(odd_lines(lines_of(versions, "t" * 12)))


def test_cells_that_keep_a_text_from_being_a_number_are_read(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(
        "study_id,path,patient_id,split,modality,grade,sum\n"
        's1,a.png,p1,train,CXR,="1",=F2+1\ns2,b.png,p2,train,CXR,="0",=F3+1\n'
    )
    lines, _ = read_manifest(path)
    assert [line.labels["grade"] for line in lines] == ["1", "0"]
    odd = [(code, what) for _, code, what in odd_columns(lines, {"grade": float, "sum": str})]
    assert [code for code, what in odd if "formulas" in what] == ["odd_column"]


@pytest.mark.parametrize(
    "cell, years",
    [("18 months", 1.5), ("6 weeks", 0.11), ("3 days", 0.0082), ("18 Monate", 1.5), ("45", 45.0)],
)
def test_ages_below_two_years_are_years(cell, years):
    cells = [{"age": cell}, {"age": "45"}]
    columns, _ = choose_columns(cells, ["p1", "p2"])
    assert carry(cells[0], columns)["label_age"] == years


@pytest.mark.parametrize(
    "cells, count",
    [
        (("present", "absent", "unsure"), 1), (("ja", "nein", "vielleicht"), 1),
        (("benign", "malignant", "borderline"), 1), (("present", "absent"), 0),
    ],
)  # fmt: skip
def test_a_third_value_beside_words_of_two_classes_is_told(cells, count):
    lines = [line(n, labels={"finding": cell}) for n, cell in enumerate(cells * 5)]
    assert len(list(third_values(lines, ["finding"]))) == count


@pytest.mark.parametrize(
    "cells, kind, count",
    [
        (("1931", "1950", "1961", "1944", "1972"), float, 1),
        (("2011", "2012", "2013", "2014", "2015"), float, 0),
        (("Mayo Clinic", "Klinikum Bonn", "University of Ghent"), str, 1),
        (("outpatient clinic", "ward", "emergency"), str, 0),
    ],
)
def test_years_of_birth_and_hospitals_are_told(cells, kind, count):
    assert told("x1", list(cells * 4), kind) == [(2, "may_name_someone")] * count


@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"max_refused": 1.5}]
)
def test_options_that_mean_nothing_are_refused(tmp_path, monkeypatch, options):
    monkeypatch.setitem(ENGINES, "local", run_here)
    png(tmp_path / "a.png")
    path = manifest(tmp_path, [{"path": "a.png", "modality": "CXR"}])
    with pytest.raises(UserError, match="--"):
        ingest([path], tmp_path / "store", **options)
