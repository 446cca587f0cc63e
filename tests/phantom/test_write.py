import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from mmv_jax.errors import UserError
from mmv_jax.phantom.write import split_of, write_phantoms

SMALL = {"resolution_mm": 7.2, "pixels": 64}


def lines_of(manifest):
    with manifest.open() as file:
        return list(csv.DictReader(file))


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantoms")
    write_phantoms(out, ["thorax-cxr", "thorax-ct"], 8, 7, workers=1, **SMALL)
    return out


def test_every_byte_follows_from_the_seed_in_any_process(written, tmp_path):
    write_phantoms(tmp_path, ["thorax-cxr", "thorax-ct"], 3, 7, workers=2, **SMALL)
    lines, all_lines = (lines_of(folder / "manifest.csv") for folder in (tmp_path, written))
    assert lines == [line for line in all_lines if line in lines]
    found, expected = digest(tmp_path), digest(written)
    del found["manifest.csv"]
    assert found.items() < expected.items()
    assert len(found) >= 3 * 4  # two images and two masks of each


def test_another_seed_gives_other_patients(written, tmp_path):
    write_phantoms(tmp_path, ["thorax-cxr"], 1, 8, workers=1, **SMALL)
    ours, other = (
        lines_of(folder / "manifest.csv")[0]["lung_ml"] for folder in (written, tmp_path)
    )
    assert ours != other


def test_a_series_that_is_there_already_is_not_written_into(written):
    with pytest.raises(UserError, match="holds phantoms of this kind and seed already"):
        write_phantoms(written, ["thorax-ct"], 6, 7, workers=1, **SMALL)


def test_a_line_names_files_that_exist_and_masks_on_the_studys_grid(written):
    for line in lines_of(written / "manifest.csv"):
        shape = shape_of(written / line["path"])
        assert shape_of(written / line["anatomy_mask"]) == shape
        assert shape_of(written / line["findings_mask"]) == shape


def shape_of(path):
    if path.is_dir():
        first = pydicom.dcmread(next(path.iterdir()))
        return first.Columns, first.Rows, len(list(path.iterdir()))
    if path.suffix == ".dcm":
        return pydicom.dcmread(path).pixel_array.T.shape
    if path.suffix == ".png":
        with Image.open(path) as image:
            return image.size
    return nib.load(path).shape


def test_labels_say_what_the_masks_hold(written):
    flags = {"nodule": 2, "effusion": 4, "pneumothorax": 8, "chest_tube": 128}
    for line in lines_of(written / "manifest.csv"):
        if line["modality"] == "CT":
            mask = np.asarray(nib.load(written / line["findings_mask"]).dataobj)
            assert {n: int(line[n]) for n in flags} == {
                n: int((mask & f > 0).any()) for n, f in flags.items()
            }


def test_the_pair_of_a_number_is_one_patient_of_one_split_and_one_body(written):
    pairs = {}
    for line in lines_of(written / "manifest.csv"):
        pairs.setdefault(line["patient_id"], []).append(line)
    for pair in pairs.values():
        assert {line["modality"] for line in pair} == {"CXR", "CT"}
        assert (
            len(
                {
                    (
                        line["split"],
                        line["sex"],
                        line["age"],
                        line["pneumothorax"],
                        line["effusion"],
                    )
                    for line in pair
                }
            )
            == 1
        )
        np.testing.assert_allclose(*(float(line["lung_ml"]) for line in pair), rtol=0.05)


def test_splits_hold_their_shares_in_any_run_of_patients():
    count = Counter(split_of(0, n) for n in range(200))
    assert count == {
        "train": pytest.approx(120, abs=2),
        "val": pytest.approx(30, abs=2),
        "test": pytest.approx(50, abs=2),
    }


