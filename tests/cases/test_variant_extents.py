"""Sizes in mm that no body has, oblong pixels, pictures that a header calls mirrored."""

import numpy as np
import pytest
from dicom_files import radiograph, save
from made import chest, hounsfield, nifti, png
from test_case_files import code_of, told

from mmv_jax.readers.odd_extent import odd_extent
from mmv_jax.readers.read import read_study
from mmv_jax.study import Study

NAN = float("nan")


def dx(folder, **changes):
    return save(radiograph(chest(), **changes), folder / "a.dcm")


@pytest.mark.parametrize("mm", [0.0014, 140.0])
def test_a_radiograph_of_another_unit_is_refused(tmp_path, mm):
    assert code_of(dx(tmp_path, ImagerPixelSpacing=[mm, mm])) == "bad_spacing"


@pytest.mark.parametrize("mm, right", [(1e-6, False), (0.000143, False), (0.143, True)])
def test_a_spacing_of_a_manifest_in_another_unit_is_refused(tmp_path, mm, right):
    path = png(tmp_path / "a.png")
    if right:
        assert told(read_study(path, spacing_mm=mm)) == []
    else:
        assert code_of(path, spacing_mm=mm) == "bad_spacing"


@pytest.mark.parametrize(
    "pixels, mm, modality, count",
    [
        (2000, 0.0143, "CXR", 1), (2000, 1.43, "CXR", 1), (2000, 0.143, "CXR", 0),
        (512, 0.7, "CXR", 0), (64, 0.143, "CXR", 0), (2000, NAN, "CXR", 0),
        (2000, 0.005, "MG", 1), (3000, 0.07, "MG", 0), (600, 0.05, "DX", 0),
        (12000, 0.14, "DX", 0), (2000, 1.4, "DX", 1),
    ],
)  # fmt: skip
def test_an_image_that_is_too_small_or_too_large_is_told(pixels, mm, modality, count):
    voxels = np.broadcast_to(np.int16(0), (1, pixels, 100))
    assert len(odd_extent(Study(voxels, (NAN, mm, mm), 2, "raw"), modality)) == count


@pytest.mark.parametrize(
    "spacing, count",
    [
        ((1, 1, 1), 0), ((5, 0.7, 0.7), 0), ((0.625, 0.97, 0.97), 0), ((0.25, 0.98, 0.98), 0),
        ((0.07, 0.7, 0.7), 1), ((0.7, 0.7, 0.07), 1), ((1, 2, 0.5), 1), ((3, 1, 0.5), 1),
        ((0.7, 3, 0.7), 0), ((2.5, 0.8, 0.7), 0),
    ],
)  # fmt: skip
def test_voxels_that_no_scanner_makes_are_told(tmp_path, spacing, count):
    z, y, x = spacing
    path = nifti(tmp_path / "a.nii", hounsfield(), sform=np.diag([x, y, z, 1.0]))
    found = odd_extent(read_study(path, unit="HU"), "CT")
    assert [code for code, _ in found] == ["odd_spacing"] * count


@pytest.mark.parametrize(
    "changes, codes",
    [
        ({"ImagerPixelSpacing": [0.14, 0.28]}, ["odd_spacing"]),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": [2, 1]}, ["odd_spacing"]),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": [1, 1]}, []),
        ({"PixelSpacing": [0.5, 0.5]}, ["odd_spacing"]),  # at the detector 0.14
        ({"PixelSpacing": [0.5, 0.5], "PixelSpacingCalibrationType": "FIDUCIAL"}, []),
        ({"PixelSpacing": [0.125, 0.125]}, []),
        ({"PixelSpacing": [0.014, 0.014]}, ["odd_spacing"]),
    ],
)
def test_spacings_of_a_radiograph_that_cannot_be_true_are_told(tmp_path, changes, codes):
    assert told(read_study(dx(tmp_path, **changes))) == codes


@pytest.mark.parametrize(
    "words, codes",
    [
        (["L", "F"], []), (["LF", "FR"], []), (["P", "F"], []), (["A", "F"], []), (None, []),
        (["R", "F"], ["turned"]), (["L", "H"], ["turned"]), (["F", "L"], ["turned"]),
        (["H", "A"], ["turned"]),
    ],
)  # fmt: skip
def test_a_picture_that_its_header_calls_mirrored_or_turned_is_told(tmp_path, words, codes):
    assert told(read_study(dx(tmp_path, PatientOrientation=words))) == codes


def test_limbs_and_breasts_lie_in_any_way(tmp_path):
    for changes in ({"BodyPartExamined": "HAND"}, {"Modality": "MG"}):
        study = read_study(dx(tmp_path, PatientOrientation=["R", "F"], **changes))
        assert told(study) == []
