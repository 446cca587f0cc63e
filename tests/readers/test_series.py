"""A folder of slices -> one volume: order by position, true HU, one orientation, and a name for
each defect.
"""

import numpy as np
import pytest
from dicom_files import SPACING, ct_slice, save, stored_volume, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmv_jax.readers.read import read_study
from mmv_jax.readers.refused import Refused


def code_of(path) -> str:
    with pytest.raises(Refused) as refused:
        read_study(path)
    return refused.value.code


def tilted(k: int) -> list[float]:
    return [-100.0, -50.0 + k * SPACING[0] * np.tan(np.deg2rad(15)), 10 + k * SPACING[0]]


def at(z: float) -> list[float]:
    return [-100.0, -50.0, z]


def test_a_series_is_a_volume_in_hounsfield_units(tmp_path):
    stored = stored_volume()
    study = read_study(write_series(tmp_path, stored))
    assert np.array_equal(study.voxels, stored - 1024)
    assert (study.voxels.dtype, study.unit, study.ndim) == (np.int16, "HU", 3)
    assert study.spacing_mm == pytest.approx(SPACING)
    assert study.attributes["kvp"] == 120
    assert [study.attributes[f"first_{axis}_mm"] for axis in "zyx"] == [10, -50, -100]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(6)), numbers=st.lists(st.integers(0, 99), min_size=6, max_size=6)
)
def test_shuffled_names_and_numbers_give_the_same_volume(tmp_path_factory, order, numbers):
    stored = stored_volume(6, 4, 3)
    folder = tmp_path_factory.mktemp("shuffled")
    write_series(
        folder, stored, names=[f"{n}.dcm" for n in order], InstanceNumber=lambda k: numbers[k]
    )
    assert np.array_equal(read_study(folder).voxels, stored - 1024)


def test_a_sagittal_series_lands_in_the_same_order_of_axes(tmp_path):
    truth = stored_volume(5, 6, 7)  # [z, y, x]
    for n in range(7):  # slices along x, rows run down (-z), columns run back (y)
        plane = np.ascontiguousarray(truth[::-1, :, n])
        position = [-100.0 + n * 0.7, -50.0, 10.0 + 4 * 2.5]
        changes = {
            "ImagePositionPatient": position,
            "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
            "PixelSpacing": [2.5, 0.8],
        }
        save(ct_slice(plane, n, **changes), tmp_path / f"{n}.dcm")
    study = read_study(tmp_path)
    assert np.array_equal(study.voxels, truth - 1024)
    assert study.spacing_mm == pytest.approx((2.5, 0.8, 0.7))


def test_slope_may_change_within_a_series(tmp_path):
    stored = stored_volume()
    study = read_study(write_series(tmp_path, stored, RescaleSlope=lambda k: 1 + k % 2))
    slopes = np.array([1 + k % 2 for k in range(len(stored))], np.int32)[:, None, None]
    assert np.array_equal(study.voxels, stored.astype(np.int32) * slopes - 1024)


def test_a_fractional_slope_makes_float32(tmp_path):
    stored = stored_volume()
    study = read_study(write_series(tmp_path, stored, RescaleSlope=0.5))
    assert study.voxels.dtype == np.float32
    assert np.array_equal(study.voxels, stored * np.float32(0.5) - 1024)


def test_whole_numbers_beyond_16_bits_grow_to_32(tmp_path):
    stored = stored_volume()
    stored[5, 0, 0] = 2000
    study = read_study(write_series(tmp_path, stored, RescaleSlope=lambda k: 40 if k == 5 else 1))
    assert study.voxels.dtype == np.int32
    assert study.voxels[5, 0, 0] == 40 * 2000 - 1024
    assert np.array_equal(study.voxels[:5], stored[:5] - 1024)


def test_padding_is_air(tmp_path):
    stored = stored_volume()
    stored[:, 0] = -2000
    study = read_study(write_series(tmp_path, stored, PixelPaddingValue=-2000))
    assert (study.voxels[:, 0] == -1024).all()
    assert np.array_equal(study.voxels[:, 1:], stored[:, 1:] - 1024)


