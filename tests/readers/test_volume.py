"""NIfTI, MHA and NRRD: one orientation whatever the file's, true integers, and what lies or points
elsewhere is refused before it is read.
"""

import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.orientations import inv_ornt_aff

from mmv_jax.readers.read import read_study
from mmv_jax.readers.refused import Refused

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(-1000, 2000, (5, 6, 7)).astype(np.int16)  # [z, y, x], LPS+
SPACING = (2.5, 0.8, 0.7)
ORIGIN = (10.0, -50.0, -100.0)  # (z, y, x) of the first voxel, LPS


def nifti(voxels: np.ndarray = VOXELS, *, kind=nib.Nifti1Image) -> nib.Nifti1Image:
    """`voxels` [z, y, x] as a NIfTI whose axes run left, back, up; NIfTI counts to the right and to
    the front.
    """
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    affine[:3, 3] = -ORIGIN[2], -ORIGIN[1], ORIGIN[0]
    return kind(voxels.transpose(), affine)


def turned(image: nib.Nifti1Image, order, flips) -> nib.Nifti1Image:
    """The same volume with its axes in another order and sense, and the affine that says so."""
    data = np.asarray(image.dataobj).transpose(order)[
        tuple(slice(None, None, flip) for flip in flips)
    ]
    ornt = np.array(
        [[list(order).index(axis), flips[list(order).index(axis)]] for axis in range(3)]
    )
    return nib.Nifti1Image(data, image.affine @ inv_ornt_aff(ornt, image.shape))


def write(image: nib.Nifti1Image, path):
    """nibabel chooses a format by name; the reader under test does not."""
    data = image.to_bytes()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def code_of(path, **claims) -> str:
    with pytest.raises(Refused) as refused:
        read_study(path, **claims)
    return refused.value.code


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.dcm"])
def test_a_nifti_is_a_volume_in_one_order(tmp_path, name):
    study = read_study(write(nifti(), tmp_path / name))
    assert np.array_equal(study.voxels, VOXELS)
    assert (study.voxels.dtype, study.unit, study.ndim) == (np.int16, "raw", 3)
    assert study.spacing_mm == pytest.approx(SPACING)
    assert [study.attributes[f"first_{axis}_mm"] for axis in "zyx"] == pytest.approx(ORIGIN)


@settings(max_examples=48, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(3)), flips=st.tuples(*[st.sampled_from([1, -1])] * 3))
def test_any_order_and_sense_of_axes_gives_the_same_study(tmp_path, order, flips):
    study = read_study(write(turned(nifti(), order, flips), tmp_path / "x"))
    expected = read_study(write(nifti(), tmp_path / "y"))
    assert np.array_equal(study.voxels, expected.voxels)
    assert study.spacing_mm == pytest.approx(expected.spacing_mm)
    assert dict(study.attributes) == pytest.approx(dict(expected.attributes), abs=1e-3)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(degrees=st.floats(-40, 40), axis=st.sampled_from("xyz"))
def test_an_oblique_volume_keeps_its_grid_and_says_so(tmp_path, degrees, axis):
    image = nifti()
    turn = np.deg2rad(degrees)
    plane = [n for n in range(3) if n != "xyz".index(axis)]
    rotation = np.eye(4)
    rotation[np.ix_(plane, plane)] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    study = read_study(
        write(nib.Nifti1Image(np.asarray(image.dataobj), rotation @ image.affine), tmp_path / "x")
    )
    assert np.array_equal(study.voxels, VOXELS)
    assert study.spacing_mm == pytest.approx(SPACING, rel=1e-4)
    assert study.attributes["obliquity_deg"] == pytest.approx(abs(degrees), abs=0.05)


def test_a_sheared_volume_is_refused(tmp_path):
    affine = nifti().affine.copy()
    affine[1, 2] = SPACING[0] * np.tan(np.deg2rad(15))
    assert code_of(write(nib.Nifti1Image(VOXELS.transpose(), affine), tmp_path / "x")) == "sheared"


@pytest.mark.parametrize(
    "dtype, slope, intercept, kind",
    [
        (np.int16, 1, 0, np.int16),
        (np.uint8, 1, 0, np.uint8),
        (np.int16, 1, -1024, np.int16),
        (np.uint16, 1, -1024, np.int16),
        (np.int32, 1, 0, np.int16),
        (np.int16, 1000, 0, np.int32),
        (np.int16, 0.5, 1, np.float32),
        (np.float64, 1, 0, np.float32),
        (np.dtype(">i2"), 1, 0, np.int16),
    ],
)
def test_whole_numbers_stay_whole(tmp_path, dtype, slope, intercept, kind):
    stored = RNG.integers(0, 250, VOXELS.shape).astype(dtype)
    image = nifti(stored)
    image.header.set_slope_inter(slope, intercept)
    data = bytearray(nib.Nifti1Image(stored.transpose(), image.affine, image.header).to_bytes())
    # nibabel would write its own scaling
    data[112:120] = np.array([slope, intercept], image.header.endianness + "f4").tobytes()
    (tmp_path / "x").write_bytes(data)
    study = read_study(tmp_path / "x")
    assert study.voxels.dtype == kind
    assert np.array_equal(study.voxels, stored.astype(float) * slope + intercept)


