"""The manifest: lines that can be read, lines that cannot and why, and files that are no manifest
at all.
"""

import pytest

from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import LineRefused, read_manifest

HEADER = "study_id,path,patient_id,split,modality,spacing_mm,unit,anatomy_mask,sex,nodule\n"


@pytest.fixture
def manifest(tmp_path):
    def write(text: str, name: str = "m.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_a_line_is_a_study(manifest, tmp_path):
    lines, refused = read_manifest(
        manifest(
            HEADER
            + "a,x/a.png,p1,train,CXR,0.5,,x/a_m.png,F,1\n"
            + "b,/far/b.nii,p2,val,CT,,HU,,,\n"
        )
    )
    assert refused == []
    first, second = lines
    assert (first.number, first.study_id, first.patient_id, first.split, first.modality) == (
        2,
        "a",
        "p1",
        "train",
        "CXR",
    )
    assert (first.path, first.masks, first.labels) == (
        tmp_path / "x/a.png",
        {"anatomy": tmp_path / "x/a_m.png"},
        {"sex": "F", "nodule": "1"},
    )
    assert (first.spacing_mm, first.unit) == (0.5, None)
    assert (second.number, str(second.path), second.masks, second.labels) == (
        3,
        "/far/b.nii",
        {},
        {},
    )
    assert (second.spacing_mm, second.unit) == (None, "HU")


def test_a_modality_that_ends_in_shape_has_that_unit(manifest):
    text = "study_id,path,patient_id,split,modality\na,a.nii,p,train,CT-shape\n"
    assert read_manifest(manifest(text)).lines[0].unit == "shape"


BAD_LINES = {
    "missing_value": ",a.png,p,train,CXR,,,,,",
    "bad_split": "a,a.png,p,validation,CXR,,,,,",
    "bad_spacing": "a,a.png,p,train,CXR,wide,,,,",
    "bad_line": "a,a.png,p,train,CXR",
}


@pytest.mark.parametrize("code, line", BAD_LINES.items())
def test_a_bad_line_is_refused_and_stops_nothing(manifest, code, line):
    lines, refused = read_manifest(manifest(HEADER + line + "\n" + "b,b.png,q,val,CXR,,,,,\n"))
    assert [line.study_id for line in lines] == ["b"]
    assert [(why.number, why.code) for why in refused] == [(2, code)]


@pytest.mark.parametrize("spacing", ["0", "-1", "nan", "inf"])
def test_a_spacing_that_is_no_length_is_refused(manifest, spacing):
    assert (
        read_manifest(manifest(HEADER + f"a,a.png,p,train,CXR,{spacing},,,,\n")).refused[0].code
        == "bad_spacing"
    )


def test_a_repeated_study_is_refused_where_it_is_repeated(manifest):
    lines, refused = read_manifest(manifest(HEADER + "a,a.png,p,train,CXR,,,,,\n" * 2))
    assert len(lines) == 1
    assert refused == [LineRefused(3, "duplicate_study", "the study_id stands in line 2 already")]


def test_a_patient_in_two_splits_loses_every_line_and_the_lines_are_named(manifest):
    body = (
        "a,a.png,SENTINEL,train,CXR,,,,,\nb,b.png,q,test,CXR,,,,,\nc,c.png,SENTINEL,test,CXR,,,,,\n"
    )
    lines, refused = read_manifest(manifest(HEADER + body))
    assert [line.study_id for line in lines] == ["b"]
    assert [why.number for why in refused] == [2, 4]
    assert all(
        why.code == "patient_across_splits" and "line 2" in why.reason and "line 4" in why.reason
        for why in refused
    )
    assert "SENTINEL" not in repr(refused)


def test_lines_are_counted_as_an_editor_counts_them(manifest):
    text = HEADER + '\na,a.png,p,train,CXR,,,,"two\nlines",\nb,b.png,q,up,CXR,,,,,\n'
    lines, refused = read_manifest(manifest(text))
    assert lines[0].number == 3  # line 2 is empty
    assert refused[0].number == 5


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no column study_id"),
        ("study_id,path,patient_id,split\n", "no column modality"),
        (HEADER.strip() + ",sex\n", "one name"),
        (HEADER + 'a,"unclosed', "not a CSV"),
    ],
)
def test_what_is_no_manifest_is_one_clear_error(manifest, text, words):
    with pytest.raises(UserError, match=words):
        read_manifest(manifest(text))


def test_a_file_that_is_not_text_or_not_there_is_one_clear_error(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00PK\x03")
    for name in ("m.csv", "nowhere.csv"):
        with pytest.raises(UserError, match="manifest"):
            read_manifest(tmp_path / name)


def test_the_real_manifests(real_data):
    counts = {
        "cxr": 1000,
        "cxr_seg": 100,
        "ct": 8,
        "lidc": 772,
        "adrenalmnist3d": 1584,
        "pneumoniamnist": 5856,
    }
    for name, count in counts.items():
        lines, refused = read_manifest(real_data / f"{name}.csv")
        assert (len(lines), refused) == (count, [])
        assert all(line.path.exists() for line in lines[::100])
