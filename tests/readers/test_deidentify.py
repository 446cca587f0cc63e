"""No text crosses: every attribute of the standard's own table, nested, private, overlay, preamble
and names filled with sentinels.
"""

import pickle
import stat
import subprocess
import sys

import numpy as np
import pytest
from dicom_files import ct_slice, radiograph, save, stored_volume
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from mmv_jax.errors import UserError
from mmv_jax.readers.deidentify import CODED, NUMBERS, Key, allowed_numbers
from mmv_jax.readers.image import placement
from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.readers.refused import Refused

TEXT = {"LO", "SH", "PN", "LT", "ST", "UT", "UC", "UR", "CS", "AE"}
FILLED = {  # a value for each kind of attribute; n makes it unique
    **dict.fromkeys(TEXT, lambda n: f"SENTINEL{n}"),
    "UI": lambda n: f"1.2.999.{n}",
    "DA": lambda n: f"19{n % 100:02}0101",
    "TM": lambda n: f"0102{n % 60:02}.98765",
    "DT": lambda n: f"19010101{n % 10:02}0102.98765",
    "AS": lambda n: f"{n % 100:03}Y",
    "DS": lambda n: f"98765{n}",
    "IS": lambda n: f"98765{n}",
    "US": lambda n: 60_000 + n,
    "FL": lambda n: 98765.0 + n,
    "FD": lambda n: 98765.0 + n,
    "OB": lambda n: f"SENTINEL{n}".encode().ljust(16),
    "OW": lambda n: f"SENTINEL{n}".encode().ljust(16),
    "UN": lambda n: f"SENTINEL{n}".encode().ljust(16),
}


def attributes_of_the_standard() -> list[int]:
    """Tags of PS3.15 table E.1-1, edition 2026c, as dicom-anonymizer holds it; groups with x (50xx,
    60xx) once each.
    """
    table = pytest.importorskip("dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c")
    return [
        Tag(*tag[:2])
        for name in dir(table)
        if name.endswith("_TAGS")
        for tag in getattr(table, name)
        if len(tag) in (2, 4)
    ]


def fill(dataset: Dataset, tags) -> int:
    """Puts a sentinel into every attribute of `tags` that is not there yet; returns how many."""
    count = 0
    for tag in tags:
        try:
            kind = dictionary_VR(tag).split(" or ")[0]
        except KeyError:
            continue
        if tag in dataset or tag.group in (0x0000, 0x0002, 0x0028, 0x7FE0):
            continue
        if kind == "SQ":
            inner = Dataset()
            inner.PatientName, inner.PatientID, inner.TextValue = (
                "SENTINEL^NESTED",
                "SENTINELNESTED",
                "SENTINEL",
            )
            dataset.add_new(tag, kind, Sequence([inner]))
        elif kind in FILLED:
            dataset.add_new(tag, kind, FILLED[kind](count))
        else:
            continue
        count += 1
    return count


def haunted(dataset: Dataset) -> Dataset:
    """`dataset` with sentinels wherever text can be."""
    assert fill(dataset, attributes_of_the_standard()) > 500
    block = dataset.private_block(0x0099, "SENTINEL CREATOR", create=True)
    block.add_new(1, "LO", "SENTINEL PRIVATE")
    dataset.add_new(0x60000022, "LO", "SENTINEL OVERLAY")
    dataset.file_meta.SourceApplicationEntityTitle = "SENTINEL"
    dataset.preamble = b"SENTINEL".ljust(128)
    return dataset


def traces(text: str) -> list[str]:
    return [word for word in ("SENT", "sent", "98765", "1.2.999") if word in text]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ct_slice(stored_volume(1)[0], 0),
        lambda: radiograph(stored_volume(1)[0].astype(np.uint16)),
    ],
    ids=["CT", "DX"],
)
def test_nothing_of_the_header_crosses_but_numbers_of_the_list(tmp_path, make, capfd, caplog):
    study = read_study(save(haunted(make()), tmp_path / "SENTINEL.dcm"))
    known = {name for name, *_ in (*NUMBERS.values(), *CODED.values())} | {"magnification_view"}
    assert set(study.attributes) <= known
    assert all(type(value) is float for value in study.attributes.values())
    assert not traces(repr(study.attributes) + repr(study.spacing_mm) + study.unit)
    assert not any(
        trace.encode() in pickle.dumps(study) for trace in ("SENTINEL", "98765", "1.2.999")
    )
    assert not traces("".join(capfd.readouterr()) + caplog.text)


def test_a_volume_says_only_where_it_lies(tmp_path):
    for k, plane in enumerate(stored_volume()):
        save(haunted(ct_slice(plane, k)), tmp_path / f"SENTINEL{k}.dcm")
    study = read_study(tmp_path)
    assert not traces(repr(study.attributes))
    assert study.attributes["kvp"] == 120