def test_radiographs_are_valid_dicom_in_both_polarities(written):
    found = [pydicom.dcmread(p) for p in sorted(written.glob("thorax-cxr/*.dcm"))]
    assert {ds.PhotometricInterpretation for ds in found} == {"MONOCHROME1", "MONOCHROME2"}
    for ds in found:
        assert ds.SOPClassUID.name == "Digital X-Ray Image Storage - For Presentation"
        assert float(ds.PixelSpacing[0]) == pytest.approx(358.4 / 64)
        bright = ds.pixel_array.astype(float) * (
            -1 if ds.PhotometricInterpretation == "MONOCHROME1" else 1
        )
        # the abdomen is brighter than the air above the shoulder
        assert bright[-10:].mean() > bright[:3, :3].mean()


def test_a_series_is_sorted_by_highdicom_into_the_volume_of_its_mask(written):
    line = next(
        line
        for line in lines_of(written / "manifest.csv")
        if line["modality"] == "CT" and (written / line["path"]).is_dir()
    )
    slices = [pydicom.dcmread(p) for p in (written / line["path"]).iterdir()]
    spacing, positions = highdicom.spatial.get_series_volume_positions(slices)
    assert spacing == pytest.approx(7.2)
    hu = (
        np.stack(
            [
                s.pixel_array
                for _, s in sorted(
                    zip(positions, slices), key=lambda pair: pair[1].ImagePositionPatient[2]
                )
            ]
        ).astype(int)
        - 1024
    )
    anatomy = np.asarray(nib.load(written / line["anatomy_mask"]).dataobj).transpose(2, 1, 0)
    assert np.median(hu[(anatomy == 1) | (anatomy == 2)]) < -600
    assert 0 < np.median(hu[anatomy == 3]) < 80


def test_nifti_and_dicom_say_the_same_about_where_a_voxel_is(written):
    line = next(
        line
        for line in lines_of(written / "manifest.csv")
        if line["modality"] == "CT" and (written / line["path"]).is_dir()
    )
    slices = sorted(
        (pydicom.dcmread(p) for p in (written / line["path"]).iterdir()),
        key=lambda s: s.ImagePositionPatient[2],
    )
    corner = nib.load(written / line["anatomy_mask"]).affine[:3, 3]
    np.testing.assert_allclose(
        np.array(slices[0].ImagePositionPatient, float) * [-1, -1, 1], corner, atol=1e-3
    )


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="kind knee.*thorax-cxr"):
        write_phantoms(tmp_path, ["knee"], 1, 0)


def test_progress_counts_every_patient(tmp_path):
    told = []
    write_phantoms(
        tmp_path,
        ["thorax-cxr"],
        2,
        0,
        workers=1,
        progress=lambda *counts: told.append(counts),
        **SMALL,
    )
    assert told == [(1, 2), (2, 2)]


def test_no_worker_is_told(tmp_path):
    with pytest.raises(UserError, match="--workers is 0"):
        write_phantoms(tmp_path, ["thorax-cxr"], 1, 0, workers=0)


def test_one_patient_at_two_ties_is_two_studies_that_fit_into_one_store(tmp_path):
    manifests = [
        write_phantoms(tmp_path / str(tie), ["thorax-cxr"], 2, 7, workers=1, tube_tie=tie, **SMALL)
        for tie in (0.0, 1.0)
    ]
    loose, tight = (lines_of(manifest) for manifest in manifests)
    assert not {line["study_id"] for line in loose} & {line["study_id"] for line in tight}
    assert [(line["patient_id"], line["split"]) for line in loose] == [
        (line["patient_id"], line["split"]) for line in tight
    ]
    assert {line["tube_tie"] for line in tight} == {"1.0"}
    assert all(line["chest_tube"] == line["pneumothorax"] for line in tight)


@pytest.mark.full
def test_workers_do_not_outlive_a_command_that_was_killed(tmp_path):
    """A process group exists as long as one process of it does."""
    command = [
        sys.executable,
        "-m",
        "mmv_jax.cli",
        "phantom",
        str(tmp_path),
        "--kind",
        "thorax-cxr",
        "--studies",
        "400",
        "--seed",
        "1",
    ]
    command += ["--workers", "2"]  # a machine of one core would paint in the command itself
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.glob("thorax-cxr/*")):  # a worker has written something
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    for _ in range(400):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("workers went on 20 s after their command was killed")
