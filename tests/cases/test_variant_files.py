"""Further forms of files that are whole and wrong: two scans in one series, half-written files,
attributes of a wrong VR, fill and padding, values that are no Hounsfield units, masks.
"""

import numpy as np
import pydicom
import pytest
from dicom_files import ct_slice, radiograph, save
from made import body, chest, hounsfield, nifti, png, slices
from PIL import Image
from pydicom.datadict import tag_for_keyword
from test_case_files import code_of, enhanced, told

from mmv_jax.readers.fill import without_fill
from mmv_jax.readers.odd_series import odd_types
from mmv_jax.readers.read import is_smeared, read_mask, read_study
from mmv_jax.readers.refused import Refused

MR = {"Modality": "MR", "RescaleSlope": None, "RescaleIntercept": None}
# what differs -> two values; code where they alternate, warning where one lies above the other
SETTINGS = {
    "ConvolutionKernel": (("B30", "B70"), {}, "several_phases", "mixed_settings"),
    "KVP": ((80, 140), {}, "several_phases", "mixed_settings"),
    "SliceThickness": ((1, 5), {}, "several_phases", "mixed_settings"),
    "ReconstructionDiameter": ((300, 400), {}, "several_phases", "mixed_settings"),
    "PatientPosition": (("HFS", "FFS"), {}, "several_phases", "mixed_settings"),
    "SeriesDescription": (("arterial", "venous"), {}, "several_phases", "mixed_settings"),
    "EchoTime": ((10, 80), MR, "several_phases", "mixed_settings"),
    "DiffusionBValue": ((0.0, 1000.0), MR, "several_phases", "mixed_settings"),
    "InversionTime": ((100, 900), MR, "several_phases", "mixed_settings"),
    "ManufacturerModelName": (("A", "B"), {}, None, "mixed_settings"),
    "SOPClassUID": (("1.2.840.10008.5.1.4.1.1.2", "1.2.3"), {}, None, "mixed_settings"),
    "StudyDate": (("20200101", "20210101"), {}, None, "mixed_settings"),
    "DeviceSerialNumber": (("1", "2"), {}, None, "mixed_settings"),
    "PatientAge": (("050Y", "070Y"), {}, None, "mixed_settings"),
    "ContrastBolusAgent": (("none", "agent"), {}, "several_phases", "mixed_settings"),
    "FrameOfReferenceUID": (("1.2.3", "1.2.4"), {}, "several_series", "several_series"),
    "PatientSex": (("M", "F"), {}, "several_series", "several_series"),
    "PatientName": (("A", "B"), {}, "several_series", "several_series"),
}


