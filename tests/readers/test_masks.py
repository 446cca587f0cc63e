"""Masks on the grid of their study: the same order of axes, whole numbers, and nothing that lies
elsewhere.
"""

import imagecodecs
import nibabel as nib
import numpy as np
import pytest
from dicom_files import radiograph, save
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from scipy import ndimage
from test_volume import VOXELS, nifti, turned, write

from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.readers.refused import Refused
from mmv_jax.study import Study

LABELS = (VOXELS > 500).astype(np.uint8) + (VOXELS > 1500)


@pytest.fixture
def study(tmp_path):
    return read_study(write(nifti(), tmp_path / "study"))


def code_of(path, study) -> str:
    with pytest.raises(Refused) as refused:
        read_mask(path, like=study)
    return refused.value.code


@pytest.mark.parametrize(
    "order, flips",
    [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))],
    ids=["as the study", "turned"],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_a_mask_lands_on_its_study_whatever_its_own_order(tmp_path, study, order, flips, dtype):
    mask = read_mask(
        write(turned(nifti(LABELS.astype(dtype)), order, flips), tmp_path / "mask"), like=study
    )
    assert np.array_equal(mask, LABELS)
    assert mask.dtype == np.int16


def test_an_empty_mask_is_a_mask(tmp_path, study):
    assert not read_mask(write(nifti(np.zeros_like(LABELS)), tmp_path / "mask"), like=study).any()


def moved(by: float) -> nib.Nifti1Image:
    image = nifti(LABELS)
    affine = image.affine.copy()
    affine[2, 3] += by
    return nib.Nifti1Image(np.asarray(image.dataobj), affine)


def test_a_mask_of_another_grid_is_refused(tmp_path, study):
    assert code_of(write(nifti(LABELS[1:]), tmp_path / "shape"), study) == "mask_grid"
    assert code_of(write(moved(5), tmp_path / "place"), study) == "mask_grid"
    # Half a voxel, as from corners to centres, and a tenth, as by rounding.
    half = study.spacing_mm[0] / 2
    assert code_of(write(moved(half), tmp_path / "half"), study) == "mask_grid"
    assert (read_mask(write(moved(half / 5), tmp_path / "tenth"), like=study) == LABELS).all()
    wide = nib.Nifti1Image(LABELS.transpose(), nifti().affine @ np.diag([1.5, 1, 1, 1]))
    assert code_of(write(wide, tmp_path / "spacing"), study) == "mask_grid"


def test_a_large_and_nearly_empty_mask_is_no_bomb(tmp_path):
    """80 MiB of zeros shrink a thousand times: a study like this would be refused by its ratio, a
    mask is known by its study's size.
    """
    voxels = np.zeros((320, 512, 512), np.uint8)
    voxels[0, 0] = 1
    path = write(nib.Nifti1Image(voxels.transpose(), np.diag([-1, -1, 1, 1])), tmp_path / "mask.gz")
    with pytest.raises(Refused, match="too_large"):
        read_study(path)
    like = Study(voxels, (1.0, 1.0, 1.0), 3, "raw")
    assert read_mask(path, like=like).sum() == 512
    assert code_of(path, Study(voxels[:319], (1.0, 1.0, 1.0), 3, "raw")) == "mask_grid"


@pytest.mark.parametrize("value", [-1, 40_000, 0.5, np.nan, np.inf])
def test_labels_out_of_range_are_refused(tmp_path, study, value):
    labels = LABELS.astype(np.float32)
    labels[0, 0, 0] = value
    assert code_of(write(nifti(labels), tmp_path / "mask"), study) == "mask_values"


