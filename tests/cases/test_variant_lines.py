"""Lines of tables: separators and encodings that spreadsheets write, ids of views and placeholders,
units and modalities in odd spellings, files and masks on two lines, corrected tables.
"""

from pathlib import Path

import numpy as np
import pytest
from made import chest, manifest, png
from planted import run_here

from mmv_jax.manifests.manifest import Line, read_manifest
from mmv_jax.store.ingest import ingest
from mmv_jax.store.odd_lines import odd_lines
from mmv_jax.store.workers import ENGINES

HEADER = "study_id,path,patient_id,split,modality,sex"
TABLE = f"{HEADER}\ns1,a.png,p1,train,CXR,F\ns2,b.png,p2,val,CXR,M\n"
QUOTED = TABLE.replace("s1,a.png", '"s1", "a.png"').replace(HEADER, HEADER.replace(",", ", "))
FORMS = {
    "sep": b"sep=;\n" + TABLE.replace(",", ";").encode(),
    "sep in UTF-8 with a mark": b"\xef\xbb\xbfsep=,\r\n" + TABLE.encode(),
    "two marks": 2 * b"\xef\xbb\xbf" + TABLE.encode(),
    "a mark that nobody sees": b"\xe2\x80\x8b" + TABLE.encode(),
    "UTF-16, begin": TABLE.encode("utf-16-be"),
    "UTF-16, end": TABLE.encode("utf-16-le"),
    "UTF-32": TABLE.encode("utf-32"),
    "carriage returns": TABLE.replace("\n", "\r").encode(),
    "blanks before quotes": QUOTED.encode(),
    "separators in a name": TABLE.replace("sex", '"s;e;x;;;;;;;;;"').encode(),
    "empty columns behind": TABLE.replace("\n", ",,\n").encode(),
}


@pytest.mark.parametrize("name", FORMS)
def test_tables_as_spreadsheets_write_them_are_read(tmp_path, name):
    path = tmp_path / "m.csv"
    path.write_bytes(FORMS[name])
    lines, refused = read_manifest(path)
    assert not refused
    assert [(line.study_id, line.path.name, line.patient_id) for line in lines] == [
        ("s1", "a.png", "p1"), ("s2", "b.png", "p2"),
    ]  # fmt: skip
    assert [list(line.labels.values()) for line in lines] == [["F"], ["M"]]
    assert lines[0].number == 2 + name.startswith("sep in") + (name == "sep")


def test_cells_under_no_name_are_not_lost(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(
        TABLE.replace("M\n", "M,note\n").replace("sex\n", "sex,\n").replace("F\n", "F,\n")
    )
    lines, _ = read_manifest(path)
    assert [line.labels.get("column_7") for line in lines] == [None, "note"]


@pytest.mark.parametrize(
    "cell, unit",
    [
        ("H.U.", "HU"), ("HU units", "HU"), ("Hounsfield Units", "HU"), ("(HU)", "HU"),
        ("hu+1024", "HU+1024"), ("Shape", "shape"), ("SUV", "SUV"), ("8 bit, windowed",) * 2,
    ],
)  # fmt: skip
def test_units_in_any_spelling(tmp_path, cell, unit):
    (line,), _ = read_manifest(manifest(tmp_path, [{"path": "a.nii", "unit": cell}]))
    assert line.unit == unit


def test_a_shape_in_any_spelling_and_a_modality_that_is_missing(tmp_path):
    rows = [{"path": "a", "modality": "CT-Shape"}, {"path": "b", "modality": "N/A"}]
    lines, refused = read_manifest(manifest(tmp_path, rows))
    assert [line.unit for line in lines] == ["shape"]
    assert [why.code for why in refused] == ["missing_value"]


def lines_of(*changes: dict) -> list[Line]:
    usual = dict(split="train", modality="CT", spacing_mm=None, unit=None, masks={}, labels={})
    return [
        Line(**{"number": n, "study_id": f"s{n}", "patient_id": f"p{n}", "path": Path(f"{n}")}
             | usual | change)
        for n, change in enumerate(changes, 2)
    ]  # fmt: skip


ODD = {
    "a path with a dot": (({"path": Path("x/a")}, {"path": Path("x/./a")}), "file_twice"),
    "the mask of another": (({"masks": {"m": Path("m")}},) * 2, "file_twice"),
    "anonymous": (({"patient_id": "Anonymous"},) * 2, "odd_patients"),
    "zeros": (({"patient_id": "000"}, {"patient_id": "0"}), "odd_patients"),
    "one for all": (({"patient_id": "17"},) * 10, "odd_patients"),
    "sides": (({"patient_id": "17_L"}, {"patient_id": "17_R", "split": "val"}), "odd_patients"),
    "views": (
        ({"patient_id": "P1_LEFT_MLO"}, {"patient_id": "P1_LEFT_CC", "split": "test"}),
        "odd_patients",
    ),
    "without a view": (({"patient_id": "A-1"}, {"patient_id": "A-1-pa", "split": "val"}),
                       "odd_patients"),
    "unit": (({"unit": "HU-1024"},), "odd_column"),
    "modality": (({"modality": "CT"}, {"modality": "ct"}), "odd_column"),
    "accents": (({"labels": {"sex": "MÃ¤dchen"}},), "odd_column"),
}  # fmt: skip
CLEAN = {
    "patients": ({}, {}, {"split": "val"}),
    "a patient of several studies": ({"patient_id": "17"},) * 4 + ({},),
    "sides in one split": ({"patient_id": "17_L"}, {"patient_id": "17_R"}),
    "letters": ({"patient_id": "A-1"}, {"patient_id": "A-2", "split": "val"}),
    "two images of one patient": ({"patient_id": "1", "masks": {"m": Path("m")}},) * 2,
    "units": ({"unit": "HU"}, {"unit": "HU+1024"}, {"unit": "raw"}, {"unit": "8 bit, windowed"}),
}


@pytest.mark.parametrize("name", ODD)
def test_lines_that_are_probably_meant_otherwise_are_told(name):
    changes, code = ODD[name]
    found = list(odd_lines(lines_of(*({"path": Path(f"{n}")} | c for n, c in enumerate(changes)))))
    assert [code for _, code, _ in found] == [code]
    assert not any("MÃ" in sentence or "17" in sentence for _, _, sentence in found)


@pytest.mark.parametrize("name", CLEAN)
def test_lines_that_mean_what_they_say_are_not_told(name):
    assert list(odd_lines(lines_of(*CLEAN[name]))) == []


def test_a_label_that_a_corrected_table_no_longer_has_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES, "local", run_here)
    rows = []
    for n in range(4):
        png(tmp_path / f"{n}.png", (chest() // 16 + n).astype(np.uint8))
        rows.append({"path": f"{n}.png", "finding": n % 2, "sex": "FM"[n % 2]})
    path = manifest(tmp_path, rows)
    assert ingest([path], tmp_path / "store").told == {}
    manifest(tmp_path, [{"path": row["path"], "sex": row["sex"]} for row in rows])
    assert ingest([path], tmp_path / "store").told == {"differs_from_store": 4}
    manifest(tmp_path, rows)
    assert ingest([path], tmp_path / "store").told == {}
