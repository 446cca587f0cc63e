"""Files that hold more than their header says, or say one thing twice: frames and slices behind the
declared ones, animations, exchanged bytes, spacings, sizes, units and letters of one header.
"""

import gzip

import imagecodecs
import numpy as np
import pytest
from dicom_files import radiograph, save
from made import body, chest, encoded, hounsfield, meta_image, nifti, nrrd, slices
from PIL import Image
from pydicom.encaps import encapsulate
from test_case_files import code_of, told

from mmv_jax.readers.odd_bytes import odd_bytes
from mmv_jax.readers.read import read_study

VOXELS = hounsfield()
PLANES = np.ascontiguousarray(VOXELS.T)


# ---- more than the header says


@pytest.mark.parametrize("more", ["a slice", "as much again"])
@pytest.mark.parametrize("kind", ["nii", "nii.gz", "mha", "nrrd"])
def test_voxels_behind_the_declared_ones_are_refused(tmp_path, kind, more):
    path = tmp_path / f"a.{kind.removesuffix('.gz')}"
    makers = {"mha": lambda: meta_image(path, PLANES), "nrrd": lambda: nrrd(path, VOXELS, "mm", 1)}
    makers.get(kind, lambda: nifti(path, VOXELS))()
    whole = path.read_bytes()
    assert told(read_study(path, unit="HU")) == []
    path.write_bytes(whole + b"\0" * (PLANES[0].nbytes if more == "a slice" else PLANES.nbytes))
    if kind.endswith("gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert code_of(path, unit="HU") == "contradictory"
    if kind != "nrrd":  # its library takes no byte more
        # A few bytes, as old programs fill a block.
        path.write_bytes(whole + b"\0" * 100)
        assert told(read_study(path, unit="HU")) == []


def test_frames_that_are_not_counted_are_refused(tmp_path):
    frames = np.stack([body(48, seed=k) for k in range(3)]).astype(np.uint16)
    dataset = radiograph(frames[0])
    dataset.PixelData = frames.tobytes()
    assert code_of(save(dataset, tmp_path / "a.dcm")) == "contradictory"
    dataset = encoded(radiograph(frames[0]), frames[0], "jls")
    assert told(read_study(save(dataset, tmp_path / "b.dcm"))) == []
    one = imagecodecs.jpegls_encode(frames[0])
    dataset.PixelData = encapsulate([one, one, one], has_bot=True)
    assert code_of(save(dataset, tmp_path / "c.dcm")) == "contradictory"


def test_an_animation_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert code_of(tmp_path / "a.png") == "bad_shape"
    frames[0].save(tmp_path / "b.png")
    assert told(read_study(tmp_path / "b.png")) == []


# ---- bytes of another machine


def test_exchanged_bytes_are_told(tmp_path):
    smooth = (chest() * 16.0 + np.mgrid[:96, :80][0]).astype(np.uint16)
    for name, pixels, codes in (
        ("right", smooth, []),
        ("exchanged", smooth.byteswap(), ["byte_order"]),
        ("noise", np.random.default_rng(0).integers(0, 65535, (96, 80), np.uint16), []),
        ("eight bits", (smooth // 256).astype(np.uint16), []),
        ("eight bits, spread", (smooth // 256 * 256).astype(np.uint16), []),
    ):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        found = [code for code, _ in odd_bytes(read_study(tmp_path / "a.png"))]
        assert found == codes, name


def test_a_dark_corner_with_a_mark_says_nothing_of_bytes(tmp_path):
    film = np.full((1200, 800), 4, np.uint16)
    film[::7, ::7] += 1
    film[40:60, 40:200:4] = 3600  # strokes of a label
    film[500:] = 1000 + 2 * np.mgrid[:700, :800][1]
    for pixels, codes in ((film, []), (film.byteswap(), ["byte_order"])):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert [code for code, _ in odd_bytes(read_study(tmp_path / "a.png"))] == codes


def test_a_series_with_exchanged_bytes_is_told(tmp_path):
    exchanged = slices(tmp_path / "a", stored=lambda k: body(48, k).byteswap())
    assert [code for code, _ in odd_bytes(read_study(exchanged))] == ["byte_order"]
    assert odd_bytes(read_study(slices(tmp_path / "b", stored=lambda k: body(48, k)))) == ()


# ---- one header says a thing twice


@pytest.mark.parametrize(
    "line, code",
    [
        ("AnatomicalOrientation = RAI", ""), ("AnatomicalOrientation = LPS", ""),
        ("AnatomicalOrientation = ???", ""), ("AnatomicalOrientation = RAF", ""),
        ("AnatomicalOrientation = LAI", "contradictory"),
        ("AnatomicalOrientation = RSA", "contradictory"),
        ("ElementSize = 1 1 1", ""), ("ElementSize = 2 2 5", "contradictory"),
        ("DistanceUnits = mm", ""), ("DistanceUnits = um", "bad_spacing"),
        ("DistanceUnits = parsec", "bad_spacing"), ("ElementSpacing = -1 1 1", "bad_spacing"),
        ("ElementSpacing = 0 1 1", "bad_spacing"),
    ],
)  # fmt: skip
def test_lines_of_a_meta_image(tmp_path, line, code):
    path = meta_image(tmp_path / "a.mha", PLANES, f"{line}\n")
    if code:
        assert code_of(path, unit="HU") == code
    else:
        assert told(read_study(path, unit="HU")) == []


def test_centimetres_of_a_meta_image_are_ten_millimetres(tmp_path):
    extra = "ElementSpacing = 0.1 0.1 0.2\nDistanceUnits = cm\n"
    study = read_study(meta_image(tmp_path / "a.mha", PLANES, extra), unit="HU")
    np.testing.assert_allclose(study.spacing_mm, (2, 1, 1))


@pytest.mark.parametrize("spacings, code", [("1 1 1", ""), ("3 3 3", "contradictory")])
def test_spacings_of_an_nrrd_beside_its_directions(tmp_path, spacings, code):
    path = nrrd(tmp_path / "a.nrrd", VOXELS, "mm", 1)
    path.write_bytes(path.read_bytes().replace(b"kinds:", f"spacings: {spacings}\nkinds:".encode()))
    assert (code_of(path, unit="HU") if code else read_study(path, unit="HU").unit) == (
        code or "HU"
    )


@pytest.mark.parametrize("kind", ["US", "HU_MOD", "Z_EFF", "MGML"])
def test_a_ct_that_is_not_in_hu_is_told(tmp_path, kind):
    study = read_study(slices(tmp_path / "a", RescaleType=kind))
    assert (study.unit, told(study)) == ("raw", ["not_hu"])
    # Where the manifest says so, it is known.
    assert told(read_study(slices(tmp_path / "b", RescaleType=kind), unit="keV")) == []
    assert told(read_study(slices(tmp_path / "c", Modality="PT", RescaleType=kind))) == []
