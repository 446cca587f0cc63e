"""Single DICOM files: true values, tissue bright, spacing at the patient; every transfer syntax by
its decoder.
"""

import struct
import zlib

import numpy as np
import pydicom
import pytest
from dicom_files import SPACING, ct_slice, image, radiograph, save, stored_volume
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from mmv_jax.readers.pixels import DECODER
from mmv_jax.readers.read import read_study
from mmv_jax.readers.refused import Refused

STORED = np.random.default_rng(0).integers(0, 4096, (20, 16)).astype(np.uint16)


def shipped(name: str):
    """A file of pydicom's own wheel."""
    path = get_testdata_file(name, download=False)
    assert path, name
    return path


def code_of(path) -> str:
    with pytest.raises(Refused) as refused:
        read_study(path)
    return refused.value.code


def test_a_radiograph_is_planar_and_raw(tmp_path):
    study = read_study(save(radiograph(STORED), tmp_path / "x"))
    assert np.array_equal(study.voxels[0], STORED)
    assert (study.ndim, study.unit) == (2, "raw")
    assert np.isnan(study.spacing_mm[0])
    assert study.spacing_mm[1:] == (0.14, 0.14)


def test_the_name_of_a_file_says_nothing(tmp_path):
    assert read_study(save(radiograph(STORED), tmp_path / "x.png")).ndim == 2
    (tmp_path / "y.dcm").write_text("this is text, whatever it is called\n" * 9)
    assert code_of(tmp_path / "y.dcm") == "not_an_image"


def test_monochrome1_is_inverted_over_its_stored_bits(tmp_path):
    study = read_study(
        save(radiograph(STORED, PhotometricInterpretation="MONOCHROME1"), tmp_path / "x")
    )
    assert np.array_equal(study.voxels[0], 4095 - STORED)


def test_hounsfield_units_are_never_inverted(tmp_path):
    stored = stored_volume(1)[0]
    study = read_study(
        save(ct_slice(stored, 0, PhotometricInterpretation="MONOCHROME1"), tmp_path / "x")
    )
    assert np.array_equal(study.voxels[0], stored - 1024)


def test_padding_is_as_dark_as_the_darkest_pixel(tmp_path):
    stored = np.maximum(STORED, 7)
    stored[:, :3] = 4095  # white frame of a MONOCHROME1 picture: dark after inversion
    dataset = radiograph(stored, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=4095)
    study = read_study(save(dataset, tmp_path / "x"))
    assert (study.voxels[0, :, :3] == 4095 - stored[:, 3:].max()).all()


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"ImagerPixelSpacing": [0.14, 0.16]}, (0.14, 0.16)),
        ({"EstimatedRadiographicMagnificationFactor": 1.75}, (0.08, 0.08)),
        ({"PixelSpacing": [0.1, 0.1], "PixelSpacingCalibrationType": "GEOMETRY"}, (0.1, 0.1)),
        ({"PixelSpacing": [0.1, 0.1]}, (0.1, 0.1)),
        (
            {"PixelSpacing": [0.14, 0.14], "EstimatedRadiographicMagnificationFactor": 1.75},
            (0.08, 0.08),
        ),
        ({"ImagerPixelSpacing": None, "NominalScannedPixelSpacing": [0.05, 0.05]}, (0.05, 0.05)),
    ],
    ids=[
        "at the detector",
        "magnified",
        "calibrated",
        "differs, so calibrated",
        "repeats the detector's",
        "scanned film",
    ],
)
def test_the_spacing_of_a_projection_is_at_the_patient(tmp_path, changes, expected):
    study = read_study(save(radiograph(STORED, **changes), tmp_path / "x"))
    assert study.spacing_mm[1:] == pytest.approx(expected)


@pytest.mark.parametrize(
    "changes, unit",
    [
        ({}, "HU"),
        ({"RescaleType": "HU"}, "HU"),
        ({"Modality": "OT", "RescaleType": "HU"}, "HU"),
        ({"RescaleType": "US"}, "raw"),
        ({"RescaleSlope": None}, "raw"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "raw"),
        ({"Modality": "MR"}, "raw"),
        ({"RescaleIntercept": 0}, "raw"),
    ],
    ids=[
        "CT",
        "says HU",
        "another modality that says HU",
        "unspecified",
        "not rescaled",
        "localizer",
        "MR",
        "no negative value",
    ],
)
def test_hu_only_where_the_file_says_so(tmp_path, changes, unit):
    assert (
        read_study(save(ct_slice(stored_volume(1)[0], 0, **changes), tmp_path / "x")).unit == unit
    )


