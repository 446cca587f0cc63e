"""Files that are whole and wrong, read by the front door of the readers: values, padding, geometry,
series and masks. Each is refused by name, told, or right.
"""

import os

import nibabel as nib
import numpy as np
import pytest
from dicom_files import ct_slice, radiograph, save
from hypothesis import given, settings
from hypothesis import strategies as st
from made import (
    body,
    chest,
    encoded,
    hounsfield,
    labels,
    low_bit_png,
    meta_image,
    nifti,
    nrrd,
    outside,
    png,
    ramp,
    slices,
)
from PIL import Image
from pydicom.dataset import Dataset

from mmv_jax.readers.fill import without_fill
from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.series import rounded_places
from mmv_jax.store.intensity import to_int16


def code_of(path, **options) -> str | None:
    try:
        read_study(path, **options)
    except Refused as why:
        return why.code
    return None


def told(study) -> list[str]:
    return [code for code, _ in study.told]


# ---- intensities


@pytest.mark.parametrize(
    "kind, fill",
    [
        (np.int32, -(2**31)), (np.int32, 2**31 - 1), (np.float32, -1e9), (np.float32, -3.4e38),
        (np.float32, -1e6), (np.float32, -99_999), (np.float64, 1e20), (np.int16, -32_768),
        (np.int32, -100_000),
    ],
)  # fmt: skip
def test_fill_values(tmp_path, kind, fill):
    true = hounsfield()
    filled = true.astype(kind)
    filled[:2] = fill
    study = read_study(nifti(tmp_path / "a.nii", filled), unit="HU")
    stored = to_int16(study.voxels)
    kept = (stored.voxels * stored.slope + stored.intercept).T[::-1, ::-1]
    np.testing.assert_allclose(kept[2:], true[2:], atol=1)
    assert kept[:2].min() > -1100
    assert told(study) == ["fill_values"]


@given(
    spread=st.floats(1e-3, 1e4),
    shift=st.floats(-1e3, 1e3),
    far=st.floats(4, 25),
    side=st.booleans(),
)
@settings(max_examples=40)
def test_fill_of_any_scale_leaves_the_rest_its_steps(spread, shift, far, side):
    true = np.random.default_rng(0).normal(shift, spread, (6, 8, 8)).astype(np.float32)
    filled = true.copy()
    filled[0] = (1 if side else -1) * (abs(shift) + spread) * 10**far
    kept = without_fill(filled)
    np.testing.assert_array_equal(kept[1:], true[1:])
    assert kept.max() - kept.min() <= true.max() - true.min()


def test_a_long_tail_is_no_fill():
    rng = np.random.default_rng(0)
    uptake = rng.lognormal(0, 2.5, (20, 32, 32)).astype(np.float32) * 1000  # as of a PET
    assert without_fill(uptake) is uptake


def test_hot_voxel(tmp_path):
    voxels = hounsfield().astype(np.float32)
    voxels[3, 3, 3] = 3e7
    study = read_study(nifti(tmp_path / "a.nii", voxels))
    assert to_int16(study.voxels).slope == 1
    assert study.voxels.max() == 700


@pytest.mark.parametrize("padding", [-2000, -3024, -32_768])
def test_no_intercept_padding(tmp_path, padding):
    voxels = hounsfield() + 1024
    voxels[outside()] = padding
    assert code_of(nifti(tmp_path / "a.nii", voxels), unit="HU") == "not_hu"


@pytest.mark.parametrize("codec", ["native", "rle", "jpeg", "j2k", "jls"])
def test_overlay_bits(tmp_path, codec):
    clean = body(64).astype(np.uint16)
    dirty = clean.copy()
    dirty[20:24, 10:50] |= 1 << 15
    dirty[40:44, 10:50] |= 1 << 12
    dataset = ct_slice(clean, 0, BitsStored=12)
    save(encoded(dataset, dirty, codec), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_study(tmp_path / "a.dcm").voxels[0], clean - 1024.0)


@pytest.mark.parametrize("codec", ["native", "rle"])
def test_unused_bits_of_signed_pixels(tmp_path, codec):
    clean = body(64) - 1024
    dirty = (clean & 0xFFF).astype(np.int16)  # 13 bits of two's complement, cut at 12
    dirty[20:24] |= 1 << 13
    dataset = ct_slice(clean, 0, BitsStored=13, RescaleIntercept=0)
    dirty = np.where(clean < 0, dirty | (1 << 12), dirty).astype(np.int16)
    save(encoded(dataset, dirty, codec), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_study(tmp_path / "a.dcm").voxels[0], clean)


@pytest.mark.parametrize("stored, high", [(12, 15), (12, 13), (10, 15), (8, 11)])
def test_high_bit(tmp_path, stored, high):
    dataset = ct_slice((body() << 4).astype(np.uint16), 0, BitsStored=stored)
    dataset.HighBit = high
    assert code_of(save(dataset, tmp_path / "a.dcm")) == "unknown_encoding"


@pytest.mark.parametrize("vr, value, limit", [("US", 63_536, None), ("SS", -2000, None),
                                              ("US", 63_000, 63_536)])  # fmt: skip
