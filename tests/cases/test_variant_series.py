"""Further series and tables that are plausible and wrong: spacings that mirror or contradict, two
intercepts, lost slices with stray voxels, a pipe among slices, one class in two spellings.
"""

import os

import numpy as np
import pytest
from made import body, hounsfield, nifti, slices
from test_case_files import code_of, told
from test_variant_tables import told as told_of_column

from mmv_jax.readers.read import read_study


@pytest.mark.parametrize("spacing", [[-0.7, -0.7], [-0.7, 0.7], [0, 0.7]])
def test_a_spacing_that_mirrors_is_refused(tmp_path, spacing):
    assert code_of(slices(tmp_path / "a", PixelSpacing=spacing)) == "bad_spacing"


@pytest.mark.parametrize(
    "stated, codes", [(1.0, []), (-1.0, []), (1.02, []), (3.0, ["odd_spacing"]), (None, [])]
)
def test_a_distance_of_slices_against_their_positions_is_told(tmp_path, stated, codes):
    study = read_study(slices(tmp_path / "a", SpacingBetweenSlices=stated))
    assert (study.spacing_mm[0], told(study)) == (1.0, codes)


def test_two_intercepts_of_one_ct_are_told(tmp_path):
    folder = slices(tmp_path / "a", RescaleIntercept=lambda k: -1024 if k < 3 else -1000)
    # The values themselves step as well.
    assert told(read_study(folder)) == ["mixed_settings", "odd_slices"]


def test_a_lost_slice_with_stray_voxels_is_refused(tmp_path):
    voxels = hounsfield(48)
    voxels[:, :, 5] = -1024
    voxels[0, 0, 5] = -1000
    assert code_of(nifti(tmp_path / "a.nii", voxels), unit="HU") == "bad_slice"
    # the ends of a volume may be empty
    voxels = hounsfield(48)
    voxels[:, :, 0] = -1024
    voxels[0, 0, 0] = -1000
    assert told(read_study(nifti(tmp_path / "b.nii", voxels), unit="HU")) == []


def test_a_pipe_among_slices_is_left_out_and_told(tmp_path):
    folder = slices(tmp_path / "a", stored=lambda k: body(seed=k))
    os.mkfifo(folder / "pipe")
    study = read_study(folder)
    assert len(study.voxels) == 6 and told(study) == ["stray_files"]
    np.testing.assert_array_equal(study.spacing_mm, 1.0)


@pytest.mark.parametrize(
    "values, count",
    [
        (("Yes", "yes", "no"), 1), (("Left", "left", "right"), 1), (("M", "male", "F"), 1),
        (("L", "left"), 1), (("a  b", "a b"), 1), (("yes", "no"), 0), (("M", "F"), 0),
        (("left", "right"), 0), (("PA", "AP"), 0),
    ],
)  # fmt: skip
def test_a_class_in_two_spellings_is_told(values, count):
    assert told_of_column("c1", list(values) * 3) == [(2, "odd_column")] * count
