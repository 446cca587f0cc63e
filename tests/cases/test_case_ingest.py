"""Plausible and wrong, through the whole ingest: leaks, corrections, columns, writing, time, shares
of refused lines. One ingest serves most tests.
"""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from dicom_files import ct_slice, radiograph, save
from made import body, chest, hounsfield, manifest, nifti, png, ramp, written_on
from PIL import Image
from test_deidentify import haunted

from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import Line
from mmv_jax.phantom.write import write_phantoms
from mmv_jax.readers.read import read_study
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.writing import without_writing
from mmv_jax.store.difference_hash import difference_hash
from mmv_jax.store.ingest import ingest
from mmv_jax.store.labels import carry, choose_columns
from mmv_jax.store.leaks import NEAR
from mmv_jax.store.read import Store
from mmv_jax.store.third_values import third_values
from mmv_jax.store.workers import BYTES_A_SECOND


def entries(store: Path, name: str) -> list[tuple[int, str]]:
    path = store / name
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted((entry["line"], entry["code"]) for entry in map(json.loads, lines))


def smooth(seed: int, side: int = 96) -> np.ndarray:
    """A picture `[y, x]` with structure at every scale, as anatomy has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def corrected(tmp_path_factory) -> tuple[Path, str, str]:
    """A store that was made of a manifest and then of the corrected one; both reports."""
    folder = tmp_path_factory.mktemp("corrected")
    png(folder / "a.png", ramp())
    png(folder / "mask.png", (ramp() > 90).astype(np.uint8))
    nifti(folder / "b.nii.gz", hounsfield())
    png(folder / "same.png", smooth(0))
    Image.fromarray(smooth(0)).resize((80, 80)).save(folder / "near.jpg", quality=70)
    png(folder / "other.png", smooth(1))
    common = [
        {"path": "same.png", "modality": "CXR", "split": "train", "finding": 0},
        {"path": "same.png", "modality": "CXR", "split": "test", "finding": 9},
        {"path": "near.jpg", "modality": "CXR", "split": "val", "finding": ""},
        {"path": "other.png", "modality": "CXR", "split": "test", "finding": "NA"},
    ]
    first = [{"path": "a.png", "modality": "CXR", "finding": 0}, {"path": "b.nii.gz", "finding": 1}]
    then = [
        {"path": "a.png", "modality": "CXR", "finding": 1, "spacing_mm": 0.7,
         "organ_mask": "mask.png"},
        {"path": "b.nii.gz", "finding": 1, "unit": "HU"},
    ]  # fmt: skip
    store, reports = folder / "store", []
    for rows in (first, then):
        path = manifest(folder, rows + common)
        reports.append(str(ingest([path], store, workers=1, timeout_s=60.0)))
    return store, *reports


def test_corrected_manifest(corrected):
    store, _, second = corrected
    told = entries(store, "warnings.jsonl")
    assert [line for line, code in told if code == "differs_from_store"] == [2, 3]
    assert "2 differs_from_store" in second
    reasons = (store / "warnings.jsonl").read_text()
    assert all(word in reasons for word in ("finding", "masks", "spacing_mm", "unit"))


def test_same_file_two_splits(corrected):
    store, first, _ = corrected
    found = entries(store, "warnings.jsonl")
    assert [n for n, code in found if code == "image_across_splits"] == [4, 5]
    assert [n for n, code in found if code == "near_duplicate_across_splits"] == [6]
    assert "2 image_across_splits" in first


def test_third_value_is_told_once(corrected):
    store, first, _ = corrected
    assert (5, "third_value") in entries(store, "warnings.jsonl")
    assert "1 third_value" in first


def test_the_hash_tells_copies_from_others():
    def bits(picture) -> np.ndarray:
        return np.unpackbits(np.frombuffer(difference_hash(np.asarray(picture)[None]), np.uint8))

    pictures = [smooth(seed, 256) for seed in range(12)]
    for n, one in enumerate(pictures):
        half = Image.fromarray(one).resize((160, 160))
        for copy in (half, one * 3.0 + 100, np.roll(one, 2, 0)):
            assert np.count_nonzero(bits(copy) != bits(one)) <= NEAR
        assert all(np.count_nonzero(bits(p) != bits(one)) > 2 * NEAR for p in pictures[:n])
    assert difference_hash(np.zeros((1, 40, 40), np.int16)) == b""  # too small to be told


def lines_of(column: str, values: list[str]) -> list[Line]:
    about = dict(path=Path("a"), split="train", modality="CT", spacing_mm=None)
    about |= dict(unit=None, masks={})
    return [
        Line(number=n, study_id=f"{n}", patient_id=f"{n}", labels={column: v} if v else {}, **about)
        for n, v in enumerate(values, 2)
    ]


@pytest.mark.parametrize(
    "values, line",
    [
        (["0", "1", "-1", "1"], 4), (["0", "1", "2"], 4), (["yes", "no", "maybe"], 4),
        (["1.0", "0.0", "9", "99"], 4), (["0", "1", "", "NA"], None), (["0", "1"], None),
        (["0", "1", "2", "3", "4"], None), (["30", "41"], None),
    ],
)  # fmt: skip
def test_third_values(values, line):
    found = list(third_values(lines_of("f", values), ["f"]))
    assert [number for number, _ in found] == ([] if line is None else [line])


@pytest.mark.parametrize("word", ["NA", "N/A", "nan", "unknown", ".", "#N/A", "-"])
def test_words_for_not_known_are_no_class(word):
    cells = [{"finding": value} for value in ("0", "1", word, "", "1")]
    carried, left = choose_columns(cells, [f"p{n}" for n in range(5)])
    assert (carried, left) == ({"finding": float}, [])
    values = [carry(cell, carried)["label_finding"] for cell in cells]
    np.testing.assert_array_equal(values, [0, 1, np.nan, np.nan, 1])


# ---- how many may be refused, and how long a file may take


@pytest.mark.parametrize(
    "good, bad, share, ok",
    [(1, 9, 0.5, False), (1, 9, 0.95, True), (0, 3, 1.0, False), (2, 1, 0.5, True)],
)
def test_nearly_all_refused(good, bad, share, ok):
    from mmv_jax.store.report import Report

    report = Report(lines=good + bad, ingested=good, max_refused=share)
    report.refused["not_found"] = bad
    assert report.ok is ok
    assert ("--max-refused" in str(report)) is (bad > share * (good + bad))


def test_a_large_file_may_take_longer():
    from mmv_jax.store.task import IngestTask, Job
    from mmv_jax.store.workers import _Worker

    job = Job((1, 2), "a", None, None, masks={}, known={}, secrets=(), size=60 * BYTES_A_SECOND)
    worker = _Worker.__new__(_Worker)
    worker.task, worker.reading = IngestTask("s", (job,), print), (1, 2)
    worker.since = time.monotonic() - 30
    assert not worker.is_late(5.0)
    worker.since -= 36
    assert worker.is_late(5.0)


# ---- writing in the pixels


def captured(path: Path, **tags) -> Path:
    kind = "1.2.840.10008.5.1.4.1.1.7"
    return save(radiograph(chest(), **({"SOPClassUID": kind, "Modality": "OT"} | tags)), path)


def test_burned_in(tmp_path):
    flagged = captured(tmp_path / "a", Modality="DX", SOPClassUID="1.2", BurnedInAnnotation="YES")
    paths = [flagged, captured(tmp_path / "b"), captured(tmp_path / "c", Modality="US")]
    for path in paths:
        for how in (None, "warn", "mask"):
            assert [code for code, _ in read_study(path, burnt_in=how).told] == ["burnt_in"]
        with pytest.raises(Refused, match="burnt_in"):
            read_study(path, burnt_in="refuse")
    plain = captured(tmp_path / "d", Modality="DX", SOPClassUID="1.2", BurnedInAnnotation="NO")
    assert read_study(plain, burnt_in="refuse").told == ()


@pytest.mark.parametrize("colour", [(255, 40, 40), (250, 250, 0), (90, 200, 255)])
@pytest.mark.parametrize("side, size", [(1024, 30), (400, 12)])
def test_red_text(tmp_path, colour, side, size):
    grey = (np.mgrid[:side, :side][0] * 60 // side).astype(np.uint8) + 20
    path = png(tmp_path / "a.png", written_on(grey, "NAME 1900", colour, size))
    for how in (None, "refuse"):
        with pytest.raises(Refused, match="colour"):
            read_study(path, burnt_in=how)
    taken, masked = (read_study(path, burnt_in=how).voxels[0] for how in ("warn", "mask"))
    assert np.abs(taken - grey.astype(int)).max() > 20
    # the darkest colour is 40 levels from what is around it, and its fringes are in no colour
    assert np.abs(masked - grey.astype(int)).max() < 15


def test_white_writing_is_blanked_and_the_rest_stays():
    grey = smooth(3, 400) // 2
    text = np.asarray(Image.fromarray(written_on(grey, "NAME^SAMPLE", (255,) * 3, 16)).convert("L"))
    masked = without_writing(text)
    letters = np.abs(text.astype(int) - grey) > 60
    assert np.abs(masked.astype(int) - grey)[letters].max() < 60
    assert np.mean(masked != text) < 0.1


def test_a_colour_picture_is_refused_whatever_is_said(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for how in (None, "refuse", "warn", "mask"):
        with pytest.raises(Refused, match="colour"):
            read_study(png(tmp_path / "a.png", picture), burnt_in=how)
    with pytest.raises(UserError, match="burnt_in"):
        ingest([tmp_path / "m.csv"], tmp_path / "store", burnt_in="no")


# ---- columns that identify


IDENTIFYING = {
    "kis": lambda i: f"{410_000 + i * 37}",
    "acquired": lambda i: f"{43_000 + i % 9}",  # the day numbers of Excel
    "plz": lambda i: f"{80_331 + i % 3}",
    "aufnahme": lambda i: f"{12 + i % 2}-03-2019",
    "when": lambda i: ("3 Mar 2019", "4 Mar 2019")[i % 2],
    "day": lambda i: ("20190312", "20190313")[i % 2],
    "stamp": lambda i: ("2019-03-12T10:11:12", "12/03/19 10:11")[i % 2],
    "befunder": lambda i: ("Dr. Sample", "Dr. Example")[i % 2],
    "seen_by": lambda i: ("Sample, A.", "Example, B.")[i % 2],
    "mobil": lambda i: f"0{15_100_000 + i % 7}",
    "call": lambda i: f"0{15_100_000 + i % 7}",
    "email": lambda i: ("a@b.org", "c@d.org")[i % 2],
}


@pytest.mark.parametrize("column", IDENTIFYING)
def test_identifier_columns(column):
    cells = [{column: IDENTIFYING[column](i), "finding": str(i % 2)} for i in range(40)]
    carried, left = choose_columns(cells, [f"p{i}" for i in range(40)])
    assert (set(carried), left) == ({"finding"}, [column])


@pytest.mark.parametrize("column", ["age", "Age", "patient_age", "PatientAge", "alter"])
def test_ages_above_89(column):
    cells = [{column: str(age)} for age in (42, 89, 90, 96, 104)]
    carried, _ = choose_columns(cells, [f"p{i}" for i in range(5)])
    values = [carry(cell, carried)[f"label_{column}"] for cell in cells]
    assert values == [42, 89, 90, 90, 90]


# ---- nothing clean is refused


def clean(folder: Path, each: int, **options) -> tuple[int, Path]:
    write_phantoms(folder, ["thorax-cxr", "thorax-ct", "breast"], each, 0, **options)
    (path,) = folder.glob("*.csv")
    report = ingest([path], folder / "store", workers=2, timeout_s=120.0)
    assert report.refused.total() == 0
    assert not report.told, report.told
    return report.ingested, folder / "store"


@pytest.mark.full
def test_a_hundred_clean_phantoms_are_read_without_a_word(tmp_path):
    # Small, and in this process: at the usual size the phantoms alone take 20 minutes.
    assert clean(tmp_path, 34, workers=1, resolution_mm=6.0, pixels=128)[0] >= 100


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["ct", "lidc", "cxr", "cxr_seg", "adrenalmnist3d", "pneumoniamnist"]
)
def test_every_real_study_is_read(real_data, tmp_path, name):
    report = ingest([real_data / f"{name}.csv"], tmp_path / "store", workers=2, timeout_s=120.0)
    assert report.refused.total() == 0
    assert report.ingested == report.lines == len(Store.open(tmp_path / "store"))


def test_no_identifier_reaches_store_logs_or_quarantine(tmp_path, capfd):
    """Every attribute of PS3.15 table E.1-1, private, nested, overlay, preamble, names of files and
    folders, and cells of labels.
    """
    root = tmp_path / "SENTINEL-folder"
    (root / "SENTINEL-series").mkdir(parents=True)
    for k in range(3):
        dataset = haunted(ct_slice(body(seed=k), k))
        dataset.PatientID, dataset.SeriesInstanceUID = "SENTINEL-patient", "1.2.999.1"
        dataset.StudyInstanceUID, dataset.PatientBirthDate = "1.2.999.2", "19010101"
        save(dataset, root / "SENTINEL-series" / f"SENTINEL{k}.dcm")
    (root / "SENTINEL-series" / "SENTINEL.db").write_bytes(b"SENTINEL" * 99)
    save(haunted(radiograph(chest(), BurnedInAnnotation="YES")), root / "SENTINEL-x.dcm")
    whole = (root / "SENTINEL-x.dcm").read_bytes()
    (root / "SENTINEL-cut.dcm").write_bytes(whole[: len(whole) // 2])
    cells = {"born": "1901-01-01", "finding": 1}
    paths = ("SENTINEL-series", "SENTINEL-x.dcm", "SENTINEL-cut.dcm", "SENTINEL-none.dcm")
    rows = [
        {
            "path": path,
            "study_id": f"SENTINEL{n}",
            "patient_id": f"SENTINEL-p{n}",
            "remark": f"SENTINEL{n}",
            "modality": "CXR" if path == "SENTINEL-x.dcm" else "CT",
        }
        | cells
        for n, path in enumerate(paths)
    ]
    out = tmp_path / "out"
    report = ingest(
        [manifest(root, rows)], out / "store", workers=1, timeout_s=60.0, max_refused=1.0
    )
    assert (report.ingested, report.refused.total()) == (2, 2)
    assert set(report.told) == {"stray_files", "burnt_in"}
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    names = " ".join(map(str, Store.open(out / "store").index.to_dict("records")))
    said = "".join(capfd.readouterr()) + names + str(report)
    for trace in ("SENTINEL", "98765", "1.2.999", "19010101", "1901-01-01"):
        assert trace.encode() not in written
        assert trace not in said
