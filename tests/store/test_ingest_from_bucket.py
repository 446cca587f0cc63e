"""An ingest whose manifest and raw files lie in a bucket: the same store as from a disk."""

import csv
import json
from pathlib import Path

import numpy as np
import planted  # noqa: F401  registers an engine without workers
import pytest
from bucket import served
from dicom_files import stored_volume, write_series
from PIL import Image

from mmv_jax.buckets import Unreachable, place, put
from mmv_jax.readers.dicom import series_name
from mmv_jax.store.ingest import ingest
from mmv_jax.store.read import Store


def write_raw(folder: Path) -> Path:
    """A manifest of a DICOM series, one of two series in a folder, and a picture with a mask."""
    write_series(folder / "SENTINEL-ct", stored_volume())
    for n, uid in enumerate(("1.2.3.1", "1.2.3.2")):
        names = [f"{uid}-{k}.dcm" for k in range(8)]
        write_series(folder / "two", stored_volume() + n, names=names, SeriesInstanceUID=uid)
    (folder / "img").mkdir()
    rng = np.random.default_rng(0)
    for name, values in (("x.png", rng.integers(0, 255, (40, 32))), ("m.png", np.eye(40, 32))):
        Image.fromarray(values.astype(np.uint8)).save(folder / "img" / name)
    lines = [
        ("SENTINEL-ct", "CT", ""),
        (f"two/{series_name('1.2.3.2')}", "CT", ""),
        ("img/x.png", "CXR", "img/m.png"),
        ("two/1.2.3.1-*.dcm", "CT", ""),
        ("img/nowhere.png", "CXR", ""),
    ]
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "path", "patient_id", "split", "modality", "heart_mask"])
        for n, (path, modality, mask) in enumerate(lines):
            writer.writerow([f"SENTINEL-{n}", path, f"SENTINEL-p{n}", "train", modality, mask])
    return folder / "list.csv"


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_the_store_is_that_of_the_files_on_a_disk(tmp_path, kind):
    manifest = write_raw(tmp_path / "raw")
    options = {"key_path": tmp_path / "key", "engine": "here"}
    here = ingest([manifest], tmp_path / "here", **options)
    with served(kind) as bucket:
        raw = place(f"{kind}://bucket/raw")
        put(tmp_path / "raw", raw)
        there = ingest([str(raw / "list.csv")], f"{kind}://bucket/store", **options)
        assert (there.ingested, there.refused) == (here.ingested, here.refused)
        assert there.ingested == 4 and list(there.refused) == ["not_found"]
        stores = Store.open(tmp_path / "here"), Store.open(f"{kind}://bucket/store")
        assert stores[0].digest(range(4)) == stores[1].digest(range(4))
        assert not [name for name in bucket.objects if name.startswith("store/") and "SENT" in name]
        told = (place(f"{kind}://bucket/store") / "quarantine.jsonl").read_text()
        assert json.loads(told)["line"] == 6 and "nowhere" not in told


def test_a_bucket_that_goes_away_is_no_fault_of_a_file(tmp_path):
    write_raw(tmp_path / "raw")
    with served("gs") as bucket:
        put(tmp_path / "raw", place("gs://bucket/raw"))
        manifest = bucket.objects["raw/list.csv"][1]
        del bucket.objects["raw/list.csv"]
        (tmp_path / "list.csv").write_bytes(
            manifest.replace(b"SENTINEL-ct,", b"gs://bucket/raw/SENTINEL-ct,")
        )
        bucket.forbids = True
        options = {"key_path": tmp_path / "key", "engine": "here"}
        with pytest.raises(Unreachable, match="gs://bucket/raw/SENTINEL-ct/000.dcm cannot be re"):
            ingest([tmp_path / "list.csv"], tmp_path / "store", **options)