def test_padding_us(tmp_path, vr, value, limit):
    def padded(k):
        stored = body(seed=k) - 1024
        stored[outside()] = -2000
        return stored

    slices(tmp_path / "a", stored=padded, RescaleIntercept=0)
    for path in (tmp_path / "a").iterdir():
        import pydicom

        dataset = pydicom.dcmread(path)
        dataset.add_new(0x00280120, vr, value)
        if limit is not None:
            dataset.add_new(0x00280121, vr, limit)
        save(dataset, path)
    study = read_study(tmp_path / "a")
    assert study.voxels.min() == -1024
    assert study.unit == "HU"


def shown(tmp_path, stored: np.ndarray, **tags) -> float:
    """The middle of a radiograph as it is read: near 3500 where tissue is bright."""
    path = save(radiograph(stored.astype(np.uint16), **tags), tmp_path / "a.dcm")
    return float(np.median(read_study(path).voxels[0, 40:56, 30:50]))


@pytest.mark.parametrize(
    "photometric, shape, inverted",
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_lut_shape(tmp_path, photometric, shape, inverted):
    stored = 4095 - chest() if inverted else chest()
    tags = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape}
    assert abs(shown(tmp_path, stored, **tags) - 3500) < 10


def test_air_bright(tmp_path):
    raw = {"PresentationIntentType": "FOR PROCESSING", "PixelIntensityRelationshipSign": 1}
    assert abs(shown(tmp_path, 4095 - chest(), **raw) - 3500) < 10
    for keyword in ("VOILUTSequence", "PresentationLUTSequence"):
        table = Dataset()
        table.LUTDescriptor = [4096, 0, 12]
        table.add_new(0x00283006, "OW", np.arange(4095, -1, -1).astype(np.uint16).tobytes())
        assert abs(shown(tmp_path, 4095 - chest(), **{keyword: [table]}) - 3500) < 10


def test_slice_defects(tmp_path):
    blank = slices(tmp_path / "blank", stored=lambda k: body(seed=k) * (k != 2))
    shifted = slices(tmp_path / "shifted", RescaleIntercept=lambda k: 0 if k == 3 else -1024)
    same = slices(tmp_path / "same", stored=lambda k: body())
    assert (code_of(blank), code_of(shifted)) == ("bad_slice", "bad_slice")
    assert told(read_study(same)) == ["same_slices"]
    first = slices(tmp_path / "first", RescaleIntercept=lambda k: 0 if k == 0 else -1024)
    assert code_of(first) == "bad_slice"


# ---- geometry


def test_sform_qform(tmp_path):
    for axis in range(3):
        mirrored = np.eye(4)
        mirrored[axis, axis] = -1
        path = nifti(tmp_path / f"{axis}.nii", hounsfield(), qform=mirrored)
        assert code_of(path) == "contradictory"
    assert code_of(nifti(tmp_path / "agree.nii", hounsfield())) is None


@pytest.mark.parametrize("pixdim", [(0.7, 0.7, 2.5), (1, 1, 2.5), (1.1, 1, 1)])
def test_pixdim_sform(tmp_path, pixdim):
    path = nifti(tmp_path / "a.nii", hounsfield(), qcode=0, pixdim=pixdim)
    assert code_of(path) == "contradictory"


@pytest.mark.parametrize("units, zoom", [(3, 1.0), (1, 1.0), (2, 0.001), (2, 40.0)])
def test_microns(tmp_path, units, zoom):
    n = 300 if zoom > 1 else 12
    voxels = np.random.default_rng(0).integers(-1000, 400, (n, 8, 8)).astype(np.int16)
    path = nifti(tmp_path / "a.nii", voxels, units=units, sform=np.diag([zoom, zoom, zoom, 1]))
    assert code_of(path) == "bad_spacing"


@pytest.mark.parametrize(
    "unit, mm", [("mm", 2), ("m", 0.002), ("um", 2000), ("cm", 0.2), ("", 2), ("micron", 2000)]
)
def test_nrrd_units(tmp_path, unit, mm):
    assert read_study(nrrd(tmp_path / "a.nrrd", hounsfield(), unit, mm)).spacing_mm == (2, 2, 2)
    assert code_of(nrrd(tmp_path / "b.nrrd", hounsfield(), "furlong", 2)) == "bad_spacing"


@pytest.mark.parametrize(
    "extra",
    [
        "".join(f"Seq_Frame{n:04d}_Status = OK\n" for n in range(250)),
        f"Comment = {'x' * 6000}\n",
        f"PatientHistory = {'y' * 100_000}\n",
        "",
    ],
    ids=["many lines", "long comment", "long line of its own", "plain"],
)
def test_mha_header(tmp_path, extra):
    voxels = hounsfield().T
    study = read_study(meta_image(tmp_path / "a.mha", voxels, extra))
    np.testing.assert_array_equal(study.voxels, voxels)


@pytest.mark.parametrize("size", [200, 1, -1, 5000])
def test_mha_header_size(tmp_path, size):
    path = meta_image(tmp_path / "a.mha", hounsfield().T, f"HeaderSize = {size}\n", bytes(8000))
    assert code_of(path) == "corrupt"


