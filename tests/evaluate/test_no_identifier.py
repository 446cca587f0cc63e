"""Identifiers planted in headers, names and labels: none is in anything that is made of the store:
checkpoints, logs, reports, features, exports.
"""

import gzip
import io
import json
import re
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
from contained import everything_in, forms_of
from dicom_files import ct_slice, radiograph, save
from nano import on_one_device
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from planted import run_here
from test_deidentify import haunted
from tiny import KEY, short_rows, write_checkpoint

from mmv_jax.cli import main
from mmv_jax.store.workers import ENGINES

WORDS = ("SENTINEL", "1.2.999", "19010101", "1901-01-01")
FORMS = [form for word in WORDS for form in forms_of(word)]
# Numbers of the headers: whole, or with a fraction, but no digits within another number.
NUMBER = re.compile(rb"(?<![\d.])98765\d{0,4}(?![\d])")
NANO = Path(__file__).parents[1] / "train" / "nano.py"
PLANAR, VOLUMES = 12, 4


def found_in(folder: Path) -> list[str]:
    """Places in which one of the planted words or numbers stands."""
    return sorted(
        {
            name
            for name, data in everything_in(folder)
            if any(form in data for form in FORMS) or NUMBER.search(data)
        }
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A manifest of haunted radiographs and series, two studies a patient, in all three splits."""
    root = tmp_path_factory.mktemp("planted") / "SENTINEL-folder"
    root.mkdir()
    rng, rows = np.random.default_rng(0), []
    y, x = np.mgrid[:64, :56]
    for n in range(PLANAR + VOLUMES):
        disc = 900.0 * ((y - 32) ** 2 + (x - 14 - 28 * (n % 2)) ** 2 < rng.uniform(80, 200))
        path = root / f"SENTINEL{n}"
        if n < PLANAR:
            pixels = (disc + rng.integers(100, 140, disc.shape)).astype(np.uint16)
            save(haunted(radiograph(pixels, PatientID="SENTINEL")), path)
        else:
            path.mkdir()
            for k in range(8):
                plane = (disc[::2, ::2] + rng.integers(0, 99, (32, 28))).astype(np.int16)
                dataset = haunted(ct_slice(plane, k, PatientID="SENTINEL"))
                dataset.SeriesInstanceUID = dataset.StudyInstanceUID = f"1.2.999.{n}"
                save(dataset, path / f"SENTINEL{k}")
        split = ("train", "train", "val", "test")[n // 2 % 4]
        names = {"study_id": f"SENTINEL-s{n}", "path": path.name, "patient_id": f"SENTINEL{n // 2}"}
        words = {"born": "1901-01-01", "remark": f"SENTINEL {n}", "mrn": 98_765_000 + n}
        modality = {"split": split, "modality": "CXR" if n < PLANAR else "CT"}
        rows.append(names | modality | {"finding": n % 2, "age": 40 + n} | words)
    pd.DataFrame(rows).to_csv(root / "SENTINEL.csv", index=False)
    return root


@pytest.fixture(scope="module")
def store(files) -> Iterator[Path]:
    """The store of these files, in a folder in which all else is written."""
    out = files.parent / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ENGINES, "local", run_here)
        run(f"ingest {files}/SENTINEL.csv --store {out}/store --timeout 60")
        yield out / "store"


def run(command: str) -> None:
    assert main(command.split()) == 0


def test_no_identifier_reaches_features_exports_or_the_page_of_a_store(
    store, monkeypatch, capfd, tmp_path
):
    out = store.parent
    write_checkpoint(out / "fresh", {"key_fingerprint": KEY, "patients": []})
    short_rows(monkeypatch)
    run(f"inspect {store} --report {out}/store.html --sheet {out}/sheet.png")
    run(f"embed --checkpoint {out}/fresh --store {store} --out {out}/features --tokens cls,patch")
    run(f"export --checkpoint {out}/fresh --format safetensors --out {out}/fresh.safetensors")
    names = {path.name for path in out.rglob("*")}
    assert {"features.parquet", "patches.zarr", "fresh.safetensors", "store.html"} <= names
    assert found_in(out) == []
    said = "".join(capfd.readouterr())
    assert not any(word in said for word in WORDS) and not NUMBER.search(said.encode())


@pytest.mark.full
def test_no_identifier_reaches_checkpoints_logs_or_reports(store, monkeypatch, capfd):
    out = store.parent
    on_one_device(monkeypatch)
    zero = " ".join(f"--config.objective.{name}=0.0" for name in ("dino", "ibot", "koleo"))
    run(
        f"pretrain --config {NANO} --workdir {out}/run --config.data.store={store}"
        f" --config.steps=4 --config.checkpoint.every=2 {zero}"
    )
    run(f"status {out}/run")
    run(f"evaluate --store {store} --checkpoint {out}/run --label finding --label age")
    run(f"embed --checkpoint {out}/run --store {store} --out {out}/kept --tokens cls,patch")
    for form, end in (("safetensors", ".safetensors"), ("huggingface", "")):
        run(f"export --checkpoint {out}/run --format {form} --out {out}/encoder{end}")
    run(f"compare {out}/run {out}/run/evaluate --out {out}/both.html")
    names = {path.name for path in out.rglob("*")}
    assert {"report.html", "predictions.parquet", "metrics.jsonl", "manifest.ocdbt"} <= names
    assert found_in(out) == []
    said = "".join(capfd.readouterr())
    assert not any(word in said for word in WORDS) and not NUMBER.search(said.encode())


def written_in(folder: Path, word: str) -> None:
    """Writes a word into one file of each kind that is searched."""
    table = pd.DataFrame({"a": ["x", word]})
    table.to_parquet(folder / "a.parquet", compression="zstd")
    np.savez_compressed(folder / "b.npz", names=np.array([word]))
    (folder / "c.gz").write_bytes(gzip.compress(f"of {word}".encode()))
    text, picture = PngInfo(), io.BytesIO()
    text.add_text("who", word, zip=True)
    Image.new("L", (9, 9)).save(picture, "PNG", pnginfo=text)
    (folder / "d.html").write_text(
        f'<img src="data:image/png;base64,{b64encode(picture.getvalue()).decode()}">'
    )
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in word)
    (folder / "e.json").write_text(f'{{"name": "{escaped}"}}')
    with zipfile.ZipFile(folder / "f.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.json", json.dumps({"name": word}))
    for driver in ("zarr", "zarr3"):
        spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(folder / driver)}}
        data = np.frombuffer(word.encode().ljust(24), np.uint8)
        ts.open(spec, create=True, dtype=ts.uint8, shape=[24]).result().write(data).result()
    (folder / "g.bin").write_bytes(word.encode("utf-16-le"))
    database = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{folder}/h/"}).result()
    database.write("key", word.encode()).result()
    (folder / word).mkdir()


@pytest.mark.parametrize("word", ["of SENTINEL it", "in 19010101 born", "98765123"])
def test_the_search_finds_what_is_packed(tmp_path, word):
    written_in(tmp_path, word)
    found = {name.split("/")[0].split(",")[0] for name in found_in(tmp_path)}
    kinds = {"a.parquet", "b.npz", "c.gz", "d.html", "e.json", "f.zip", "zarr", "zarr3", "h", word}
    assert kinds | ({"g.bin"} if "9876" not in word else set()) <= found


def test_the_search_finds_nothing_where_nothing_is(tmp_path):
    written_in(tmp_path, "nobody, 0.98765123")
    assert found_in(tmp_path) == []