@pytest.mark.parametrize("top", [100, 255])
def test_a_map_of_probabilities_is_no_mask(tmp_path, top):
    voxels = np.random.default_rng(0).integers(0, 900, (12, 32, 32)).astype(np.int16)
    study = read_study(write(nifti(voxels), tmp_path / "study"))
    inside = np.zeros(voxels.shape)
    inside[3:8, 4:14, 8:20] = 1
    soft = (top * ndimage.gaussian_filter(inside, 1)).astype(np.uint8)
    assert code_of(write(nifti(soft), tmp_path / "soft"), study) == "mask_values"
    organs = (inside * (1 + np.arange(12)[:, None, None] // 2 * 2 + np.arange(32) // 10)).astype(
        np.uint8
    )
    read = read_mask(write(nifti(organs), tmp_path / "organs"), like=study)
    assert len(np.unique(read)) > 6 and np.array_equal(read, organs)


def test_what_is_refused_says_what_a_mask_should_be(tmp_path, study):
    grey = picture(tmp_path, "study.png", np.arange(42, dtype=np.uint8).reshape(6, 7))
    red = picture(
        tmp_path, "red.png", np.eye(6, 7, dtype=np.uint8)[..., None] * np.uint8([200, 0, 0])
    )
    with pytest.raises(Refused, match="as grey values, or with a palette"):
        read_mask(red, like=read_study(grey))
    one_hot = nib.Nifti1Image(np.stack([LABELS.transpose()] * 2, axis=-1), nifti().affine)
    with pytest.raises(Refused, match="one channel a label, write one map of labels"):
        read_mask(write(one_hot, tmp_path / "one_hot"), like=study)
    z, y, x = LABELS.shape
    with pytest.raises(Refused, match=f"{z - 1}.*its study.*{z}.*in any order"):
        read_mask(write(nifti(LABELS[1:]), tmp_path / "cut"), like=study)


def picture(tmp_path, name: str, data: np.ndarray, mode: str | None = None):
    image = Image.fromarray(data)
    if mode == "P":
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)  # labels shown in colours
    image.save(tmp_path / name)
    return tmp_path / name


def test_the_indices_of_a_palette_are_the_labels(tmp_path):
    grey = np.arange(42, dtype=np.uint8).reshape(6, 7)
    study = read_study(picture(tmp_path, "study.png", grey))
    for mode in (None, "P"):
        assert np.array_equal(
            read_mask(picture(tmp_path, "mask.png", grey % 3, mode), like=study)[0], grey % 3
        )


def test_a_picture_of_another_size_and_a_lossy_one_are_refused(tmp_path):
    grey = np.arange(42, dtype=np.uint8).reshape(6, 7)
    study = read_study(picture(tmp_path, "study.png", grey))
    assert code_of(picture(tmp_path, "mask.png", grey[:5]), study) == "mask_grid"
    assert code_of(picture(tmp_path, "mask.jpg", grey), study) == "lossy_mask"


@pytest.mark.parametrize("before", [False, True], ids=["in a lossy syntax", "in one before"])
def test_a_mask_as_dicom_is_refused_where_it_lost(tmp_path, before):
    labels = np.repeat(np.arange(4, dtype=np.uint8), 64).reshape(16, 16)
    study = read_study(picture(tmp_path, "study.png", labels * 60))
    dataset = radiograph(labels, BitsStored=8)
    assert np.array_equal(read_mask(save(dataset, tmp_path / "mask.dcm"), like=study)[0], labels)
    if before:
        dataset.LossyImageCompression = "01"
    else:
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PixelData = encapsulate([imagecodecs.jpeg8_encode(labels, level=95)])
        dataset["PixelData"].is_undefined_length = True
    assert code_of(save(dataset, tmp_path / "lossy.dcm"), study) == "lossy_mask"


def test_the_real_masks(real_data):
    for manifest, names in (
        ("cxr_seg", {"anatomy", "findings"}),
        ("ct", {"organ", "vessel"}),
        ("lidc", {"nodule"}),
    ):
        lines = [line for line in read_manifest(real_data / f"{manifest}.csv").lines if line.masks][
            :3
        ]
        for line in lines:
            study = read_study(line.path, spacing_mm=line.spacing_mm, unit=line.unit)
            assert set(line.masks) <= names
            for path in line.masks.values():
                mask = read_mask(path, like=study)
                assert mask.shape == study.voxels.shape


def test_the_right_lung_is_on_the_side_that_shows_it(real_data):
    """The right lung lies left in a frontal picture; x of a volume grows to the patient's left,
    from the liver to the spleen.
    """
    line = read_manifest(real_data / "cxr_seg.csv").lines[0]
    mask = read_mask(line.masks["anatomy"], like=read_study(line.path))[0]
    assert np.nonzero(mask == 2)[1].mean() < np.nonzero(mask == 1)[1].mean()
    line = next(line for line in read_manifest(real_data / "ct.csv").lines if "organ" in line.masks)
    mask = read_mask(line.masks["organ"], like=read_study(line.path))
    spleen, liver = (np.argwhere(mask == label).mean(axis=0) for label in (1, 5))
    assert spleen[2] > liver[2]