def enhanced(stored: np.ndarray, positions=None, **changes) -> Dataset:
    """A multi-frame CT of `stored` [frames, rows, columns], positions and slopes in its functional
    groups.
    """

    def item(**values) -> Sequence:
        inner = Dataset()
        for keyword, value in values.items():
            setattr(inner, keyword, value)
        return Sequence([inner])

    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = item(PixelSpacing=list(SPACING[1:]))
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelValueTransformationSequence = item(
        RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU"
    )
    for z in positions if positions is not None else np.arange(len(stored)) * SPACING[0]:
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=[0, 0, float(z)])
        frames.append(frame)
    values = {
        "SOPClassUID": EnhancedCTImageStorage,
        "SOPInstanceUID": "1.2.3",
        "Modality": "CT",
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
    }
    return image(stored, **{**values, **changes})


def test_frames_are_stacked_by_position(tmp_path):
    stored = stored_volume(4)
    study = read_study(save(enhanced(stored, positions=[7.5, 0.0, 5.0, 2.5]), tmp_path / "x"))
    assert np.array_equal(study.voxels, stored[[1, 3, 2, 0]] - 1024)
    assert (study.unit, study.ndim) == ("HU", 3)
    assert study.spacing_mm == pytest.approx(SPACING)


def test_frames_without_positions_are_no_volume(tmp_path):
    dataset = enhanced(stored_volume(4), PerFrameFunctionalGroupsSequence=None)
    assert code_of(save(dataset, tmp_path / "x")) == "no_position"


def test_a_missing_frame_is_refused(tmp_path):
    assert (
        code_of(save(enhanced(stored_volume(4), positions=[0, 2.5, 7.5, 10]), tmp_path / "x"))
        == "missing_slices"
    )


LOSSLESS_TWINS = [  # the same picture in another transfer syntax: files of pydicom
    ("MR_small_RLE.dcm", "MR_small.dcm"),
    ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
    ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
    ("MR_small_bigendian.dcm", "MR_small.dcm"),
    ("MR_small_implicit.dcm", "MR_small.dcm"),
]


@pytest.mark.parametrize("name, twin", LOSSLESS_TWINS)
def test_every_lossless_syntax_gives_the_same_pixels(name, twin):
    assert np.array_equal(read_study(shipped(name)).voxels, read_study(shipped(twin)).voxels)


def test_extended_jpeg_of_12_bits_is_read_where_its_twin_is_jpeg_2000():
    ours = read_study(shipped("JPGExtended.dcm")).voxels.astype(int)
    # the same nuclear medicine picture, compressed otherwise, and not exactly
    other = read_study(shipped("JPEG2000.dcm")).voxels.astype(int)
    assert ours.shape == other.shape
    assert np.corrcoef(ours.ravel(), other.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("name", ["J2K_pixelrep_mismatch.dcm", "693_J2KI.dcm"])
def test_signed_jpeg_2000_of_a_ct_is_in_hounsfield_units(name):
    study = read_study(shipped(name))
    assert study.unit == "HU"
    assert -60 < np.median(study.voxels[study.voxels > -300]) < 120  # soft tissue


def test_lossless_jpeg_keeps_every_bit(tmp_path):
    import imagecodecs

    # 12 bits, of which the highest is the sign
    signed = (STORED.astype(np.int32) - 2048).astype(np.int16)
    for stored in (STORED, signed):
        data = imagecodecs.ljpeg_encode(stored.view(np.uint16) & 0xFFF, bitspersample=12)
        dataset = radiograph(stored, TransferSyntaxUID="1.2.840.10008.1.2.4.70")
        dataset.PixelData = pydicom.encaps.encapsulate([data])
        assert np.array_equal(read_study(save(dataset, tmp_path / "x")).voxels[0], stored)


@pytest.mark.parametrize("photometric, colorspace", [("YBR_FULL_422", "YCBCR"), ("RGB", "RGB")])
def test_grey_in_a_colour_jpeg_is_read_in_either_colour_space(tmp_path, photometric, colorspace):
    import imagecodecs

    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (32, 1))
    data = imagecodecs.jpeg8_encode(
        np.stack([ramp] * 3, axis=-1), level=95, colorspace="RGB", outcolorspace=colorspace
    )
    changes = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": photometric,
        "PlanarConfiguration": 0,
        "BitsStored": 8,
    }
    dataset = radiograph(ramp, TransferSyntaxUID="1.2.840.10008.1.2.4.50", **changes)
    dataset.PixelData = pydicom.encaps.encapsulate([data])
    assert np.abs(read_study(save(dataset, tmp_path / "x")).voxels[0].astype(int) - ramp).max() <= 4