def test_nifti_2_and_a_fourth_axis_of_length_1_are_read(tmp_path):
    assert np.array_equal(
        read_study(write(nifti(kind=nib.Nifti2Image), tmp_path / "x")).voxels, VOXELS
    )
    image = nifti()
    single = nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine)
    assert np.array_equal(read_study(write(single, tmp_path / "y")).voxels, VOXELS)
    series = nib.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, axis=-1), image.affine)
    assert code_of(write(series, tmp_path / "z")) == "bad_shape"


DEFECTS = {  # header fields of NIfTI-1 changed in place: offset and bytes
    "a NaN in the affine": ("bad_spacing", 280, np.float32(np.nan).tobytes()),
    "an axis of length 0": ("bad_spacing", 280, np.zeros(1, np.float32).tobytes()),
    "no orientation": ("no_orientation", 252, np.zeros(2, np.int16).tobytes()),
    "dimensions that lie": ("too_large", 42, np.full(3, 32000, np.int16).tobytes()),
    "a little more than there is": ("truncated", 42, np.array([7, 6, 9], np.int16).tobytes()),
    "an axis of no voxels": ("no_pixels", 42, np.array([7, 0, 5], np.int16).tobytes()),
    "complex voxels": ("bad_shape", 70, np.array([32, 64], np.int16).tobytes()),
    "voxels within the header": ("corrupt", 108, np.float32(8).tobytes()),
    "a pair of files": ("detached_data", 344, b"ni1\0"),
    "an infinite slope is none, but NaN intercepts are": (
        "corrupt",
        112,
        np.array([2, np.nan], np.float32).tobytes(),
    ),
}


@pytest.mark.parametrize("code, at, data", DEFECTS.values(), ids=DEFECTS.keys())
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
def test_a_header_that_lies_has_its_code(tmp_path, code, at, data, zipped):
    changed = bytearray(nifti().to_bytes())
    changed[at : at + len(data)] = data
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(changed) if zipped else changed)
    assert code_of(path) == code


def test_a_gzip_that_is_cut_or_flipped_is_refused(tmp_path):
    data = write(nifti(), tmp_path / "x.gz").read_bytes()
    (tmp_path / "cut").write_bytes(data[:-20])
    assert code_of(tmp_path / "cut") == "truncated"
    flipped = bytearray(data)
    flipped[-6] ^= 1  # the checksum itself: nibabel alone would not have looked at it
    (tmp_path / "flipped").write_bytes(flipped)
    assert code_of(tmp_path / "flipped") == "corrupt"


def test_a_gzip_bomb_is_refused_before_its_voxels_are_allocated(tmp_path):
    shape = (1024, 1024, 1024)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(tmp_path / "bomb", "wb", 1) as file:
        file.write(header.binaryblock + b"\0" * 4)
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    assert code_of(tmp_path / "bomb") == "too_large"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_nan_and_constant_voxels_are_refused(tmp_path):
    holes = VOXELS.astype(np.float32)
    holes[2, 3, 4] = np.nan
    assert code_of(write(nifti(holes), tmp_path / "x")) == "not_finite"
    holes[2, 3, 4] = np.inf
    assert code_of(write(nifti(holes), tmp_path / "y")) == "not_finite"
    assert code_of(write(nifti(np.full_like(VOXELS, 7)), tmp_path / "z")) == "constant"


def itk_image(voxels: np.ndarray = VOXELS) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin(ORIGIN[::-1])
    return image


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("form, name", [("mha", "x.mha"), ("nrrd", "x.nrrd")])
def test_what_itk_writes_is_read_in_one_order(tmp_path, form, name, compressed):
    # other axes on disk, the same place in the patient
    image = sitk.DICOMOrient(itk_image(), "RAS")
    sitk.WriteImage(image, str(tmp_path / name), useCompression=compressed)
    path = (tmp_path / name).rename(tmp_path / "image.dat")
    study = read_study(path)
    assert np.array_equal(study.voxels, VOXELS)
    assert study.spacing_mm == pytest.approx(SPACING)
    assert [study.attributes[f"first_{axis}_mm"] for axis in "zyx"] == pytest.approx(ORIGIN)


def test_a_meta_image_that_points_elsewhere_is_refused(tmp_path):
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    sitk.WriteImage(itk_image(), str(tmp_path / "x.mha"))
    data = (tmp_path / "x.mha").read_bytes()
    for target in (b"secret.raw", b"/etc/passwd", b"LIST", b"%03d.raw 1 5 1"):
        (tmp_path / "y.mha").write_bytes(
            data.replace(b"ElementDataFile = LOCAL", b"ElementDataFile = " + target)
        )
        assert code_of(tmp_path / "y.mha") == "detached_data"


