"""Labels that contradict their file's header, and spellings that differ between manifests."""

import json

import numpy as np
import pytest
from dicom_files import radiograph, save
from made import chest, manifest, png
from planted import run_here

from mmv_jax.store.ingest import ingest
from mmv_jax.store.workers import ENGINES

HEADER = {"PatientSex": "F", "PatientAge": "047Y", "ViewPosition": "PA", "Modality": "DX"}
HEADER |= {"Laterality": "L", "BodyPartExamined": "CHEST"}
RIGHT = {"sex": "female", "age": "48", "view": "pa", "side": "left", "body_part": "thorax"}


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setitem(ENGINES, "local", run_here)


def told(tmp_path, rows: list[dict], header: dict) -> dict[int, list[str]]:
    """The columns that are told to differ from the header, by line."""
    for n in range(len(rows)):
        pixels = (chest() + n).astype(np.uint16)
        save(radiograph(pixels, **header), tmp_path / f"{n}.dcm")
    rows = [{"path": f"{n}.dcm", "modality": "CXR", **row} for n, row in enumerate(rows)]
    ingest([manifest(tmp_path, rows)], tmp_path / "store")
    found: dict[int, list[str]] = {}
    text = (tmp_path / "store" / "warnings.jsonl").read_text()
    for entry in map(json.loads, text.splitlines()):
        if entry["code"] == "label_differs":
            found.setdefault(entry["line"], []).append(entry["reason"].split(" and ")[0])
            assert not {"F", "female", "47", "PA", "CHEST"} & set(entry["reason"].split())
    return found


def test_labels_that_contradict_the_header_are_told(tmp_path):
    wrong = {"sex": "M", "age": "61", "view": "AP", "side": "R", "body_part": "knee"}
    rows = [RIGHT, RIGHT, *({**RIGHT, name: cell} for name, cell in wrong.items())]
    rows.append({**RIGHT, "modality": "CT"})
    found = told(tmp_path, rows, HEADER)
    assert found == {n: [name] for n, name in enumerate(wrong, 4)} | {9: ["modality"]}


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"PatientSex": "O", "PatientAge": "000Y", "ViewPosition": "OBLIQUE", "Modality": "OT"},
        {"PatientSex": "", "PatientAge": "", "ViewPosition": "", "BodyPartExamined": "CHESTABD"},
    ],
)
def test_headers_that_say_nothing_are_no_contradiction(tmp_path, header):
    empty = dict.fromkeys(("PatientSex", "PatientAge", "ViewPosition", "Laterality"), "")
    rows = [RIGHT, {**RIGHT, "sex": "1", "age": "90", "view": "frontal"}]
    assert told(tmp_path, rows, {**empty, **header}) == {}


def told_of_two(tmp_path, first: dict, second: dict) -> list[str]:
    """What the second manifest of a store is told about columns."""
    paths = []
    for m, columns in enumerate((first, second)):
        rows = []
        for n in range(4):
            png(tmp_path / f"{m}{n}.png", (chest() // 16 + 4 * m + n).astype(np.uint8))
            own = {name: cells[n % len(cells)] for name, cells in columns.items()}
            ids = {"study_id": f"s{m}{n}", "patient_id": f"p{m}{n}"}
            rows.append({"path": f"{m}{n}.png", "modality": "CXR", **ids, **own})
        paths.append(manifest(tmp_path, rows, f"{m}.csv"))
    ingest(paths[:1], tmp_path / "store")
    ingest(paths[1:], tmp_path / "store")
    lines = (tmp_path / "store" / "warnings.jsonl").read_text().splitlines()
    return [e["reason"] for e in map(json.loads, lines) if (e["manifest"], e["line"]) == (2, 1)]


@pytest.mark.parametrize(
    "one, other",
    [
        ("Effusion", "effusion"),
        ("pleural_effusion", "Pleural Effusion"),
        ("effusion_pleural", "pleural effusion"),
        ("pneumothorax", "pneumothroax"),
    ],
)
def test_a_column_that_two_manifests_spell_differently_is_told(tmp_path, one, other):
    found = told_of_two(tmp_path, {one: ["0", "1"]}, {other: ["0", "1"]})
    assert len(found) == 1 and found[0].startswith(f"{other} is a column of its own")


@pytest.mark.parametrize(
    "one, other",
    [
        (["female", "male"], ["F", "M"]),
        (["PA", "AP"], ["pa", "ap"]),
        (["ground glass", "solid"], ["ground-glass", "solid"]),
    ],
)
def test_a_class_that_two_manifests_spell_differently_is_told(tmp_path, one, other):
    found = told_of_two(tmp_path, {"kind": one}, {"kind": other})
    assert (
        len(found) == 1 and "classes that other manifests of the store spell otherwise" in found[0]
    )


def test_other_columns_and_classes_of_two_manifests_are_not_told(tmp_path):
    first = {"effusion": ["0", "1"], "kind": ["PA", "AP"], "nodule": ["1", "0"]}
    second = {"effusion": ["0", "1"], "kind": ["PA", "LL"], "nodules_mm": ["3", "4"]}
    assert told_of_two(tmp_path, first, second) == []
