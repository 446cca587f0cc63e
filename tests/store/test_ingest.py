"""Ingest: what is broken costs its line and nothing else, what is finished stays, and nobody is
named.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from planted import NAN, quarantined, read_npy, store_of, study_of, volumes, write_manifest

from mmv_jax.errors import UserError
from mmv_jax.provenance import versions
from mmv_jax.readers.deidentify import Key
from mmv_jax.store import write
from mmv_jax.store.index import write_index
from mmv_jax.store.ingest import ingest
from mmv_jax.store.layout import open_root
from mmv_jax.store.read import Store
from mmv_jax.study import Study

ROOT = Path(__file__).resolve().parents[2]


def test_studies_come_with_their_names_labels_and_masks(tmp_path):
    planar, volumetric = volumes(2, (1, 30, 40)), volumes(2)
    np.save(tmp_path / "mask.npy", (volumetric[1] > 0).astype(int))
    columns = {
        "age": ["30", "", "41", "52"],
        "sex": ["F", "M", "F", ""],
        "reader": ["Miller", "Smith", "Jones", "Mayer"],
    }
    columns["organ_mask"] = ["", "", "", "../mask.npy"]
    manifest = write_manifest(tmp_path / "in", planar + volumetric, **columns)
    report = ingest([manifest], tmp_path / "store", workers=1, read_fn=read_npy)
    store = Store.open(tmp_path / "store")
    key = Key.load(tmp_path / "store.key")
    assert (report.lines, report.ingested, report.refused.total(), report.not_carried) == (
        4,
        4,
        0,
        {"manifest.csv": ["reader"]},
    )
    assert store.index["study"].tolist() == [
        key.hash("study", f"SENTINEL-study-{n}") for n in range(4)
    ]
    assert store.index["patient"].nunique() == 2
    assert store.index["line"].tolist() == [2, 3, 4, 5]
    assert store.index["ndim"].tolist() == [2, 2, 3, 3]
    np.testing.assert_array_equal(store.index["label_age"].to_numpy(), [30, NAN, 41, 52])
    assert store.index["label_sex"].fillna("none").tolist() == ["F", "M", "F", "none"]
    assert store.index["masks"].tolist() == ["", "", "", "organ"]
    assert store.key_fingerprint == key.fingerprint
    about = json.loads((tmp_path / "store" / "store.json").read_text())
    assert about["versions"] == versions()
    for i, voxels in enumerate(planar + volumetric):
        np.testing.assert_array_equal(store.read_study(i).voxels, voxels)
    np.testing.assert_array_equal(
        store.read_box(3, (0, 0, 0), (4, 9, 10), mask="organ"), volumetric[1] > 0
    )


def test_shapes_are_zero_and_one(tmp_path):
    shape = np.where(volumes(1)[0] > 0, 255, 0).astype(np.uint8)
    store = store_of(tmp_path, [study_of(shape, "shape")])
    assert np.unique(store.read_study(0).voxels).tolist() == [0, 1]
    assert store.index[["low", "high"]].to_numpy().tolist() == [[0, 1]]


def test_a_file_that_kills_its_decoder_or_hangs_costs_its_line_alone(tmp_path):
    contents = volumes(12)
    contents[3] = contents[4] = contents[11] = b"die"
    contents[7] = b"hang"
    report = ingest(
        [write_manifest(tmp_path / "in", contents)],
        tmp_path / "store",
        workers=2,
        timeout_s=3.0,
        read_fn=read_npy,
    )
    assert quarantined(tmp_path / "store") == {
        5: "decoder_died",
        6: "decoder_died",
        9: "timeout",
        13: "decoder_died",
    }
    assert Store.open(tmp_path / "store").index["line"].tolist() == [2, 3, 4, 7, 8, 10, 11, 12]
    assert report.ingested == 8


def test_what_the_reader_lets_through_is_looked_at_again(tmp_path):
    contents = [*volumes(3), np.full((3, 4, 5), 7), np.array([[[0.0, NAN]]]), b"no array"]
    np.save(tmp_path / "mask.npy", np.ones((2, 2, 2), int))
    masks = ["../mask.npy", ""] + [""] * 4
    ingest(
        [write_manifest(tmp_path / "in", contents, organ_mask=masks)],
        tmp_path / "store",
        engine="here",
        read_fn=read_npy,
    )
    assert quarantined(tmp_path / "store") == {
        2: "mask_grid",
        5: "constant",
        6: "not_finite",
        7: "not_an_image",
    }


def test_the_same_ingest_again_reads_only_what_was_refused(tmp_path):
    contents = volumes(5)
    manifest = write_manifest(tmp_path / "in", [*contents[:4], b"broken"])
    ingest([manifest], tmp_path / "store", engine="here", read_fn=read_npy)
    before = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "store" / "parts").rglob("*")
        if path.is_file()
    }
    np.save(tmp_path / "in" / "SENTINEL-file-4.npy", contents[4])  # mended
    report = ingest([manifest], tmp_path / "store", engine="here", read_fn=read_npy)
    assert (report.ingested, report.already, report.refused.total()) == (1, 4, 0)
    assert quarantined(tmp_path / "store") == {}
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert Store.open(tmp_path / "store").index["line"].tolist() == [2, 3, 4, 5, 6]


def test_a_further_manifest_appends_and_moves_no_study(tmp_path):
    first = write_manifest(tmp_path / "in", volumes(3), "first.csv", sex=["F", "M", "F"])
    second = write_manifest(
        tmp_path / "in", volumes(3, seed=1), "a-second.csv", first=10, age=["1", "2", "3"]
    )
    ingest([first], tmp_path / "store", engine="here", read_fn=read_npy)
    names = Store.open(tmp_path / "store").index["study"].tolist()
    ingest([second, first], tmp_path / "store", engine="here", read_fn=read_npy)
    index = Store.open(tmp_path / "store").index
    assert index["study"].tolist()[:3] == names
    assert index["manifest"].tolist() == [1, 1, 1, 2, 2, 2]
    assert index["label_age"].isna().tolist() == [True] * 3 + [False] * 3


def test_contradictions_with_what_is_there_are_refused(tmp_path):
    ingest(
        [write_manifest(tmp_path / "in", volumes(2))],
        tmp_path / "store",
        engine="here",
        read_fn=read_npy,
    )
    other = write_manifest(
        tmp_path / "more",
        volumes(3),
        study_id=["SENTINEL-study-0", "new", "odd"],
        patient_id=["someone else", "SENTINEL-patient-0", "x"],
        split=["train", "test", "train"],
        modality=["CT", "CT", "CT of Mr Miller"],
    )
    report = ingest([other], tmp_path / "store", engine="here", read_fn=read_npy)
    assert quarantined(tmp_path / "store") == {
        2: "duplicate_study",
        3: "patient_across_splits",
        4: "bad_modality",
    }
    assert report.ingested == 0


def test_a_killed_ingest_leaves_a_store_and_goes_on(tmp_path):
    contents = volumes(40, (20, 150, 150))
    manifest = write_manifest(tmp_path / "in", contents)
    store = tmp_path / "store"
    program = (
        "import sys; sys.path[:0] = sys.argv[3:]\nimport mmv_jax.store.ingest as i;"
        " import mmv_jax.store.jobs as j; from planted"
        " import read_npy\nj.TASK_BYTES = 1 << 20\nif __name__ == '__main__':"
        " i.ingest([sys.argv[1]], sys.argv[2], workers=1, read_fn=read_npy)"
    )
    (tmp_path / "program.py").write_text(program)
    command = [
        sys.executable,
        str(tmp_path / "program.py"),
        str(manifest),
        str(store),
        str(ROOT),
        str(Path(__file__).parent),
    ]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    wait_for(lambda: len(list(store.glob("parts/*/index-*.parquet"))) >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    there = len(Store.open(store))
    assert 3 <= there < 40
    (store / "parts" / "0123-3d" / "blocks").mkdir(parents=True)
    # of a part that was begun
    (store / "parts" / "0123-3d" / "blocks" / "zarr.json").write_text("{")
    report = ingest([manifest], store, engine="here", read_fn=read_npy)
    assert report.already >= there
    assert report.ingested + report.already == 40
    opened = Store.open(store)
    assert all(
        np.array_equal(opened.read_study(i).voxels, voxels) for i, voxels in enumerate(contents)
    )
    assert {
        path.name for path in (store / "parts").iterdir() if any(path.rglob("*.parquet"))
    } == set(opened.index["part"])
    assert not list((store / "parts" / "0123-3d").rglob("zarr.json"))


def wait_for(condition, process: subprocess.Popen, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_ingests_at_once_are_refused(tmp_path):
    manifest = write_manifest(tmp_path / "in", volumes(2))
    (tmp_path / "store").mkdir()
    with open(tmp_path / "store" / "ingest.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another ingest"):
            ingest([manifest], tmp_path / "store", workers=1, read_fn=read_npy)


def test_an_unknown_engine_is_told(tmp_path):
    with pytest.raises(UserError, match="none of local, ray"):
        ingest(
            [write_manifest(tmp_path / "in", volumes(2))],
            tmp_path / "store",
            engine="beam",
            read_fn=read_npy,
        )


@pytest.mark.parametrize("at_once", [True, False], ids=["in one ingest", "one after the other"])
def test_a_column_of_words_in_one_manifest_and_of_numbers_in_another_is_text(tmp_path, at_once):
    first = write_manifest(tmp_path / "in", volumes(2), "a.csv", sex=["0", ""], age=["30", "40"])
    second = write_manifest(
        tmp_path / "in", volumes(2), "b.csv", first=2, sex=["F", "M"], age=["50", "60"]
    )
    for manifests in [[first, second]] if at_once else [[first], [second]]:
        assert ingest(manifests, tmp_path / "store", engine="here", read_fn=read_npy).ok
    index = Store.open(tmp_path / "store").index
    assert index["label_sex"].fillna("none").tolist() == ["0", "none", "F", "M"]
    assert index["label_age"].tolist() == [30, 40, 50, 60]


def test_a_column_that_cannot_be_written_quotes_no_cell(tmp_path):
    with pytest.raises(ValueError, match="type of a column") as told:
        write_index(open_root(tmp_path), "part", [{"label_who": "Miller"}, {"label_who": 3.0}])
    assert told.value.__cause__ is None
    assert "Miller" not in str(told.value)


@pytest.mark.parametrize("workers", [0, -1])
def test_no_worker_is_told(tmp_path, workers):
    with pytest.raises(UserError, match=f"--workers is {workers}"):
        ingest(
            [write_manifest(tmp_path / "in", volumes(2))],
            tmp_path / "store",
            workers=workers,
            read_fn=read_npy,
        )


def test_no_manifest_is_told(tmp_path):
    with pytest.raises(UserError, match="mmv manifest"):
        ingest([], tmp_path / "store", read_fn=read_npy)


def test_parts_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "PART_STUDIES", 3)
    part = write.PartWriter(open_root(tmp_path), "a", 3)
    for n, voxels in enumerate(volumes(3)):
        assert not part.is_full
        part.add(Study(voxels, (1.0, 1.0, 1.0), 3, "HU"), {}, {"study": str(n)})
    assert part.is_full


def test_real_volumes_come_out_as_nibabel_reads_them(tmp_path, real_data):
    report = ingest([real_data / "ct.csv"], tmp_path / "store", engine="here")
    store = Store.open(tmp_path / "store")
    assert (report.ingested, report.ok) == (8, True)
    at = int(np.flatnonzero(store.index["masks"] == "vessel")[0])
    image = nib.as_closest_canonical(nib.load(real_data / "ct" / "heart.nii.gz"))
    # RAS, x first -> z first, to the back and to the left
    hu = np.asarray(image.dataobj).T[:, ::-1, ::-1]
    np.testing.assert_array_equal(store.read_study(at).voxels, hu)
    assert store.index["unit"][at] == "HU"
    vessels = nib.as_closest_canonical(nib.load(real_data / "ct" / "heart_seg.nii.gz"))
    np.testing.assert_array_equal(
        store.read_box(at, (0, 0, 0), hu.shape, mask="vessel"),
        np.asarray(vessels.dataobj).T[:, ::-1, ::-1],
    )


def test_the_report_says_what_happened(tmp_path):
    manifest = write_manifest(
        tmp_path / "in", [*volumes(2), b"broken"], remark=["one of two", "another", "a third"]
    )
    text = str(ingest([manifest], tmp_path / "store", engine="here", read_fn=read_npy))
    assert "2 studies ingested" in text
    assert "refused: 1 not_an_image" in text
    assert "columns not carried (they may name someone): remark" in text


def test_an_ingest_of_which_nothing_remains_is_not_ok(tmp_path):
    assert not ingest(
        [write_manifest(tmp_path / "in", [b"broken"])],
        tmp_path / "store",
        engine="here",
        read_fn=read_npy,
    ).ok


def test_a_unit_is_of_the_lines_that_name_none(tmp_path):
    rng, lines = np.random.default_rng(0), []
    for name, unit in (("a", ""), ("b", "raw")):
        nib.save(
            nib.Nifti1Image(rng.integers(-1000, 400, (12, 12, 12)).astype(np.int16), np.eye(4)),
            tmp_path / f"{name}.nii",
        )
        lines.append(f"{name},{name}.nii,{name},train,CT,{unit}")
    (tmp_path / "m.csv").write_text(
        "\n".join(["study_id,path,patient_id,split,modality,unit", *lines])
    )
    assert ingest([tmp_path / "m.csv"], tmp_path / "store", engine="here", unit="HU").ok
    assert Store.open(tmp_path / "store").index.set_index("line")["unit"].to_dict() == {
        2: "HU",
        3: "raw",
    }


def test_progress_counts_every_line_once(tmp_path):
    calls = []
    manifest = write_manifest(tmp_path / "in", [*volumes(5), b"broken", b"die"])
    ingest(
        [manifest],
        tmp_path / "store",
        workers=1,
        read_fn=read_npy,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == sorted(calls)
    assert calls[-1] == (7, 7)