def test_a_meta_image_that_lies_is_refused(tmp_path):
    sitk.WriteImage(itk_image(), str(tmp_path / "x.mha"))
    data = (tmp_path / "x.mha").read_bytes()
    changes = {
        b"DimSize = 7 6 5": [
            (b"DimSize = 7 6 9", "truncated"),
            (b"DimSize = 9000 9000 90", "too_large"),
            (b"DimSize = 7 0 5", "no_pixels"),
        ],
        b"TransformMatrix": [(b"AnotherMatrix", "no_orientation")],
        b"MET_SHORT": [(b"MET_STRING", "unknown_encoding")],
    }
    for old, variants in changes.items():
        for new, code in variants:
            assert old in data
            (tmp_path / "y.mha").write_bytes(data.replace(old, new))
            assert code_of(tmp_path / "y.mha") == code, new
    (tmp_path / "y.mha").write_bytes(data[:-10])
    assert code_of(tmp_path / "y.mha") == "truncated"


def test_an_nrrd_that_points_elsewhere_is_refused(tmp_path):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag(SPACING[::-1]),
        "space origin": ORIGIN[::-1],
    }
    nrrd.write(str(tmp_path / "x.nhdr"), VOXELS.transpose(), header)
    assert code_of(tmp_path / "x.nhdr") == "detached_data"
    nrrd.write(str(tmp_path / "y.nrrd"), VOXELS.transpose(), {})
    assert code_of(tmp_path / "y.nrrd") == "no_orientation"


def test_an_nrrd_in_the_space_of_another_is_the_same_study(tmp_path):
    header = {
        "space": "right-anterior-superior",
        "space directions": np.diag([-0.7, -0.8, 2.5]),
        "space origin": [100.0, 50.0, 10.0],
    }
    nrrd.write(str(tmp_path / "x.nrrd"), VOXELS.transpose(), header)
    study = read_study(tmp_path / "x.nrrd")
    assert np.array_equal(study.voxels, VOXELS)
    assert [study.attributes[f"first_{axis}_mm"] for axis in "zyx"] == pytest.approx(ORIGIN)


def test_a_large_volume_is_read_in_little_more_than_its_own_size(tmp_path):
    voxels = RNG.integers(-1000, 1000, (64, 256, 256)).astype(np.int16)
    # to be flipped twice
    path = write(
        nib.Nifti1Image(voxels.transpose(), np.diag([1, 1, 2, 1.0])), tmp_path / "x.nii.gz"
    )
    tracemalloc.start()
    study = read_study(path, unit="HU")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(study.voxels, voxels[:, ::-1, ::-1])
    assert peak < 1.5 * voxels.nbytes


@pytest.mark.parametrize(
    "unit, factor", [("meter", 1000), ("mm", 1), ("micron", 0.001), ("unknown", 1)]
)
def test_the_unit_of_length_is_the_headers(tmp_path, unit, factor):
    image = nifti()
    scaled = nib.Nifti1Image(
        np.asarray(image.dataobj), np.diag([1 / factor] * 3 + [1]) @ image.affine
    )
    scaled.header.set_xyzt_units(unit)
    study = read_study(write(scaled, tmp_path / "x"))
    assert study.spacing_mm == pytest.approx(SPACING)
    assert study.attributes["first_z_mm"] == pytest.approx(ORIGIN[0])


def test_the_real_volumes(real_data):
    study = read_study(real_data / "ct" / "heart.nii.gz", unit="HU")
    assert (study.voxels.shape, study.unit, study.voxels.dtype) == ((164, 126, 120), "HU", np.int16)
    reference = nib.as_closest_canonical(nib.load(real_data / "ct" / "abdomen.nii.gz"))
    ours = read_study(real_data / "ct" / "abdomen.nii.gz", unit="HU")
    # RAS+ to LPS+
    assert np.array_equal(ours.voxels, np.asarray(reference.dataobj)[::-1, ::-1].transpose())


def test_a_windowed_ct_is_not_in_hounsfield_units(real_data):
    path = real_data / "ct" / "chest_windowed.mha"
    assert read_study(path, unit="8 bit, windowed").unit == "raw"
    assert read_study(path).unit == "raw"
    assert code_of(path, unit="HU") == "not_hu"
    assert read_study(path).spacing_mm == pytest.approx((2.5, 1.40625, 1.40625))


@pytest.mark.parametrize("name", ["anatomical.nii", "reoriented_anat_moved.nii", "standard.nii.gz"])
def test_nibabels_own_volumes_agree_with_its_canonical_order(name):
    path = Path(nib.__file__).parent / "tests" / "data" / name
    canonical = nib.as_closest_canonical(nib.load(path))
    expected = np.asarray(canonical.dataobj)[::-1, ::-1].transpose()  # RAS+ to LPS+
    study = read_study(path)
    assert np.allclose(study.voxels, expected, rtol=1e-6)
    assert study.spacing_mm == pytest.approx(canonical.header.get_zooms()[2::-1], rel=1e-5)


@pytest.mark.parametrize("name", ["example4d.nii.gz", "functional.nii"])
def test_nibabels_own_series_in_time_are_refused(name):
    assert code_of(Path(nib.__file__).parent / "tests" / "data" / name) == "bad_shape"
