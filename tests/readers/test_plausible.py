"""Inputs that are whole and wrong: fill, contradictions, mixed series, turned masks, odd cells."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom.dataset import Dataset

from mmv_jax.manifests.listing import write_manifest_of
from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.manifests.published import age_in_years
from mmv_jax.readers.image import check_slices, without_fill
from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.series import check_phases, rounded_places
from mmv_jax.readers.values import _as_pixel, is_shown_inverted


def body() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(40, 20, (12, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("fill", [-(2.0**31), -1e9, -3.4e38, 3.4e38])
def test_fill_costs_the_body_nothing(fill):
    voxels = body()
    voxels[:2] = fill
    kept = without_fill(voxels)
    np.testing.assert_array_equal(kept[2:], voxels[2:])
    assert kept[:2].min() == kept[:2].max() == voxels[2:].min()
    assert without_fill(body()).max() == body().max()


def test_a_hot_voxel_is_no_fill():
    voxels = body()
    voxels[3, 3, 3] = 3e7
    assert without_fill(voxels)[3, 3, 3] == np.sort(voxels.ravel())[-2]


def test_slices_that_are_no_part_of_a_volume():
    blank, shifted = body(), body()
    blank[4] = 0
    shifted[:] = shifted[0]
    assert check_slices(shifted, 0, "HU")[0][0] == "same_slices"
    shifted[6] += 1024
    for voxels in (blank, shifted):
        with pytest.raises(Refused, match="bad_slice"):
            check_slices(voxels, 0, "HU")
    assert check_slices(body(), 0, "HU") == ()


def nifti(path: Path, spacing: float = 1.0, *, flip: bool = False, pixdim: float = 0.0) -> Path:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    image = nib.Nifti1Image(body(), affine)
    image.set_sform(np.diag([-1.0, 1, 1, 1]) @ affine if flip else affine, 1)
    image.set_qform(affine, 1)
    if pixdim:
        image.set_qform(None, 0)
        image.header["pixdim"][1:4] = pixdim
    nib.save(image, path)
    return path


def test_statements_of_one_header_are_held_against_each_other(tmp_path):
    assert read_study(nifti(tmp_path / "a.nii")).voxels.shape == (12, 12, 12)
    for wrong in ({"flip": True}, {"pixdim": 2.5}):
        with pytest.raises(Refused, match="contradictory"):
            read_study(nifti(tmp_path / "b.nii", **wrong))
    with pytest.raises(Refused, match="bad_spacing"):
        read_study(nifti(tmp_path / "c.nii", 0.001))


def test_phases_that_take_turns_are_no_volume():
    check_phases("AcquisitionNumber", ["1"] * 5 + ["2"] * 5)  # one after the other
    check_phases("AcquisitionTime", [str(n) for n in range(10)])
    with pytest.raises(Refused, match="several_phases"):
        check_phases("AcquisitionNumber", ["1", "2"] * 5)


def test_rounded_positions_are_even():
    heights = np.round(np.arange(40) * 0.625 + 1e-9, 1)
    assert rounded_places(heights) == list(range(40))
    heights[7] += 0.3
    assert rounded_places(heights) is None


def test_tables_that_invert_and_padding_in_the_pixels_sign():
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 1
    dataset.BitsAllocated = 16
    assert not is_shown_inverted(dataset)
    assert (_as_pixel(dataset, 63536.0), _as_pixel(dataset, -2000.0)) == (-2000, -2000)
    dataset.PresentationLUTShape = "INVERSE"
    assert is_shown_inverted(dataset)
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.PixelIntensityRelationshipSign = 1
    assert not is_shown_inverted(dataset)  # what is said of presentation outweighs the sign
    del dataset.PresentationLUTShape
    assert is_shown_inverted(dataset)


def picture(path: Path, pixels: np.ndarray, **options) -> Path:
    Pillow.fromarray(pixels).save(path, **options)
    return path


def test_colour_that_is_legible_is_refused_however_small(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 200, (300, 300, 1)).repeat(3, -1).astype(np.uint8)
    pixels[5:10, 5:9] = (255, 0, 0)
    with pytest.raises(Refused, match="colour"):
        read_study(picture(tmp_path / "a.png", pixels))


def test_a_mask_is_turned_as_its_picture_is(tmp_path):
    pixels = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48).astype(np.uint8)
    study = read_study(picture(tmp_path / "a.png", pixels))
    labels = (np.arange(64 * 48).reshape(64, 48) % 4).astype(np.uint8)
    picture(tmp_path / "m.png", labels)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", like=study)[0], labels)
    exif = Pillow.Exif()
    exif[0x0112] = 3
    turned = read_study(picture(tmp_path / "b.jpg", pixels, exif=exif))
    with pytest.raises(Refused, match="mask_grid"):
        read_mask(tmp_path / "m.png", like=turned)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(Refused, match="not_an_image"):
        read_study(tmp_path / "pipe.png")


HEAD = "study_id,path,patient_id,split,modality"


def test_manifests_as_spreadsheets_write_them(tmp_path):
    out = tmp_path / "m.csv"
    out.write_text(f"{HEAD},Unit,has_mask\na,a.png,007,train,CT,hu,1\n".replace(",", ";"), "utf-16")
    ((line,), refused) = read_manifest(out)
    assert (line.unit, line.labels, line.masks, refused) == ("HU", {"has_mask": "1"}, {}, [])
    out.write_text(f"{HEAD}\na,a.png,007,train,CT\nb,b.png,7,test,CT\nc,c\0.png,8,test,CT\n")
    lines, refused = read_manifest(out)
    codes = [(one.number, one.code) for one in refused]
    assert lines == []
    assert codes == [(2, "patient_across_splits"), (3, "patient_across_splits"), (4, "not_found")]


def test_a_folder_of_nnunet_and_what_is_left_out(tmp_path):
    root, said = tmp_path / "data", []
    for folder, name in (("imagesTr", "c1_0000.nii"), ("labelsTr", "c1.nii"), ("x", "1.2.7.nii")):
        (root / folder).mkdir(parents=True)
        nifti(root / folder / name)
    nifti(root / "x" / "1.2.7_seg.nii")
    (root / "x" / "more.zip").write_bytes(b"PK")
    assert write_manifest_of("folder", root, tmp_path / "m.csv", said.append) == 2
    masks = {line.study_id: set(line.masks) for line in read_manifest(tmp_path / "m.csv").lines}
    assert masks == {"imagesTr/c1_0000.nii": {"region"}, "x/1.2.7.nii": {"region"}}
    assert "Left out: 1 .zip files." in said


def test_ages():
    assert [age_in_years(text) for text in ("058Y", "018M", "414Y", "")] == ["58", "1.5", "", ""]
