"""Two hundred broken inputs through the real readers: each costs its own line, with a reason, and
no other.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from mmv_jax.store.ingest import Report, ingest
from mmv_jax.store.read import Store

EACH = 10  # of every kind
Rng = np.random.Generator


def nifti(
    path: Path,
    rng: Rng,
    shape: tuple = (12, 11, 10),
    zooms: tuple = (1.0, 1.0, 2.0),
    dtype: type = np.int16,
) -> Path:
    image = nib.Nifti1Image(rng.integers(-1000, 1000, shape).astype(dtype), np.diag([*zooms, 1.0]))
    nib.save(image, path)
    return path


def picture(path: Path, rng: Rng, shape: tuple = (40, 30)) -> Path:
    Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(path)
    return path


def series(folder: Path, rng: Rng, slices: list[int]) -> Path:
    folder.mkdir()
    uid = "1.2.826.0.1.3680043.8.498.1"
    for n in slices:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = (
            CTImageStorage,
            generate_uid(),
            ExplicitVRLittleEndian,
        )
        slice_ = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        slice_.SOPClassUID, slice_.SOPInstanceUID, slice_.SeriesInstanceUID = (
            CTImageStorage,
            meta.MediaStorageSOPInstanceUID,
            uid,
        )
        (
            slice_.StudyInstanceUID,
            slice_.FrameOfReferenceUID,
            slice_.Modality,
            slice_.InstanceNumber,
        ) = (uid + ".1", uid + ".2", "CT", n + 1)
        slice_.ImagePositionPatient, slice_.ImageOrientationPatient = (
            [0, 0, 2.5 * n],
            [
                1,
                0,
                0,
                0,
                1,
                0,
            ],
        )
        slice_.PixelSpacing, slice_.SliceThickness, slice_.Rows, slice_.Columns = (
            [0.8, 0.8],
            2.5,
            16,
            16,
        )
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = (
            16,
            16,
            15,
            1,
        )
        (
            slice_.SamplesPerPixel,
            slice_.PhotometricInterpretation,
            slice_.RescaleSlope,
            slice_.RescaleIntercept,
        ) = (1, "MONOCHROME2", 1, 0)
        slice_.PixelData = rng.integers(-1000, 1000, (16, 16)).astype("<i2").tobytes()
        slice_.save_as(folder / f"{n}.dcm", enforce_file_format=True)
    return folder


def cut(path: Path, rng: Rng) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * rng.uniform(0.1, 0.9))])
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def with_nan(path: Path, rng: Rng) -> Path:
    voxels = rng.normal(size=(6, 7, 8)).astype(np.float32)
    voxels[3, 3, 3] = rng.choice([np.nan, np.inf])
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return path


def lying_nifti(path: Path, rng: Rng) -> Path:
    content = bytearray(nifti(path, rng).read_bytes())
    content[42:48] = np.full(3, 30_000, "<i2").tobytes()  # dim[1..3]
    path.write_bytes(content)
    return path


def without_pixels(folder: Path, rng: Rng) -> Path:
    path = series(folder, rng, [0]) / "0.dcm"
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    return path


def constant_picture(path: Path) -> Path:
    Image.new("L", (30, 30), 7).save(path)
    return path


def empty_folder(path: Path) -> Path:
    path.mkdir()
    return path


BROKEN: dict[str, Callable[[Path, Rng], Path]] = {
    "truncated NIfTI": lambda p, rng: cut(nifti(p.with_suffix(".nii.gz"), rng), rng),
    "truncated plain NIfTI": lambda p, rng: cut(nifti(p.with_suffix(".nii"), rng), rng),
    "truncated PNG": lambda p, rng: cut(picture(p.with_suffix(".png"), rng, (200, 200)), rng),
    "truncated JPEG": lambda p, rng: cut(picture(p.with_suffix(".jpg"), rng, (200, 200)), rng),
    "truncated DICOM": lambda p, rng: cut(series(p, rng, [0]) / "0.dcm", rng),
    "text named .dcm": lambda p, rng: text(
        p.with_suffix(".dcm"), "this is a report, and no picture"
    ),
    "web page named .png": lambda p, rng: text(
        p.with_suffix(".png"), "<html><body>404</body></html>"
    ),
    "text named .nii.gz": lambda p, rng: text(p.with_suffix(".nii.gz"), "a,b,c\n1,2,3\n"),
    "empty file": lambda p, rng: text(p.with_suffix(".nii.gz"), ""),
    "no file": lambda p, rng: p.with_suffix(".nii.gz"),
    "empty folder": lambda p, rng: empty_folder(p),
    "not a number": lambda p, rng: with_nan(p.with_suffix(".nii.gz"), rng),
    "spacing of kilometres": lambda p, rng: nifti(
        p.with_suffix(".nii.gz"), rng, zooms=(1.0, 1.0, 1e6)
    ),
    "spacing of nothing": lambda p, rng: nifti(
        p.with_suffix(".nii.gz"), rng, zooms=(1e-9, 1.0, 1.0)
    ),
    "missing slices": lambda p, rng: series(
        p, rng, [n for n in range(12) if n not in set(rng.integers(1, 11, 2))]
    ),
    "a header that lies": lambda p, rng: lying_nifti(p.with_suffix(".nii"), rng),
    "five dimensions": lambda p, rng: nifti(p.with_suffix(".nii"), rng, shape=(5, 4, 3, 2, 2)),
    "no pixels": lambda p, rng: without_pixels(p, rng),
    "constant": lambda p, rng: constant_picture(p.with_suffix(".png")),
    "no voxels": lambda p, rng: nifti(p.with_suffix(".nii"), rng, shape=(5, 4, 0)),
}
GOOD = [
    lambda p, rng: nifti(p.with_suffix(".nii.gz"), rng),
    lambda p, rng: picture(p.with_suffix(".jpg"), rng),
    lambda p, rng: series(p, rng, list(range(6))),
]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory) -> tuple[Path, Report, list[str]]:
    """A store made of ten broken files of every kind and thirty good ones, in one shuffled
    manifest; the kind of each line.
    """
    folder, rng = tmp_path_factory.mktemp("broken"), np.random.default_rng(0)
    makers = [(kind, make) for kind, make in BROKEN.items() for _ in range(EACH)] + [
        ("good", make) for make in GOOD for _ in range(EACH)
    ]
    order = rng.permutation(len(makers))
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "path", "patient_id", "split", "modality"])
        for n in order:
            path = makers[n][1](folder / f"file-{n}", rng)
            writer.writerow([f"s{n}", path.relative_to(folder), f"p{n}", "train", "CT"])
    report = ingest([folder / "manifest.csv"], folder / "store", workers=2)
    return folder / "store", report, [makers[n][0] for n in order]


@pytest.mark.parametrize("kind", BROKEN)
def test_every_broken_file_is_quarantined_with_a_reason(ingested, kind):
    store, _, kinds = ingested
    entries = {
        entry["line"]: entry
        for entry in map(json.loads, (store / "quarantine.jsonl").read_text().splitlines())
    }
    lines = [n for n, k in enumerate(kinds, 2) if k == kind]
    assert len(lines) == EACH
    assert all(entries[line]["code"] and len(entries[line]["reason"]) > 10 for line in lines)


def test_every_good_file_is_ingested(ingested):
    store, report, kinds = ingested
    assert Store.open(store).index["line"].tolist() == [
        n for n, kind in enumerate(kinds, 2) if kind == "good"
    ]
    assert (report.ingested, report.refused.total()) == (3 * EACH, len(BROKEN) * EACH)
