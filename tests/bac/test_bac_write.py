import csv

import numpy as np
import pydicom
import pytest

from mmv_jax.bac.measure import ViewResult, WomanResult
from mmv_jax.bac.write import (
    GAP,
    MUSCLE_COLOUR,
    overlay,
    write_segmentation,
    write_table,
    write_views,
)
from mmv_jax.phantom.files import MammogramTags, write_mg

NAN = float("nan")


@pytest.fixture
def mammogram(tmp_path):
    image = np.random.default_rng(0).integers(0, 4096, (60, 41)).astype(np.uint16)
    path = tmp_path / "image.dcm"
    write_mg(
        path,
        image,
        0.1,
        MammogramTags("study-LCC", "woman-1", "L", "CC", 61),
        magnification=1.0,
        inverted=False,
    )
    return path


def test_a_segmentation_gives_back_its_mask_and_refers_to_its_mammogram(mammogram, tmp_path):
    mask = np.random.default_rng(1).random((60, 41)) < 0.1
    assert write_segmentation(tmp_path / "seg.dcm", mammogram, mask)
    found, image = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(mammogram)
    np.testing.assert_array_equal(found.pixel_array.reshape(mask.shape) > 0, mask)
    source = (
        found.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    )
    assert source.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert found.PatientID == image.PatientID
    assert found.StudyInstanceUID == image.StudyInstanceUID
    assert found.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


def test_nothing_is_no_segmentation(mammogram, tmp_path):
    assert not write_segmentation(tmp_path / "seg.dcm", mammogram, np.zeros((60, 41), bool))
    assert not (tmp_path / "seg.dcm").exists()


def test_an_overlay_draws_a_line_around_calcium_and_leaves_the_calcium_to_be_seen():
    voxels = np.random.default_rng(0).integers(0, 4096, (50, 40)).astype(np.uint16)
    mask = np.zeros((50, 40), bool)
    mask[25, 20] = True
    plain, marked = np.split(np.asarray(overlay(voxels, mask, np.zeros_like(mask))), 2, axis=1)
    changed = (plain != marked).any(axis=-1)
    assert changed.any()
    rows, columns = np.nonzero(changed)
    assert (np.abs(rows - 25) + np.abs(columns - 20) == GAP + 1).all()


def test_a_single_pixel_of_a_large_view_is_not_lost_in_its_overlay():
    mask = np.zeros((5000, 300), bool)
    mask[2501, 151] = True
    picture = np.asarray(overlay(np.zeros(mask.shape, np.uint16), mask, np.zeros_like(mask)))
    assert (picture.max(axis=-1) > picture.min(axis=-1)).any()


def test_an_overlay_draws_the_edge_of_the_muscle_and_not_the_border_of_the_image():
    muscle = np.add.outer(np.arange(50), np.arange(40)) < 20
    picture = np.asarray(overlay(np.zeros((50, 40), np.uint16), np.zeros((50, 40), bool), muscle))
    rows, columns = np.nonzero((picture[:, 40:] == MUSCLE_COLOUR).all(axis=-1))
    assert len(rows) and (rows + columns >= 18).all() and muscle[rows, columns].all()


def test_the_tables_have_their_columns_and_no_area_where_it_is_unknown(tmp_path):
    views = [
        ViewResult(1, "aa", "L", "CC", "", (0.1, 0.1), 250, 2.5, 2.5),
        ViewResult(2, "aa", "R", "CC", "the pixel spacing is not known", (NAN, NAN), 7, NAN, 0.0),
    ]
    write_views(tmp_path / "views.csv", views)
    write_table(tmp_path / "women.csv", [WomanResult("aa", 2, NAN, "")], WomanResult)
    first, second = csv.DictReader((tmp_path / "views.csv").read_text().splitlines())
    assert list(first) == [
        "number",
        "woman",
        "side",
        "view",
        "counted",
        "remark",
        "pixel_mm_y",
        "pixel_mm_x",
        "pixels",
        "area_mm2",
    ]
    assert (first["counted"], first["area_mm2"], first["pixel_mm_y"]) == (
        "yes",
        "2.5000",
        "0.100000",
    )
    assert (second["counted"], second["area_mm2"], second["pixel_mm_y"], second["pixels"]) == (
        "no",
        "",
        "",
        "7",
    )
    (woman,) = csv.DictReader((tmp_path / "women.csv").read_text().splitlines())
    assert woman == {"woman": "aa", "views": "2", "area_mm2": "", "severity": ""}