BROKEN = {
    "truncated": lambda data: data[: len(data) // 2],
    "no pixels": lambda data: data.replace(b"\xe0\x7f\x10\x00", b"\xe1\x7f\x10\x00"),
    "a word for a number": lambda data: data.replace(
        b"\x28\x00\x53\x10DS\x04\x001.0 ", b"\x28\x00\x53\x10DS\x04\x00SENT"
    ),
    "another syntax": lambda data: data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0"),
    "broken in the middle": lambda data: data[:2000] + b"SENTINEL" * 20 + data[2000:],
    "no magic": lambda data: b"SENTINEL" * 20 + data,
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_no_error_quotes_a_tag_or_a_path(tmp_path, change, capfd, caplog):
    path = save(haunted(ct_slice(stored_volume(1)[0], 0)), tmp_path / "SENTINEL.dcm")
    whole = path.read_bytes()
    assert change(whole) != whole
    path.write_bytes(change(whole))
    try:
        said = repr(read_study(path).attributes)
    except Refused as why:
        said = f"{why} {why!r} {why.__cause__} {why.__suppress_context__ or why.__context__}"
    assert not traces(said + "".join(capfd.readouterr()) + caplog.text)


def test_what_pydicom_warns_and_logs_does_not_leave_the_reader(tmp_path, capfd, caplog):
    for k, plane in enumerate(stored_volume()):
        path = save(ct_slice(plane, k, SeriesInstanceUID="1.2.3456789"), tmp_path / f"{k}")
        # no UID: pydicom says so, and quotes it
        path.write_bytes(path.read_bytes().replace(b"1.2.3456789", b"SENTINEL-ID"))
    assert read_study(tmp_path).unit == "HU"
    assert not traces("".join(capfd.readouterr()) + caplog.text)


def test_no_error_of_a_missing_or_wrong_file_quotes_its_path(tmp_path):
    study = read_study(save(ct_slice(stored_volume(1)[0], 0), tmp_path / "x"))
    (tmp_path / "SENTINEL.png").write_text("SENTINEL")
    for read in (
        lambda name: read_study(tmp_path / name),
        lambda name: read_mask(tmp_path / name, like=study),
    ):
        for name in ("SENTINEL", "SENTINEL.png"):
            with pytest.raises(Refused) as why:
                read(name)
            assert not traces(str(why.value) + repr(why.value))


def test_a_number_in_the_wrong_field_does_not_cross():
    dataset = Dataset()
    dataset.KVP, dataset.ExposureTime, dataset.SliceThickness = "19500714", "-1", "1.25"
    dataset.ViewPosition, dataset.ImageLaterality = "SENTINEL", "L"
    assert dict(allowed_numbers(dataset)) == {"slice_thickness_mm": 1.25, "laterality": 2.0}


def test_the_view_of_a_mammogram_is_a_number():
    def code(value: str) -> Dataset:
        item = Dataset()
        item.CodeValue = value
        return item

    view = code("399368009")
    view.ViewModifierCodeSequence = [code("399163009")]
    dataset = Dataset()
    dataset.ViewCodeSequence, dataset.ImageLaterality, dataset.BreastImplantPresent = (
        [view],
        "R",
        "NO",
    )
    expected = {"view": 12.0, "magnification_view": 1.0, "laterality": 1.0, "breast_implant": 0.0}
    assert dict(allowed_numbers(dataset)) == expected


def test_the_codes_of_views_are_the_standards():
    from pydicom.sr.codedict import codes

    from mmv_jax.readers.deidentify import VIEW_CODES

    views = {
        "CC": codes.cid4014.CranioCaudal,
        "MLO": codes.cid4014.MedioLateralObliqueProjection,
        "ML": codes.cid4014.MedioLateralProjection,
        "LM": codes.cid4014.LateroMedial,
        "XCCL": codes.cid4014.CranioCaudalExaggeratedLaterally,
        "XCCM": codes.cid4014.CranioCaudalExaggeratedMedially,
    }
    assert {VIEW_CODES[code.value] for code in views.values()} == set(views)
    assert all(VIEW_CODES[code.value] == word for word, code in views.items())


def test_a_key_is_private_and_never_written_over(tmp_path):
    key = Key.create(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert Key.load(tmp_path / "key") == key
    with pytest.raises(UserError, match="never written over"):
        Key.create(tmp_path / "key")
    for content in ("", "zz" * 32, "ab" * 31):
        (tmp_path / "bad").write_text(content)
        with pytest.raises(UserError, match="64 hex digits"):
            Key.load(tmp_path / "bad")
    with pytest.raises(UserError, match="cannot be read"):
        Key.load(tmp_path / "nowhere")


def test_a_pseudonym_is_the_same_in_every_process_and_differs_with_key_and_kind(tmp_path):
    key, other = Key.create(tmp_path / "key"), Key.create(tmp_path / "other")
    script = (
        "from mmv_jax.readers.deidentify import Key;"
        f" print(Key.load({str(tmp_path / 'key')!r}).hash('patient', 'Müller'))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert elsewhere == key.hash("patient", "Müller")
    assert (
        len(
            {
                elsewhere,
                key.hash("study", "Müller"),
                other.hash("patient", "Müller"),
                key.fingerprint,
                other.fingerprint,
            }
        )
        == 5
    )
    assert all(len(word) == 16 and int(word, 16) >= 0 for word in (elsewhere, key.fingerprint))


def test_placement_is_numbers(tmp_path):
    from mmv_jax.readers.orient import orientation_of

    numbers = placement(orientation_of((3, 4, 5), np.diag([1.0, 1, 1, 1])[:, [2, 1, 0, 3]]))
    assert set(numbers) == {f"{end}_{axis}_mm" for end in ("first", "last") for axis in "zyx"} | {
        "obliquity_deg"
    }