@pytest.mark.parametrize("keyword", SETTINGS)
def test_two_scans_in_one_series(tmp_path, keyword):
    values, common, alternating, above = SETTINGS[keyword]
    turns = slices(tmp_path / "turns", **common, **{keyword: lambda k: values[k % 2]})
    if alternating:
        assert code_of(turns) == alternating
    else:
        assert told(read_study(turns)) == [above]
    blocks = slices(tmp_path / "blocks", **common, **{keyword: lambda k: values[k // 3]})
    if above == alternating:
        assert code_of(blocks) == above
    else:
        assert told(read_study(blocks)) == ([above] if above else [])


@pytest.mark.parametrize("slope, codes", [(1, []), (0.5, ["odd_hu"]), (2, ["odd_hu"])])
def test_a_slope_that_no_tissue_has_is_told(tmp_path, slope, codes):
    assert told(read_study(slices(tmp_path / "a", RescaleSlope=slope))) == codes


@pytest.mark.parametrize("spacing, codes", [([1, 1], []), ([0.5, 2], ["odd_spacing"])])
def test_pixels_that_are_not_square_are_told(tmp_path, spacing, codes):
    assert told(read_study(slices(tmp_path / "a", PixelSpacing=spacing))) == codes


AXIAL = ["ORIGINAL", "PRIMARY", "AXIAL"]
TYPES = {
    "derived": ["DERIVED", "SECONDARY", "AXIAL"], "MPR": ["DERIVED", "SECONDARY", "AXIAL", "MPR"],
    "secondary": ["ORIGINAL", "SECONDARY", "AXIAL"], "plane": ["ORIGINAL", "PRIMARY", "OTHER"],
    "MIP": [*AXIAL, "MIP"], "one word": "DERIVED", "none": None,
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_derived_images_among_original_ones(tmp_path, name):
    def blocks(k: int):
        return AXIAL if k < 4 else TYPES[name]

    assert told(read_study(slices(tmp_path / "a", ImageType=blocks))) == ["mixed_settings"]
    turns = slices(tmp_path / "b", ImageType=lambda k: blocks(4 * (k % 2)))
    assert code_of(turns) == "several_phases"
    told_of_frames = [code for code, _ in odd_types([AXIAL, AXIAL, TYPES[name]])]
    assert told_of_frames == ["mixed_settings"]


def test_derived_frames_of_an_enhanced_file(tmp_path):
    dataset = pydicom.dcmread(enhanced(tmp_path / "a.dcm"))
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        kind = pydicom.Dataset()
        kind.FrameType = AXIAL if k < 4 else TYPES["derived"]
        group.CTImageFrameTypeSequence = [kind]
    dataset.save_as(tmp_path / "b.dcm")
    codes = [told(read_study(tmp_path / name)) for name in ("a.dcm", "b.dcm")]
    assert codes == [[], ["mixed_settings"]]


def test_projections_are_told_and_other_types_are_not(tmp_path):
    mip = slices(tmp_path / "a", ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"])
    assert told(read_study(mip)) == ["derived"]
    for n, kind in enumerate((AXIAL, ["DERIVED", "SECONDARY", "MPR"], [*AXIAL, "CT_SOM5 SPI"])):
        assert told(read_study(slices(tmp_path / f"b{n}", ImageType=kind))) == []
    own = slices(tmp_path / "c", ImageType=lambda k: [*AXIAL, f"VENDOR {k}"])
    assert told(read_study(own)) == []


def test_a_counter_or_a_time_that_runs_on_is_no_phase(tmp_path):
    own = {"AcquisitionNumber": lambda k: k + 1, "ContentTime": lambda k: f"10000{k}"}
    study = read_study(slices(tmp_path / "a", SeriesDescription="chest", KVP=120, **own))
    assert told(study) == []


def test_a_name_spelled_in_two_ways_is_one_person_where_an_id_says_so(tmp_path):
    names = {"PatientID": "7", "PatientName": lambda k: ("A^B", "A B")[k // 3]}
    assert read_study(slices(tmp_path / "a", **names)).ndim == 3


def test_a_series_of_which_a_part_is_missing_at_its_end_is_told(tmp_path):
    study = read_study(slices(tmp_path / "a", NumberOfSeriesRelatedInstances=12))
    assert told(study) == ["fewer_slices"]
    study = read_study(slices(tmp_path / "b", NumberOfSeriesRelatedInstances=6))
    assert told(study) == []


@pytest.mark.parametrize("name", ["06.dcm.part", "06.dcm.crdownload", "06.tmp", "06.dcm"])
def test_half_written_slices(tmp_path, name):
    folder = slices(tmp_path / "a")
    content = (folder / "03.dcm").read_bytes()
    (folder / name).write_bytes(b"" if name == "06.dcm" else content[:300])
    assert code_of(folder) == "truncated"
    (folder / name).unlink()
    (folder / "03.dcm").write_bytes(content[:-200])
    assert code_of(folder) == "truncated"


# ---- attributes of a wrong VR: the same value, or refused; never another value


@pytest.mark.parametrize(
    "keyword, vr, value",
    [
        ("PixelSpacing", "OB", b"0.8\\0.7 "), ("PixelSpacing", "UN", b"0.8\\0.7 "),
        ("PixelSpacing", "LT", "0.8\\0.7"), ("PixelSpacing", "LO", "0.8\\0.7"),
        ("PixelSpacing", "FD", [0.8, 0.7]), ("RescaleSlope", "OB", b"1 "),
        ("RescaleSlope", "LO", "1"), ("RescaleIntercept", "OB", b"-1024 "),
        ("RescaleIntercept", "SS", -1024), ("Rows", "IS", "24"), ("BitsStored", "SS", 16),
        ("PixelRepresentation", "IS", "1"), ("Modality", "LO", "ct"), ("RescaleType", "LO", "hu"),
        ("NumberOfFrames", "DS", "1"), ("PixelPaddingValue", "DS", "-2000"),
    ],
)  # fmt: skip
def test_a_wrong_vr_changes_no_value(tmp_path, keyword, vr, value):
    true = read_study(save(ct_slice(body(), 0), tmp_path / "true"))
    study = read_study(with_vr(tmp_path / "a", keyword, vr, value))
    assert (study.unit, study.spacing_mm[1:]) == (true.unit, true.spacing_mm[1:])
    np.testing.assert_array_equal(study.voxels, true.voxels)


def with_vr(path, keyword: str, vr: str, value):
    dataset = ct_slice(body(), 0)
    tag = tag_for_keyword(keyword)
    dataset.pop(tag, None)
    with pydicom.config.disable_value_validation():
        dataset.add_new(tag, vr, value)
        return save(dataset, path)


@pytest.mark.parametrize(
    "keyword, vr, value, code",
    [
        ("RescaleSlope", "LO", "1,0", "corrupt"), ("RescaleIntercept", "LO", "none", "corrupt"),
        ("PixelSpacing", "FD", 0.8, "bad_spacing"), ("Rows", "DS", "24", "unreadable"),
        ("Rows", "OB", b"\x18\0", "corrupt"), ("PixelRepresentation", "CS", "1", "unreadable"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_read_is_refused(tmp_path, keyword, vr, value, code):
    assert code_of(with_vr(tmp_path / "a", keyword, vr, value)) == code


def test_hounsfield_units_of_a_header_that_cannot_be_are_told(tmp_path):
    study = read_study(with_vr(tmp_path / "a", "RescaleIntercept", "US", 64_512))
    assert (study.unit, told(study)) == ("raw", ["not_hu"])


# ---- padding and fill


@pytest.mark.parametrize("value, limit", [(1064, None), (24, 1060)])
def test_padding_among_the_values_is_no_padding(tmp_path, value, limit):
    tags = {"PixelPaddingValue": value, "PixelPaddingRangeLimit": limit}
    assert code_of(save(ct_slice(body(64), 0, **tags), tmp_path / "a")) == "contradictory"


@pytest.mark.parametrize(
    "kind, unit, fill",
    [
        (np.int16, "HU", 32_767), (np.int16, "HU", 30_000), (np.int16, "HU", -5000),
        (np.float32, "HU", 9999), (np.float32, "HU", 32_767), (np.int16, "raw", -32_768),
        (np.int16, "raw", -9999), (np.uint16, "raw", 65_535),
    ],
)  # fmt: skip
def test_fill_of_16_bits_leaves_the_range_of_the_rest(tmp_path, kind, unit, fill):
    true = hounsfield() + (1024 if kind is np.uint16 else 0)
    filled = true.astype(kind)
    filled[:2] = fill
    study = read_study(nifti(tmp_path / "a.nii", filled), unit=unit)
    assert (study.voxels.min(), study.voxels.max()) == (true[2:].min(), true[2:].max())
    assert told(study) == ["fill_values"]


@pytest.mark.parametrize("value", [0, 9999, 65_534, 65_535])
def test_an_image_of_one_value_is_refused_whatever_the_value(tmp_path, value):
    voxels = np.full((12, 12, 12), value, np.uint16)
    assert code_of(nifti(tmp_path / "a.nii", voxels)) == "constant"
    assert without_fill(voxels) is voxels  # as where writing was blanked, after that check


@pytest.mark.parametrize(
    "make",
    [
        lambda v: np.where(v > 600, 9000 + 37 * (np.indices(v.shape).sum(0) % 40), v),  # metal
        lambda v: np.where(v > 600, 3071, v),  # metal, cut off at 12 bits
        lambda v: np.where(v < -900, -3024, v),  # a scanner's padding
    ],
    ids=["metal", "cut-off metal", "padding"],
)
def test_metal_and_usual_padding_are_no_fill(tmp_path, make):
    voxels = make(hounsfield()).astype(np.int16)
    voxels[:2] = hounsfield()[:2]
    study = read_study(nifti(tmp_path / "a.nii", voxels), unit="HU")
    assert (study.voxels.min(), study.voxels.max()) == (voxels.min(), voxels.max())


# ---- values that are no Hounsfield units

SCALES = {
    "a thousandth": (lambda hu: hu / 1000, "not_hu"),
    "plus 1000": (lambda hu: hu + 1000, "not_hu"),
    "negated": (lambda hu: -hu, "not_hu"),
    "12 bits, wrapped": (lambda hu: hu & 0xFFF, "not_hu"),
    "an eighth": (lambda hu: (hu // 8).astype(np.int8), "odd_hu"),
    "a window": (lambda hu: np.clip(hu, -160, 240), "odd_hu"),
    "as they are": (lambda hu: hu, None),
    "cut off at air": (lambda hu: np.clip(hu, -1000, 400), None),
}


@pytest.mark.parametrize("scale", SCALES)
def test_values_that_are_no_hounsfield_units(tmp_path, scale):
    make, code = SCALES[scale]
    path = nifti(tmp_path / "a.nii", make(hounsfield()))
    if code == "not_hu":
        assert code_of(path, unit="HU") == code
    else:
        study = read_study(path, unit="HU")
        assert (study.unit, told(study)) == ("HU", [code] if code else [])


# ---- masks


def picture(tmp_path):
    """A planar study of many values, and a mask of one label."""
    pixels = np.kron(
        np.random.default_rng(0).integers(0, 255, (16, 12), np.uint8), np.ones((8, 8), np.uint8)
    )
    mask = np.zeros((128, 96), np.uint8)
    mask[20:60, 20:60] = 255
    return png(tmp_path / "a.png", pixels), mask


def test_a_mask_that_is_the_image_is_refused(tmp_path):
    path, _ = picture(tmp_path)
    copy = tmp_path / "copy.png"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(Refused, match="the mask is the image itself"):
        read_mask(copy, like=read_study(path))


def test_a_mask_that_was_resized_smoothly_is_refused(tmp_path):
    path, mask = picture(tmp_path)
    study = read_study(path)
    small = Image.fromarray(mask).resize((48, 64), Image.Resampling.BILINEAR)
    smooth = np.asarray(small.resize((96, 128), Image.Resampling.BILINEAR))
    with pytest.raises(Refused, match="lossy_mask"):
        read_mask(png(tmp_path / "m.png", smooth), like=study)
    plain = np.asarray(Image.fromarray(mask).resize((48, 64), Image.Resampling.NEAREST).resize(
        (96, 128), Image.Resampling.NEAREST))  # fmt: skip
    assert set(np.unique(read_mask(png(tmp_path / "n.png", plain), like=study))) == {0, 255}


def test_masks_of_many_labels_are_not_smeared():
    rng = np.random.default_rng(0)
    organs = np.kron(rng.integers(0, 118, (1, 8, 8)), np.ones((1, 8, 8), int)).astype(np.int16)
    lesions = np.zeros((1, 64, 64), np.int16)
    lesions[0, 5:40, 5:40] = 20
    for n in range(1, 9):
        lesions[0, 45:49, 6 * n : 6 * n + 4] = n
    assert not is_smeared(organs) and not is_smeared(lesions) and not is_smeared(organs * 0)


def test_a_radiograph_of_one_padding_is_read_as_before(tmp_path):
    stored = chest()
    stored[:, :8] = 0
    path = save(radiograph(stored, PixelPaddingValue=0), tmp_path / "a")
    assert read_study(path).voxels.min() == stored[:, 8:].min()