def test_grey_that_is_stored_as_colour_is_read_and_colour_is_refused():
    assert read_study(shipped("SC_rgb_jpeg_dcmd.dcm")).voxels.shape == (1, 256, 256)
    for name in (
        "SC_rgb_rle.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "examples_palette.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
    ):
        assert code_of(shipped(name)) == "colour"


def test_objects_that_are_no_images_are_told_so():
    for name in (
        "rtplan.dcm",
        "rtstruct.dcm",
        "test-SR.dcm",
        "rtdose.dcm",
        "waveform_ecg.dcm",
        "liver_1frame.dcm",
    ):
        assert code_of(shipped(name)) == "not_an_image"


def test_each_syntax_has_one_decoder_that_is_there():
    for syntax, plugin in DECODER.items():
        if plugin != "imagecodecs":
            assert plugin in pydicom.pixels.get_decoder(syntax).available_plugins


def test_video_is_refused(tmp_path):
    dataset = radiograph(STORED, TransferSyntaxUID=MPEG2MPML)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
    assert code_of(save(dataset, tmp_path / "x")) == "unknown_encoding"


@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
def test_no_pixels(tmp_path, keyword):
    assert code_of(save(radiograph(STORED, **{keyword: 0}), tmp_path / "x")) == "no_pixels"
    assert code_of(save(radiograph(STORED, PixelData=None), tmp_path / "y")) == "no_pixels"


def test_a_constant_picture_is_refused(tmp_path):
    assert code_of(save(radiograph(np.full((4, 4), 9, np.uint16)), tmp_path / "x")) == "constant"


def test_a_header_that_lies_about_its_size_is_refused_before_allocation(tmp_path):
    assert (
        code_of(save(radiograph(STORED, Rows=60_000, Columns=60_000), tmp_path / "native"))
        == "too_large"
    )
    assert (
        code_of(save(radiograph(STORED, Rows=20_000, Columns=20_000), tmp_path / "short"))
        == "truncated"
    )
    dataset = radiograph(STORED)
    dataset.compress(RLELossless)
    dataset.Rows = dataset.Columns = 20_000
    assert code_of(save(dataset, tmp_path / "compressed")) == "too_large"


def test_a_frame_of_another_size_than_the_header_says_is_refused(tmp_path):
    dataset = radiograph(np.tile(STORED, (4, 4)))
    dataset.compress(JPEG2000Lossless)
    dataset.Rows = 200
    assert code_of(save(dataset, tmp_path / "x")) == "corrupt"


def test_a_jpeg_ls_frame_without_its_end_is_truncated_and_costs_no_time(tmp_path):
    dataset = radiograph(np.tile(STORED, (4, 4)))
    dataset.compress(JPEGLSLossless)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 2]])
    assert code_of(save(dataset, tmp_path / "x")) == "truncated"


def deflated(inflated: bytes) -> bytes:
    """A DICOM file in the deflated syntax that holds `inflated`."""
    syntax = DeflatedExplicitVRLittleEndian.encode()
    syntax += b"\0" * (len(syntax) % 2)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(element))
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return b"\0" * 128 + b"DICM" + length + element + packer.compress(inflated) + packer.flush()


def test_a_deflated_file_is_read_and_a_bomb_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    dataset = radiograph(STORED, TransferSyntaxUID=DeflatedExplicitVRLittleEndian)
    assert np.array_equal(read_study(save(dataset, tmp_path / "x")).voxels[0], STORED)
    (tmp_path / "bomb").write_bytes(deflated(b"\0" * (400 << 20)))
    monkeypatch.setattr(
        pydicom, "dcmread", lambda *_, **__: pytest.fail("the bomb was inflated whole")
    )
    assert (tmp_path / "bomb").stat().st_size < 2 << 20
    assert code_of(tmp_path / "bomb") == "too_large"


def test_the_real_ct_slice():
    study = read_study(shipped("CT_small.dcm"))
    expected = pydicom.dcmread(shipped("CT_small.dcm"))
    assert np.array_equal(study.voxels[0], expected.pixel_array.astype(int) - 1024)
    assert study.unit == "HU"
    assert study.attributes["kvp"] == expected.KVP
