"""The measurement of docs/results.md of kernels and shifts: its places and its yardstick."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from measured_shifts import CROP, FOUND, MOVED, SCANS, TURNED, _cells, _distances, write_places

DATA = Path(__file__).parents[3] / "shared" / "data"
MEASURED = Path(__file__).parents[2] / "docs" / "measured" / "kernels.json"


def test_both_kernels_are_cut_at_the_same_places_of_the_body(tmp_path):
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    affine[:3, 3] = 100.0, 90.0, -40.0
    body = np.full((150, 150, 20), -1000.0)
    body[:90] = 0.0
    (tmp_path / "ct").mkdir()
    for n, name in enumerate(SCANS):
        voxels = (body + n + rng.normal(size=body.shape)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "ct" / f"{name}.nii.gz")
    manifest = write_places(tmp_path, tmp_path)
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 4 and {row["scan"] for row in rows} == {"0", "1"}
    first, second = (nib.load(tmp_path / row["path"]) for row in rows[-2:])
    assert first.shape == CROP
    np.testing.assert_array_equal(first.affine, second.affine)
    # The voxel at the crop's corner is where the affine says that it is in the whole scan.
    at = np.linalg.solve(affine, first.affine[:, 3])[:3].round().astype(int)
    whole = np.asanyarray(nib.load(tmp_path / "ct" / f"{SCANS[0]}.nii.gz").dataobj)
    assert whole[tuple(at)] == np.asanyarray(first.dataobj)[0, 0, 0]


def test_the_yardstick_is_a_distance_between_patients():
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(40, 8))
    between = np.median(_distances(plain, plain)[np.triu_indices(40, 1)])
    direct = np.linalg.norm(plain[:1] - plain, axis=1)
    np.testing.assert_allclose(_distances(plain[:1], plain)[0], direct, atol=1e-6)
    step = np.zeros_like(plain)
    step[:, 0] = between / 4
    found = _cells(plain, plain + step, np.full(40, 0.5), between, 2.0)
    assert found[MOVED]["value"] == pytest.approx(0.25)
    assert found[TURNED]["value"] == pytest.approx(0.25)
    assert found[FOUND]["value"] > 90
    assert _cells(plain, plain[::-1], np.zeros(40), between, 1.0)[FOUND]["value"] < 10


def test_the_recorded_figures_are_of_two_kernels_and_four_shifts():
    found = json.loads(MEASURED.read_text())["metrics"]
    assert len(found) == 5
    for row in found.values():
        assert {"chest-mini", "random weights"} == set(row)
        assert all(own[MOVED]["value"] > 0 for own in row.values())