DEFECTS = {
    "missing slice": (
        "missing_slices",
        {"ImagePositionPatient": lambda k: at(2.5 * (k + (k > 3)))},
    ),
    "a gap near the start": (
        "missing_slices",
        {"ImagePositionPatient": lambda k: at([0, 2.5, 7.5, 10, 12.5, 15, 17.5, 20][k])},
    ),
    "two slices at one place": (
        "duplicate_slices",
        {"ImagePositionPatient": lambda k: at(2.5 * (k - (k > 3)))},
    ),
    "all slices at one place": ("duplicate_slices", {"ImagePositionPatient": at(0)}),
    "a slice 0.6 mm off": (
        "uneven_slices",
        {"ImagePositionPatient": lambda k: at(2.5 * k + 0.6 * (k == 3))},
    ),
    "a slice beside the others": (
        "uneven_slices",
        {"ImagePositionPatient": lambda k: [-100.0 + 5 * (k == 3), -50.0, 2.5 * k]},
    ),
    "a tilted gantry": ("sheared", {"ImagePositionPatient": tilted}),
    "two orientations": (
        "mixed_orientation",
        {
            "ImageOrientationPatient": lambda k: (
                [1, 0, 0, 0, 0, -1] if k == 3 else [1, 0, 0, 0, 1, 0]
            )
        },
    ),
    "two pixel spacings": ("mixed_size", {"PixelSpacing": lambda k: [0.8, 0.7 + 0.1 * (k == 3)]}),
    "no position": (
        "no_position",
        {"ImagePositionPatient": lambda k: None if k == 3 else at(2.5 * k)},
    ),
    "no orientation": ("no_position", {"ImageOrientationPatient": None}),
    "cosines that are no rotation": (
        "bad_spacing",
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
    ),
    "two series": ("several_series", {"SeriesInstanceUID": lambda k: f"1.2.{k // 4}"}),
    "HU in some slices": ("mixed_unit", {"RescaleType": lambda k: "US" if k == 3 else "HU"}),
    "zero pixel spacing": ("bad_spacing", {"PixelSpacing": [0, 0]}),
    "pixels of 60 mm": ("bad_spacing", {"PixelSpacing": [60, 60]}),
    "slices 80 mm apart": ("bad_spacing", {"ImagePositionPatient": lambda k: at(80 * k)}),
}


@pytest.mark.parametrize("code, changes", DEFECTS.values(), ids=DEFECTS.keys())
def test_a_defect_of_geometry_has_its_name(tmp_path, code, changes):
    assert code_of(write_series(tmp_path, stored_volume(), **changes)) == code


def test_a_slice_of_another_size_is_refused(tmp_path):
    write_series(tmp_path, stored_volume())
    save(ct_slice(stored_volume(1, 6, 6)[0], 8), tmp_path / "008.dcm")
    assert code_of(tmp_path) == "mixed_size"


def test_a_text_file_among_the_slices_is_refused_and_a_note_is_not(tmp_path):
    write_series(tmp_path, stored_volume())
    (tmp_path / "annotations.xml").write_text("<reading/>")
    (tmp_path / ".hidden").write_text("x")
    assert read_study(tmp_path).voxels.shape == (8, 12, 10)
    (tmp_path / "008.dcm").write_text("this is text")
    assert code_of(tmp_path) == "not_an_image"


def test_a_truncated_slice_is_refused(tmp_path):
    path = write_series(tmp_path, stored_volume()) / "004.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    assert code_of(tmp_path) == "truncated"


def test_an_empty_folder_is_refused(tmp_path):
    assert code_of(tmp_path) == "no_pixels"


def test_rounded_positions_are_no_defect(tmp_path):
    rng = np.random.default_rng(1)
    stored = stored_volume(20)
    study = read_study(
        write_series(
            tmp_path,
            stored,
            ImagePositionPatient=lambda k: at(round(2.5 * k + rng.uniform(-0.01, 0.01), 2)),
        )
    )
    assert study.spacing_mm[0] == pytest.approx(2.5, abs=0.01)


def test_the_real_series(real_data):
    study = read_study(real_data / "ct" / "abdomen_dicom")
    assert (study.voxels.shape, study.unit, study.voxels.dtype) == ((20, 512, 512), "HU", np.int16)
    assert study.voxels.min() == -1024
    assert 0 <= np.median(study.voxels[:, 200:300, 200:300]) < 120  # soft tissue in the middle
