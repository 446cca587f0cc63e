import csv

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from mmv_jax.bac.sources import Entry, list_entries, read_mammogram
from mmv_jax.errors import UserError
from mmv_jax.phantom.files import MammogramTags, write_dx, write_mg, write_png
from mmv_jax.readers.refused import Refused

IMAGE = np.random.default_rng(0).integers(0, 4096, (60, 41)).astype(np.uint16)


@pytest.fixture
def mg(tmp_path):
    """Writes one mammogram, changed by a function of its data set; returns its path."""

    def write(change=lambda ds: None, **options):
        path = tmp_path / "image.dcm"
        write_mg(
            path,
            IMAGE,
            0.1,
            MammogramTags("study-LCC", "woman-1", "L", "CC", 61),
            **{"magnification": 1.0, "inverted": False, **options},
        )
        ds = pydicom.dcmread(path)
        change(ds)
        ds.save_as(path)
        return path

    return write


def test_a_screening_view_counts_and_says_whose_it_is(mg):
    mammogram = read_mammogram(Entry(1, mg()))
    assert (mammogram.side, mammogram.view, mammogram.patient_id, mammogram.remark) == (
        "L",
        "CC",
        "woman-1",
        "",
    )
    assert mammogram.spacing_mm == (0.1, 0.1)
    assert "woman-1" not in repr(mammogram)


def test_an_inverted_view_is_read_with_tissue_bright(mg):
    np.testing.assert_array_equal(
        read_mammogram(Entry(1, mg(inverted=True))).study.voxels[0], IMAGE
    )


def test_the_imagers_pixel_is_divided_by_the_magnification(mg):
    assert read_mammogram(Entry(1, mg(magnification=1.04))).spacing_mm == pytest.approx(
        (0.1 / 1.04, 0.1 / 1.04)
    )


def magnified(ds):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = (
        "R-102D6",
        "SRT",
        "Magnification",
    )
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = [item]


def without_spacing(ds):
    del ds.PixelSpacing, ds.ImagerPixelSpacing


def without_view(ds):
    del ds.ViewPosition, ds.ViewCodeSequence


def without_side(ds):
    del ds.ImageLaterality


def spaced(*spacing):
    def change(ds):
        ds.PixelSpacing = ds.ImagerPixelSpacing = list(spacing)

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (magnified, "magnification"),
        (spaced(25, 25), "a size that no mammogram has"),  # µm
        (spaced(0.1, 0.2), "a size that no mammogram has"),
        (lambda ds: setattr(ds, "SeriesDescription", "R MLO"), "the other side"),
        (lambda ds: setattr(ds, "EstimatedRadiographicMagnificationFactor", 1.8), "magnification"),
        (lambda ds: setattr(ds, "BreastImplantPresent", "YES"), "implant"),
        (lambda ds: setattr(ds, "PresentationIntentType", "FOR PROCESSING"), "FOR PROCESSING"),
        (without_spacing, "spacing_mm"),
        (without_view, "neither CC nor MLO"),
        (without_side, "laterality"),
    ],
)
def test_what_does_not_count_says_why(mg, change, words):
    assert words in read_mammogram(Entry(1, mg(change))).remark


@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
def test_the_date_of_acr_nema_is_read_as_that_of_dicom(mg):
    path = mg(lambda ds: setattr(ds, "StudyDate", "2019.05.31"))
    assert read_mammogram(Entry(1, path)).date == "20190531"


def test_a_whole_image_in_cm_has_no_size_of_a_mammogram(tmp_path):
    Image.fromarray(np.zeros((1024, 16), np.uint8) + np.arange(16, dtype=np.uint8)).save(
        tmp_path / "long.png"
    )
    said = {"view": "CC", "laterality": "L"}
    for spacing_mm, counts in ((0.1, True), (0.01, False), (0.9, False)):
        entry = Entry(1, tmp_path / "long.png", "w", spacing_mm, said)
        assert (read_mammogram(entry).remark == "") == counts


def test_a_manifest_gives_what_a_scanned_film_does_not_say(mg):
    path = mg(lambda ds: (without_spacing(ds), without_view(ds), without_side(ds)))
    entry = Entry(1, path, "w", 0.05, {"view": "MLO", "laterality": "RIGHT"})
    mammogram = read_mammogram(entry)
    assert (mammogram.side, mammogram.view, mammogram.patient_id, mammogram.remark) == (
        "R",
        "MLO",
        "w",
        "",
    )
    assert mammogram.spacing_mm == (0.05, 0.05)


def test_a_manifest_that_contradicts_the_file_is_refused(mg):
    with pytest.raises(Refused, match="laterality"):
        read_mammogram(Entry(1, mg(), "w", None, {"laterality": "R"}))


def test_other_images_are_refused(tmp_path):
    write_dx(tmp_path / "chest.dcm", IMAGE, 0.14, study="s", patient="p", sex="F", inverted=False)
    with pytest.raises(Refused, match="not a mammogram"):
        read_mammogram(Entry(1, tmp_path / "chest.dcm"))


def test_files_and_manifests_are_numbered_in_their_order(mg, tmp_path):
    write_png(tmp_path / "view.png", IMAGE)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "study_id",
                "path",
                "patient_id",
                "split",
                "modality",
                "spacing_mm",
                "view",
                "laterality",
            ]
        )
        writer.writerow(["a", "view.png", "w", "test", "MG", "0.08", "cc", "l"])
        writer.writerow(["b", "view.png", "w", "test", "CXR", "0.08", "", ""])
        writer.writerow(["c", "view.png", "u", "train", "MG", "0.08", "", ""])
        writer.writerow(["d", "view.png", "v", "test", "MG", "none", "", ""])
    entries, refused = list_entries([mg(), tmp_path / "list.csv"], splits=("test",))
    assert [(entry.number, entry.spacing_mm) for entry in entries] == [(1, None), (2, 0.08)]
    assert [number for number, _ in refused] == [5]
    mammogram = read_mammogram(entries[1])
    assert (mammogram.side, mammogram.view, mammogram.spacing_mm, mammogram.remark) == (
        "L",
        "CC",
        (0.08, 0.08),
        "",
    )


def test_what_is_not_there_is_told_by_its_number(mg, tmp_path):
    with pytest.raises(UserError, match="number 2 is not a file") as told:
        list_entries([mg(), tmp_path / "Doe_Jane.dcm"])
    assert "Doe" not in str(told.value)


def test_a_file_that_is_gone_or_whose_header_is_broken_is_refused(mg, tmp_path):
    with pytest.raises(Refused, match="no such file"):
        read_mammogram(Entry(1, tmp_path / "gone.dcm"))
    content = mg().read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(132, 1500, 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "damaged.dcm").write_bytes(damaged)
        try:
            read_mammogram(Entry(1, tmp_path / "damaged.dcm"))
        except Refused:
            refused += 1
    assert refused > 0  # and nothing else was raised
