"""A line whose files changed since they were read: told, and read again with `correct`."""

import os
import shutil

import numpy as np
import pytest
from made import body, chest, manifest, png, slices
from planted import run_here

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
