"""A line whose files changed since they were read: told, and read again with `correct`."""

import io
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from bucket import served
from made import body, chest, manifest, png, slices
from planted import run_here

from mmv_jax.buckets import place, put
from mmv_jax.readers.dicom import series_name
from mmv_jax.store.ingest import ingest
from mmv_jax.store.read import Store
from mmv_jax.store.workers import ENGINES


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setitem(ENGINES, "local", run_here)


def pictures(folder, count: int = 3) -> list[dict]:
    for n in range(count):
        png(folder / f"{n}.png", (chest() // 16 + n).astype(np.uint8))
    return [{"path": f"{n}.png", "modality": "CXR"} for n in range(count)]


def test_another_path_or_content_of_a_study_is_told_and_corrected(tmp_path):
    rows = pictures(tmp_path, 4)
    store = tmp_path / "store"
    path = manifest(tmp_path, rows[:3])
    assert ingest([path], store).told == {}
    # Line 2 names another file; the file of line 3 has other pixels, and as many bytes or not.
    manifest(tmp_path, [{**rows[0], "path": "3.png"}, *rows[1:3]])
    png(tmp_path / "1.png", (chest() // 16 + 9).astype(np.uint8))
    assert ingest([path], store).told == {"differs_from_store": 2}
    said = (store / "warnings.jsonl").read_text()
    assert '"line": 2' in said and '"line": 3' in said and "another image" in said
    assert ingest([path], store, correct=True).corrected == 2
    assert ingest([path], store).told == {}
    stored = Store.open(store)
    firsts = {
        int(line["line"]): int(stored.read_study(n).voxels.min())
        for n, line in enumerate(stored.index.to_dict("records"))
    }
    assert firsts == {2: 200 // 16 + 3, 3: 200 // 16 + 9, 4: 200 // 16 + 2}


def test_a_copy_a_move_and_a_new_time_are_no_change(tmp_path):
    (tmp_path / "a").mkdir()
    rows = pictures(tmp_path / "a")
    slices(tmp_path / "a" / "ct", 4, stored=lambda k: body(seed=k))
    rows.append({"path": "ct"})
    path = manifest(tmp_path / "a", rows)
    assert ingest([path], tmp_path / "store").told == {}
    os.utime(tmp_path / "a" / "0.png", (1, 1))
    assert ingest([path], tmp_path / "store").told == {}
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert ingest([tmp_path / "b" / path.name], tmp_path / "store").told == {}
    # A slice that changed, and files that are gone: the store keeps what it has read.
    slices(tmp_path / "new", 4, stored=lambda k: body(seed=k + (k == 2)))
    shutil.copy(tmp_path / "new" / "02.dcm", tmp_path / "b" / "ct" / "02.dcm")
    (tmp_path / "b" / "1.png").unlink()
    report = ingest([tmp_path / "b" / path.name], tmp_path / "store")
    assert report.told == {"differs_from_store": 1} and report.ok


def test_a_mask_that_changed_is_told(tmp_path):
    rows = pictures(tmp_path, 1)
    mask = np.zeros((96, 80), np.uint8)
    mask[20:60, 20:60] = 1
    png(tmp_path / "m.png", mask)
    path = manifest(tmp_path, [{**rows[0], "heart_mask": "m.png"}])
    ingest([path], tmp_path / "store")
    mask[20:70, 20:50] = 1
    png(tmp_path / "m.png", mask)
    assert ingest([path], tmp_path / "store").told["differs_from_store"] == 1


def zipped(path, files: dict) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tarred(path, files: dict) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


@pytest.mark.parametrize("pack, name", [(zipped, "a.zip"), (tarred, "a.tar.gz")])
def test_changed_members_of_archives_are_told_and_repacked_ones_are_not(tmp_path, pack, name):
    pictures(tmp_path, 3)
    slices(tmp_path / "ct", 4, stored=lambda k: body(seed=k))
    read = {f"{n}.png": (tmp_path / f"{n}.png").read_bytes() for n in range(3)}
    read |= {f"ct/{p.name}": p.read_bytes() for p in sorted((tmp_path / "ct").iterdir())}
    pack(tmp_path / name, read)
    members = ["0.png", "1.png", "ct"]
    rows = [{"path": f"{name}::{m}", "modality": "CT" if m == "ct" else "CXR"} for m in members]
    path, store = manifest(tmp_path, rows), tmp_path / "store"
    assert ingest([path], store).told == {}
    assert all(Store.open(store).index["content"])
    # In another order, with a file more: no study has changed.
    pack(tmp_path / name, {"new.txt": b"x"} | dict(reversed(read.items())))
    assert ingest([path], store).told == {}
    pack(tmp_path / name, read | {"1.png": read["2.png"], "ct/02.dcm": read["ct/01.dcm"]})
    assert ingest([path], store).told == {"differs_from_store": 2}
    pack(tmp_path / name, read | {"1.png": read["2.png"]})
    assert ingest([path], store, correct=True).corrected == 1
    assert ingest([path], store).told == {}
    assert Store.open(store).read_study(1).voxels.min() == 200 // 16 + 2


def test_a_changed_series_of_several_in_a_folder_is_told_alone(tmp_path):
    for uid in ("1.2.1", "1.2.2"):
        slices(tmp_path / uid, 4, stored=lambda k: body(seed=k), SeriesInstanceUID=uid)
        (tmp_path / "two").mkdir(exist_ok=True)
        for file in (tmp_path / uid).iterdir():
            shutil.copy(file, tmp_path / "two" / f"{uid}-{file.name}")
    rows = [{"path": f"two/{series_name(uid)}"} for uid in ("1.2.1", "1.2.2")]
    path, store = manifest(tmp_path, rows), tmp_path / "store"
    assert ingest([path], store).told == {}
    slices(tmp_path / "new", 4, stored=lambda k: body(seed=9 + k), SeriesInstanceUID="1.2.2")
    shutil.copy(tmp_path / "new" / "02.dcm", tmp_path / "two" / "1.2.2-02.dcm")
    assert ingest([path], store).told == {"differs_from_store": 1}
    assert '"line": 3' in (store / "warnings.jsonl").read_text()


def test_changed_objects_of_a_bucket_are_told(tmp_path):
    pictures(tmp_path / "raw", 3)
    slices(tmp_path / "raw" / "ct", 4, stored=lambda k: body(seed=k))
    rows = [{"path": f"{n}.png", "modality": "CXR"} for n in range(3)] + [{"path": "ct"}]
    manifest(tmp_path / "raw", rows)
    with served("gs") as bucket:
        raw = place("gs://bucket/raw")
        put(tmp_path / "raw", raw)
        path, options = str(raw / "manifest.csv"), {"key_path": tmp_path / "key"}
        assert ingest([path], tmp_path / "store", **options).told == {}
        bucket.reads.clear()
        assert ingest([path], tmp_path / "store", **options).told == {}
        # To see that nothing changed, no image is read.
        assert sum(size for name, size in bucket.reads if name != "raw/manifest.csv") < 64
        for name, other in (("1.png", "2.png"), ("ct/03.dcm", "ct/02.dcm")):
            (raw / name).write_bytes((raw / other).read_bytes())
        (raw / "2.png").write_bytes((raw / "2.png").read_bytes())  # written again, not changed
        assert ingest([path], tmp_path / "store", **options).told == {"differs_from_store": 2}
        said = (tmp_path / "store" / "warnings.jsonl").read_text()
        assert '"line": 3' in said and '"line": 5' in said