@pytest.mark.parametrize("mm, decimals", [(0.625, 1), (1.25, 1), (0.75, 1), (3.75, 1), (0.33, 1)])
@pytest.mark.parametrize("stated", [True, False])
def test_rounded_positions(tmp_path, mm, decimals, stated):
    def place(k):
        return [0, 0, round(k * mm + 1e-9, decimals)]

    folder = slices(
        tmp_path / "a",
        40,
        ImagePositionPatient=place,
        SliceThickness=mm if stated else None,
    )
    spacing = read_study(folder).spacing_mm[0]
    assert spacing == pytest.approx(mm, rel=1e-6 if stated else 2e-3)
    assert rounded_places(np.array([place(k)[2] + 0.3 * (k == 7) for k in range(40)])) is None


# ---- series


@pytest.mark.parametrize(
    "keyword, values",
    [
        ("AcquisitionNumber", (1, 2)),
        ("AcquisitionTime", ("100000", "110000")),
        ("TemporalPositionIdentifier", (1, 2)),
        ("EchoNumbers", (1, 2)),
        ("StackID", ("1", "2")),
    ],
)
def test_two_phases(tmp_path, keyword, values):
    late = slices(
        tmp_path / "late",
        8,
        stored=lambda k: body(seed=k) + 200 * (k % 2),
        **{keyword: lambda k: values[k % 2]},
    )
    assert code_of(late) == "several_phases"
    once = slices(tmp_path / "once", 8, **{keyword: lambda k: values[k // 4]})
    assert code_of(once) is None  # one after the other along the body


@pytest.mark.parametrize("keyword", ["PatientID", "PatientBirthDate", "StudyInstanceUID"])
def test_two_patients(tmp_path, keyword):
    values = ("19500101", "19600101") if "Date" in keyword else ("1.2", "1.3")
    folder = slices(tmp_path / "a", **{keyword: lambda k: values[k // 3]})
    assert code_of(folder) == "several_series"


def enhanced(path, count=6, **content):
    """An enhanced CT; `content` are functions of k, of the frame's content."""

    def item(**tags):
        found = Dataset()
        for name, value in tags.items():
            setattr(found, name, value)
        return found

    dataset = ct_slice(np.stack([body(seed=k) for k in range(count)]), 0)
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2 * k])],
            FrameContentSequence=[item(**{name: of(k) for name, of in content.items()})],
        )
        for k in range(count)
    ]
    return save(dataset, path)


def test_enhanced_stacks(tmp_path):
    assert code_of(enhanced(tmp_path / "a.dcm")) is None
    for name, of in (("StackID", str), ("TemporalPositionIndex", int)):
        path = enhanced(tmp_path / f"{name}.dcm", **{name: lambda k, of=of: of(1 + k % 2)})
        assert code_of(path) == "several_phases"


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", "notes", "IM0001.jpg"])
def test_stray_file(tmp_path, name):
    folder = slices(tmp_path / "a")
    (folder / name).write_bytes(b"\xd0\xcf\x11\xe0" * 200)
    study = read_study(folder)
    assert (len(study.voxels), told(study)) == (6, ["stray_files"])
    (folder / "03.dcm").write_bytes(b"cut off")  # a slice that was lost is no stray
    assert code_of(folder) == "not_an_image"


# ---- masks of pictures


def test_picture_nifti_mask(tmp_path):
    study = read_study(png(tmp_path / "a.png", ramp()))
    mask = (labels() > 0).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(png(tmp_path / "m.png", mask), like=study)[0], mask)
    nib.save(nib.Nifti1Image(mask.T[..., None], np.eye(4)), tmp_path / "m.nii")
    with pytest.raises(Refused, match="mask_grid"):
        read_mask(tmp_path / "m.nii", like=study)


@pytest.mark.parametrize("turn", range(2, 9))
def test_exif_mask(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = np.full((64, 64), 40, np.uint8)
    pixels[8:24, 8:24] = 220
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    study = read_study(tmp_path / "a.jpg")
    with pytest.raises(Refused, match="mask_grid"):
        read_mask(png(tmp_path / "m.png", pixels // 200), like=study)
    Image.fromarray(pixels // 200).save(tmp_path / "n.png", exif=exif)
    mask = read_mask(tmp_path / "n.png", like=study)
    assert study.voxels[mask == 1].min() > 180


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_low_bit_masks(tmp_path, bits):
    study = read_study(png(tmp_path / "a.png", ramp()))
    values = labels() % (1 << bits)
    mask = read_mask(low_bit_png(tmp_path / "m.png", values, bits), like=study)
    np.testing.assert_array_equal(mask[0], values)


def test_palette_masks(tmp_path):
    study = read_study(png(tmp_path / "a.png", ramp()))
    picture = Image.fromarray(labels(), "P")
    picture.putpalette([255, 0, 0, 9, 9, 9, 0, 0, 0, 7, 7, 7])
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", like=study)[0], labels())


def test_devices_and_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero", "/dev/null", "/dev/stdin"):
        assert code_of(path) in ("not_an_image", "not_found")
